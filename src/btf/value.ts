/**
 * Values of BTF types as JavaScript values, and back:
 *
 * - integers and bitfields of up to 32 bits are numbers, wider ones bigints; bool is boolean; floats are numbers
 * - enums are the value's name, or the number where it has none
 * - pointers are bigints
 * - `char[]` that holds printable text and a zero behind it is a string, other `char[]` are bytes; arrays are arrays
 * - structs are objects by member name, with the members of anonymous members among their own; a union is an object of
 *   all its members, each read from the same bytes
 */

import { BpfError } from '../kernel/errno.js';
import { readBits, readFloat } from './bits.js';
import type { Btf } from './btf.js';
import type { BtfArray, BtfComposite, BtfEnum, BtfInt, BtfMember } from './types.js';

export { encodeValue } from './encode.js';
export { formatValue } from './format_value.js';

export type BtfValue =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | null
  | BtfValue[]
  | { [member: string]: BtfValue };

/** Values within a value that one call may take, besides some for every byte: a hostile type has endless empty ones. */
const FREE_VALUES = 4096;
const VALUES_PER_BYTE = 8;

/** Counts the parts of a value, so that no type makes more than its bytes justify. */
export class PartBudget {
  #left: number;
  readonly #what: string;

  constructor(bytes: number, what: string) {
    this.#left = FREE_VALUES + bytes * VALUES_PER_BYTE;
    this.#what = what;
  }

  take(): void {
    if (this.#left-- <= 0)
      throw new BpfError(
        'E2BIG',
        `${this.#what} has more parts than its size has room for; its type is damaged`,
      );
  }
}

/** The value in `bytes`, which must have the type's size at least. Throws EINVAL where they have not. */
export function decodeValue(btf: Btf, id: number, bytes: Uint8Array): BtfValue {
  const size = btf.sizeOf(id);
  if (bytes.length < size)
    throw new BpfError('EINVAL', `${btf.typeName(id)} has ${size} bytes, there are only ${bytes.length}`);
  return new Decoder(btf, new PartBudget(size, btf.typeName(id))).value(id, bytes.subarray(0, size));
}

/** char, whose arrays are text. Compilers disagree on whether the encoding says so. */
export function isChar(btf: Btf, id: number): boolean {
  const type = btf.type(btf.resolve(id));
  return type.kind === 'int' && type.size === 1 && (type.encoding.char || type.name === 'char');
}

/** Whether an int is a boolean: a flag of its encoding, or for some compilers only its name. */
export function isBool(int: BtfInt): boolean {
  return int.encoding.bool || int.name === '_Bool' || int.name === 'bool';
}

/** The text before a zero, where all of it can be printed. */
export function textIn(bytes: Uint8Array): string | undefined {
  const end = bytes.indexOf(0);
  if (end < 0) return undefined;
  for (let index = 0; index < end; index++) if (!isPrintable(bytes[index])) return undefined;
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, end).toString('utf8');
  return text.includes('\ufffd') ? undefined : text;
}

/** Not a control character, but tab and line breaks; bytes of UTF-8 are checked as a whole. */
function isPrintable(byte: number): boolean {
  return (byte >= 0x20 && byte !== 0x7f) || byte === 0x09 || byte === 0x0a || byte === 0x0d;
}

/** The bytes of an integer member or value as a number: its bits, signed where its type is. */
export function integerOf(type: BtfInt | BtfEnum, bytes: Uint8Array, at: number, bits: number): bigint {
  const value = readBits(bytes, at, bits);
  const signed = type.kind === 'int' ? type.encoding.signed : type.signed;
  return signed ? BigInt.asIntN(bits, value) : value;
}

/** A name of an enum's value. */
export function enumName({ values }: BtfEnum, value: bigint): string | undefined {
  return values.find(known => known.value === value)?.name;
}

class Decoder {
  readonly #btf: Btf;
  readonly #budget: PartBudget;

  constructor(btf: Btf, budget: PartBudget) {
    this.#btf = btf;
    this.#budget = budget;
  }

  /** `bytes` are the value's, no more and no less, but for types without a size. */
  value(id: number, bytes: Uint8Array): BtfValue {
    this.#budget.take();
    const type = this.#btf.type(this.#btf.resolve(id));
    switch (type.kind) {
      case 'int':
        return this.#integer(type, bytes, type.offset, type.bits);
      case 'enum':
      case 'enum64':
        return this.#integer(type, bytes, 0, type.size * 8);
      case 'ptr':
        return readBits(bytes, 0, 64);
      case 'float':
        return readFloat(bytes);
      case 'array':
        return this.#array(type, bytes);
      case 'struct':
      case 'union': {
        const object: { [member: string]: BtfValue } = {};
        this.#members(type, bytes, object);
        return object;
      }
      case 'var':
        return this.value(type.type, bytes);
      case 'datasec': {
        const object: { [member: string]: BtfValue } = {};
        for (const { type: id, offset, size } of type.vars)
          define(object, this.#btf.name(id), this.value(id, bytes.subarray(offset, offset + size)));
        return object;
      }
      default:
        // A member of a type that is only declared has no value that could be read.
        return null;
    }
  }

  #integer(type: BtfInt | BtfEnum, bytes: Uint8Array, at: number, bits: number): BtfValue {
    const value = integerOf(type, bytes, at, bits);
    if (type.kind === 'int') {
      if (isBool(type)) return value !== 0n;
      return bits <= 32 ? Number(value) : value;
    }
    return enumName(type, value) ?? (type.size <= 4 ? Number(value) : value);
  }

  #array({ type, nelems }: BtfArray, bytes: Uint8Array): BtfValue {
    if (isChar(this.#btf, type)) return textIn(bytes) ?? Uint8Array.from(bytes);
    const size = this.#btf.sizeOf(type);
    const values: BtfValue[] = [];
    for (let index = 0; index < nelems; index++)
      values.push(this.value(type, bytes.subarray(index * size, (index + 1) * size)));
    return values;
  }

  #members(type: BtfComposite, bytes: Uint8Array, object: { [member: string]: BtfValue }): void {
    for (const member of type.members) {
      if (member.name !== '') {
        define(object, member.name, this.#member(member, bytes));
        continue;
      }
      this.#budget.take();
      const inner = this.#btf.type(this.#btf.resolve(member.type));
      if (inner.kind === 'struct' || inner.kind === 'union')
        this.#members(inner, bytes.subarray(member.bitOffset / 8), object);
    }
  }

  #member({ type: id, bitOffset, bitSize }: BtfMember, bytes: Uint8Array): BtfValue {
    if (bitSize > 0) {
      this.#budget.take();
      const type = this.#btf.type(this.#btf.resolve(id));
      if (type.kind === 'int' || type.kind === 'enum' || type.kind === 'enum64')
        return this.#integer(type, bytes, bitOffset, bitSize);
      return null;
    }
    const start = bitOffset / 8;
    return this.value(id, bytes.subarray(start, start + sizeOrZero(this.#btf, id)));
  }
}

/** 0 for a type without a size, which only relaxed BTF has as a member. */
function sizeOrZero(btf: Btf, id: number): number {
  const kind = btf.kindOf(btf.resolve(id));
  return kind === 'void' || kind === 'fwd' || kind === 'func_proto' ? 0 : btf.sizeOf(id);
}

/** Sets a property of any name: a member may be called `__proto__`. */
export function define(object: { [member: string]: BtfValue }, name: string, value: BtfValue): void {
  Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
}
