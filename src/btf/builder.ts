/** Writes BTF: types are given as `Btf.type` gives them, and get the next id; equal names are written once. */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import {
  BTF_MAGIC,
  BTF_VERSION,
  type BtfEnumValue,
  type BtfMember,
  type BtfParam,
  type BtfType,
  HEADER_SIZE,
  INT_ENCODING,
  KINDS,
  LINKAGES,
  MAX_NAME_OFFSET,
} from './types.js';

const MAX_COUNT = 0xffff;
/** A bitfield's offset shares a word with its width. */
const MAX_BITFIELD_OFFSET = 0xff_ffff;
const FLAG = 0x8000_0000;

export interface IntOptions {
  readonly signed?: boolean;
  readonly char?: boolean;
  readonly bool?: boolean;
}

export class BtfBuilder {
  readonly #words: number[] = [];
  readonly #names: Buffer[] = [];
  readonly #offsets = new Map<string, number>();
  #namesSize: number;
  #nextId: number;
  readonly #firstName: number;

  /** With a base the types continue its ids: the result is split BTF. */
  constructor(options: { base?: Btf } = {}) {
    this.#nextId = (options.base?.typeCount ?? 0) + 1;
    this.#firstName = options.base?.namesEnd ?? 0;
    this.#namesSize = 0;
    this.#offsets.set('', 0);
    if (!options.base) {
      this.#names.push(Buffer.from([0]));
      this.#namesSize = 1;
    }
  }

  /** The id that the next type gets: types that refer to each other need it. */
  get nextId(): number {
    return this.#nextId;
  }

  /** The offset of a name, which is added where it is new. */
  addName(name: string): number {
    const known = this.#offsets.get(name);
    if (known !== undefined) return known;
    if (name.includes('\0'))
      throw new BpfError('EINVAL', `a name in BTF can't hold a zero byte: ${JSON.stringify(name)}`);
    const offset = this.#firstName + this.#namesSize;
    if (offset > MAX_NAME_OFFSET) throw new BpfError('E2BIG', 'the names are too long for BTF (16 MiB)');
    const bytes = Buffer.from(`${name}\0`);
    this.#names.push(bytes);
    this.#namesSize += bytes.length;
    this.#offsets.set(name, offset);
    return offset;
  }

  addInt(
    name: string,
    size: number,
    { signed = false, char = false, bool = false }: IntOptions = {},
  ): number {
    return this.add({ kind: 'int', name, size, bits: size * 8, offset: 0, encoding: { signed, char, bool } });
  }

  addPtr(type: number): number {
    return this.add({ kind: 'ptr', type });
  }

  addArray(type: number, nelems: number, indexType: number): number {
    return this.add({ kind: 'array', type, nelems, indexType });
  }

  /** Members by their offset in bits. */
  addStruct(name: string, size: number, members: readonly BtfMember[]): number {
    return this.add({ kind: 'struct', name, size, members });
  }

  addUnion(name: string, size: number, members: readonly BtfMember[]): number {
    return this.add({ kind: 'union', name, size, members });
  }

  addEnum(name: string, size: number, values: readonly BtfEnumValue[], signed = false): number {
    return this.add({ kind: size === 8 ? 'enum64' : 'enum', name, size, signed, values });
  }

  addTypedef(name: string, type: number): number {
    return this.add({ kind: 'typedef', name, type });
  }

  addConst(type: number): number {
    return this.add({ kind: 'const', type });
  }

  addFuncProto(returnType: number, params: readonly BtfParam[]): number {
    return this.add({ kind: 'func_proto', returnType, params });
  }

  addFunc(name: string, proto: number, linkage: (typeof LINKAGES)[number] = 'static'): number {
    return this.add({ kind: 'func', name, type: proto, linkage });
  }

