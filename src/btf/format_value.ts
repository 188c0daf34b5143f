/** Prints a value of a BTF type as C would initialize it: `{ .pid = 42, .comm = "bash", .pos = { .x = 1 } }`. */

import { BpfError } from '../kernel/errno.js';
import { readBits, readFloat } from './bits.js';
import type { Btf } from './btf.js';
import type { BtfArray, BtfComposite, BtfEnum, BtfInt } from './types.js';
import { enumName, integerOf, isBool, isChar, PartBudget, textIn } from './value.js';

export interface FormatValueOptions {
  /** Put on each line of a value of several lines, once for each level; without it everything is on one line. */
  readonly indent?: string;
  /** Leave out members that are zero. */
  readonly skipZero?: boolean;
}

/** Throws EINVAL where there are fewer bytes than the type has. */
export function formatValue(
  btf: Btf,
  id: number,
  bytes: Uint8Array,
  options: FormatValueOptions = {},
): string {
  const size = btf.sizeOf(id);
  if (bytes.length < size)
    throw new BpfError('EINVAL', `${btf.typeName(id)} has ${size} bytes, there are only ${bytes.length}`);
  return new ValuePrinter(btf, options, new PartBudget(size, btf.typeName(id))).print(
    id,
    bytes.subarray(0, size),
    0,
  );
}

class ValuePrinter {
  readonly #btf: Btf;
  readonly #options: FormatValueOptions;
  readonly #budget: PartBudget;

  constructor(btf: Btf, options: FormatValueOptions, budget: PartBudget) {
    this.#btf = btf;
    this.#options = options;
    this.#budget = budget;
  }

  print(id: number, bytes: Uint8Array, level: number): string {
    this.#budget.take();
    const type = this.#btf.type(this.#btf.resolve(id));
    switch (type.kind) {
      case 'int':
        return this.#integer(type, bytes, type.offset, type.bits);
      case 'enum':
      case 'enum64':
        return this.#integer(type, bytes, 0, type.size * 8);
      case 'ptr': {
        const address = readBits(bytes, 0, 64);
        return address === 0n ? 'NULL' : `0x${address.toString(16)}`;
      }
      case 'float':
        return String(readFloat(bytes));
      case 'array':
        return this.#array(type, bytes, level);
      case 'struct':
      case 'union':
        return this.#braced(this.#members(type, bytes, level), level);
      case 'var':
        return this.print(type.type, bytes, level);
      case 'datasec':
        return this.#braced(
          type.vars.map(
            ({ type: variable, offset, size }) =>
              `.${this.#btf.name(variable)} = ${this.print(variable, bytes.subarray(offset, offset + size), level + 1)}`,
          ),
          level,
        );
      default:
        return '{ }';
    }
  }

  #braced(parts: readonly string[], level: number): string {
    if (parts.length === 0) return '{ }';
    const { indent } = this.#options;
    if (indent === undefined) return `{ ${parts.join(', ')} }`;
    const inner = indent.repeat(level + 1);
    return `{\n${parts.map(part => `${inner}${part},\n`).join('')}${indent.repeat(level)}}`;
  }

  #integer(type: BtfInt | BtfEnum, bytes: Uint8Array, at: number, bits: number): string {
    const value = integerOf(type, bytes, at, bits);
    if (type.kind !== 'int') return enumName(type, value) ?? String(value);
    if (isBool(type)) return value !== 0n ? 'true' : 'false';
    const isText = type.size === 1 && (type.encoding.char || type.name === 'char');
    return isText && value >= 0x20n && value < 0x7fn ? charOf(Number(value)) : String(value);
  }

  #array({ type, nelems }: BtfArray, bytes: Uint8Array, level: number): string {
    if (isChar(this.#btf, type)) {
      const text = textIn(bytes);
      if (text !== undefined) return JSON.stringify(text);
    }
    const size = this.#btf.sizeOf(type);
    const element = (index: number) => bytes.subarray(index * size, (index + 1) * size);
    // Zeros at the end are what C fills in by itself.
    const shown = size > 0 ? Math.min(nelems, Math.ceil(usedBytes(bytes) / size)) : nelems;
    const parts: string[] = [];
    for (let index = 0; index < shown; index++) parts.push(this.print(type, element(index), level + 1));
    if (parts.length === 0) return '{ }';
    const kind = this.#btf.kindOf(this.#btf.resolve(type));
    return kind === 'struct' || kind === 'union' ? this.#braced(parts, level) : `{ ${parts.join(', ')} }`;
  }

  #members({ members }: BtfComposite, bytes: Uint8Array, level: number): string[] {
    const parts: string[] = [];
    for (const { name, type: id, bitOffset, bitSize } of members) {
      const type = this.#btf.type(this.#btf.resolve(id));
      const start = Math.floor(bitOffset / 8);
      if (name === '') {
        this.#budget.take();
        if (type.kind === 'struct' || type.kind === 'union')
          parts.push(...this.#members(type, bytes.subarray(start), level));
        continue;
      }
      if (bitSize > 0) {
        if (type.kind !== 'int' && type.kind !== 'enum' && type.kind !== 'enum64') continue;
        this.#budget.take();
        if (this.#options.skipZero && readBits(bytes, bitOffset, bitSize) === 0n) continue;
        parts.push(`.${name} = ${this.#integer(type, bytes, bitOffset, bitSize)}`);
        continue;
      }
      if (type.kind === 'void' || type.kind === 'fwd' || type.kind === 'func_proto') continue;
      const own = bytes.subarray(start, start + this.#btf.sizeOf(id));
      if (this.#options.skipZero && isZero(own)) continue;
      parts.push(`.${name} = ${this.print(id, own, level + 1)}`);
    }
    return parts;
  }
}

/** Bytes up to the last one that is not zero. */
function usedBytes(bytes: Uint8Array): number {
  let used = bytes.length;
  while (used > 0 && bytes[used - 1] === 0) used--;
  return used;
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every(byte => byte === 0);
}

function charOf(code: number): string {
  const char = String.fromCharCode(code);
  return char === "'" || char === '\\' ? `'\\${char}'` : `'${char}'`;
}
