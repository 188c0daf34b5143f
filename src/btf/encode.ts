/** JavaScript values as bytes of a BTF type: the inverse of `decodeValue`. */

import { BpfError } from '../kernel/errno.js';
import { writeBits, writeFloat } from './bits.js';
import type { Btf } from './btf.js';
import type { BtfArray, BtfComposite, BtfEnum, BtfInt, BtfMember } from './types.js';
import { type BtfValue, isBool, isChar, PartBudget } from './value.js';

/**
 * The bytes of a value. Members that are left out are zero; integers may be numbers or bigints, signed or not; an
 * enum's value may be its name. Throws EINVAL, naming the member, for what does not fit the type.
 */
export function encodeValue(btf: Btf, id: number, value: BtfValue): Uint8Array {
  const bytes = new Uint8Array(btf.sizeOf(id));
  new Encoder(btf, new PartBudget(bytes.length, btf.typeName(id))).value(id, value, bytes, '');
  return bytes;
}

function refuse(path: string, what: string): never {
  throw new BpfError('EINVAL', `${path === '' ? 'the value' : `member ${path.replace(/^\./, '')}`} ${what}`);
}

function shown(value: BtfValue): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (Array.isArray(value)) return 'an array';
  return value !== null && typeof value === 'object' ? 'an object' : String(value);
}

class Encoder {
  readonly #btf: Btf;
  readonly #budget: PartBudget;

  constructor(btf: Btf, budget: PartBudget) {
    this.#btf = btf;
    this.#budget = budget;
  }

  value(id: number, value: BtfValue, bytes: Uint8Array, path: string): void {
    this.#budget.take();
    const type = this.#btf.type(this.#btf.resolve(id));
    switch (type.kind) {
      case 'int':
        this.#integer(type, value, bytes, type.offset, type.bits, path);
        return;
      case 'enum':
      case 'enum64':
        this.#integer(type, value, bytes, 0, type.size * 8, path);
        return;
      case 'ptr':
        writeBits(bytes, 0, 64, wholeNumber(value, 64, path));
        return;
      case 'float':
        if (typeof value !== 'number') refuse(path, `is a floating-point number, not ${shown(value)}`);
        if (!writeFloat(bytes, value))
          refuse(path, `is a float of ${bytes.length} bytes, which can't be written`);
        return;
      case 'array':
        this.#array(type, value, bytes, path);
        return;
      case 'struct':
      case 'union':
        this.#composite(type, value, bytes, path);
        return;
      case 'var':
        this.value(type.type, value, bytes, path);
        return;
      case 'datasec': {
        const given = membersOf(value, path);
        for (const { type: variable, offset, size } of type.vars) {
          const name = this.#btf.name(variable);
          const own = given.get(name);
          if (own !== undefined)
            this.value(variable, own, bytes.subarray(offset, offset + size), `${path}.${name}`);
          given.delete(name);
        }
        refuseUnknown(given, path, `section ${type.name ?? ''}`);
        return;
      }
      default:
        if (value !== null) refuse(path, `is of type ${this.#btf.typeName(id)}, which has no values`);
    }
  }