  /** Any type. Throws EINVAL for what the format can't hold; whether the types fit each other is checked by `Btf.parse`. */
  add(type: BtfType): number {
    switch (type.kind) {
      case 'void':
        throw new BpfError('EINVAL', 'void is type 0 and is not written');
      case 'int':
        this.#type(type, 0, type.size);
        this.#words.push((encodingBits(type.encoding) << 24) | (type.offset << 16) | type.bits);
        break;
      case 'array':
        this.#type(type, 0, 0);
        this.#words.push(type.type, type.indexType, type.nelems);
        break;
      case 'struct':
      case 'union':
        this.#composite(type);
        break;
      case 'enum':
      case 'enum64':
        this.#type(type, type.values.length, type.size, type.signed);
        for (const { name, value } of type.values) {
          this.#words.push(this.addName(name), Number(BigInt.asUintN(32, value)));
          if (type.kind === 'enum64') this.#words.push(Number(BigInt.asUintN(32, value >> 32n)));
        }
        break;
      case 'fwd':
        this.#type(type, 0, 0, type.of === 'union');
        break;
      case 'func':
        this.#type(type, LINKAGES.indexOf(type.linkage), type.type);
        break;
      case 'func_proto':
        this.#type(type, type.params.length, type.returnType);
        for (const param of type.params) this.#words.push(this.addName(param.name), param.type);
        break;
      case 'var':
        this.#type(type, 0, type.type);
        this.#words.push(LINKAGES.indexOf(type.linkage));
        break;
      case 'datasec':
        this.#type(type, type.vars.length, type.size);
        for (const { type: id, offset, size } of type.vars) this.#words.push(id, offset, size);
        break;
      case 'float':
        this.#type(type, 0, type.size);
        break;
      case 'decl_tag':
        this.#type({ kind: 'decl_tag', name: type.tag }, 0, type.type);
        this.#words.push(type.component);
        break;
      default:
        this.#type(type, 0, type.type);
    }
    return this.#nextId++;
  }

  #type(
    type: { kind: BtfType['kind']; name?: string | undefined },
    count: number,
    third: number,
    flag = false,
  ): void {
    if (count > MAX_COUNT)
      throw new BpfError(
        'EINVAL',
        `${type.kind} ${type.name ?? ''} has ${count} parts; BTF holds ${MAX_COUNT}`,
      );
    const info = (KINDS.indexOf(type.kind) << 24) | count;
    this.#words.push(this.addName(type.name ?? ''), flag ? (info | FLAG) >>> 0 : info, third);
  }

  #composite(type: Extract<BtfType, { kind: 'struct' | 'union' }>): void {
    const withBits = type.members.some(member => member.bitSize > 0);
    this.#type(type, type.members.length, type.size, withBits);
    for (const { name, type: id, bitOffset, bitSize } of type.members) {
      if (withBits && bitOffset > MAX_BITFIELD_OFFSET)
        throw new BpfError(
          'EINVAL',
          `${type.kind} ${type.name ?? ''} has a bitfield and is too large: BTF can't hold it`,
        );
      this.#words.push(this.addName(name), id, withBits ? ((bitSize << 24) | bitOffset) >>> 0 : bitOffset);
    }
  }

  /** The whole data, with its header. */
  build(): Uint8Array {
    const typesSize = this.#words.length * 4;
    const bytes = new Uint8Array(HEADER_SIZE + typesSize + this.#namesSize);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, BTF_MAGIC, true);
    view.setUint8(2, BTF_VERSION);
    for (const [index, value] of [HEADER_SIZE, 0, typesSize, typesSize, this.#namesSize].entries())
      view.setUint32(4 + 4 * index, value, true);
    for (let index = 0; index < this.#words.length; index++)
      view.setUint32(HEADER_SIZE + 4 * index, this.#words[index], true);
    let at = HEADER_SIZE + typesSize;
    for (const name of this.#names) {
      bytes.set(name, at);
      at += name.length;
    }
    return bytes;
  }
}

function encodingBits({ signed, char, bool }: { signed: boolean; char: boolean; bool: boolean }): number {
  return (signed ? INT_ENCODING.SIGNED : 0) | (char ? INT_ENCODING.CHAR : 0) | (bool ? INT_ENCODING.BOOL : 0);
}