  #integer(
    type: BtfInt | BtfEnum,
    value: BtfValue,
    bytes: Uint8Array,
    at: number,
    bits: number,
    path: string,
  ): void {
    if (type.kind !== 'int' && typeof value === 'string') {
      const known = type.values.find(({ name }) => name === value);
      if (!known) refuse(path, `is ${shown(value)}, which enum ${type.name ?? ''} does not have`);
      writeBits(bytes, at, bits, known.value);
      return;
    }
    if (type.kind === 'int' && isBool(type) && typeof value === 'boolean') {
      writeBits(bytes, at, bits, value ? 1n : 0n);
      return;
    }
    writeBits(bytes, at, bits, wholeNumber(value, bits, path));
  }

  #array({ type, nelems }: BtfArray, value: BtfValue, bytes: Uint8Array, path: string): void {
    if (typeof value === 'string' || value instanceof Uint8Array) {
      if (this.#btf.sizeOf(type) !== 1)
        refuse(path, `is an array of ${this.#btf.typeName(type)}, not ${shown(value)}`);
      if (typeof value === 'string' && !isChar(this.#btf, type))
        refuse(path, `is an array of numbers, not ${shown(value)}`);
      const source = typeof value === 'string' ? Buffer.from(`${value}\0`) : value;
      // Bytes may fill the array; text ends with a zero in it.
      if (source.length > nelems) refuse(path, `has room for ${nelems} bytes, and is given ${source.length}`);
      bytes.set(source);
      return;
    }
    if (!Array.isArray(value)) refuse(path, `is an array, not ${shown(value)}`);
    if (value.length > nelems) refuse(path, `has ${nelems} elements, and is given ${value.length}`);
    const size = this.#btf.sizeOf(type);
    for (const [index, element] of value.entries())
      this.value(type, element, bytes.subarray(index * size, (index + 1) * size), `${path}[${index}]`);
  }

  #composite(type: BtfComposite, value: BtfValue, bytes: Uint8Array, path: string): void {
    const given = membersOf(value, path);
    this.#members(type, given, bytes, path);
    refuseUnknown(given, path, `${type.kind} ${type.name ?? '{ … }'}`);
  }

  /** Takes the members that the type has out of `given`. */
  #members(type: BtfComposite, given: Map<string, BtfValue>, bytes: Uint8Array, path: string): void {
    // A union that was decoded has all its members: the largest one, which is the whole of it, is written last.
    const members =
      type.kind === 'union' ? [...type.members].sort((a, b) => this.#bits(a) - this.#bits(b)) : type.members;
    for (const member of members) {
      this.#budget.take();
      const start = Math.floor(member.bitOffset / 8);
      if (member.name === '') {
        const inner = this.#btf.type(this.#btf.resolve(member.type));
        if (inner.kind === 'struct' || inner.kind === 'union')
          this.#members(inner, given, bytes.subarray(start), path);
        continue;
      }
      const own = given.get(member.name);
      if (own === undefined) continue;
      given.delete(member.name);
      this.#member(member, own, bytes, `${path}.${member.name}`);
    }
  }

  #bits({ type, bitSize }: BtfMember): number {
    return bitSize || this.#btf.sizeOf(type) * 8;
  }

  #member(
    { type: id, bitOffset, bitSize }: BtfMember,
    value: BtfValue,
    bytes: Uint8Array,
    path: string,
  ): void {
    if (bitSize > 0) {
      const type = this.#btf.type(this.#btf.resolve(id));
      if (type.kind === 'int' || type.kind === 'enum' || type.kind === 'enum64')
        this.#integer(type, value, bytes, bitOffset, bitSize, path);
      return;
    }
    const start = bitOffset / 8;
    this.value(id, value, bytes.subarray(start, start + this.#btf.sizeOf(id)), path);
  }
}

function membersOf(value: BtfValue, path: string): Map<string, BtfValue> {
  if (value === null || typeof value !== 'object' || Array.isArray(value) || value instanceof Uint8Array)
    refuse(path, `is a struct, not ${shown(value)}; give an object`);
  return new Map(Object.entries(value));
}

function refuseUnknown(left: Map<string, BtfValue>, path: string, type: string): void {
  const [name] = left.keys();
  if (name !== undefined) refuse(`${path}.${name}`, `is not one of ${type}`);
}

/** A whole number that `bits` bits hold, signed or unsigned. */
function wholeNumber(value: BtfValue, bits: number, path: string): bigint {
  if (typeof value === 'boolean') return value ? 1n : 0n;
  if (typeof value !== 'bigint' && !(typeof value === 'number' && Number.isSafeInteger(value)))
    refuse(path, `is a whole number, not ${shown(value)}`);
  const wide = BigInt(value);
  if (BigInt.asUintN(bits, wide) !== wide && BigInt.asIntN(bits, wide) !== wide)
    refuse(path, `has ${bits} bits, which ${wide} does not fit into`);
  return wide;
}
