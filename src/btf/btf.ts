/**
 * BTF, the BPF type format: reads it, whole or split upon a base, and gives its types by id and by name. The data is
 * not trusted: it is checked as a kernel checks it before it takes it (validate.ts), so that nothing behind `parse` can
 * go in circles or outside.
 *
 * Format: Linux documentation, "BPF Type Format (BTF)"; linux/btf.h.
 */

import { BpfError } from '../kernel/errno.js';
import { NameIndex } from './name_index.js';
import { type RawBtf, readRawBtf } from './raw.js';
import { spellType } from './spelling.js';
import { BtfTable } from './table.js';
import {
  type BtfEnumValue,
  type BtfKind,
  type BtfMember,
  type BtfParam,
  type BtfSectionVar,
  type BtfType,
  INT_ENCODING,
  isModifierKind,
  KIND,
  KINDS,
  kindOfInfo,
  LINKAGES,
} from './types.js';
import { validateTypes } from './validate.js';

export type * from './types.js';

export interface ParseOptions {
  /** What split BTF continues: ids and names of the base come first. */
  readonly base?: Btf;
  /** What the data is of, for errors: a file's name. */
  readonly name?: string;
  /**
   * Types of programs of any language, which nobody hands to a kernel: names may be anything, members may be in any
   * order and of types that are only declared. Ids, offsets, loops and sizes are checked all the same.
   */
  readonly relaxed?: boolean;
  /**
   * The running kernel's own types: it checks, or makes, what it shows. Only the layout of the data is checked, which is
   * ten times as fast: it has more than a hundred thousand types.
   */
  readonly trusted?: boolean;
}

const VOID: BtfType = { kind: 'void' };

/** Types by id: 1 to `typeCount`, 0 is void. */
export class Btf {
  readonly #table: BtfTable;
  readonly base: Btf | undefined;
  /** What it is of, for errors. */
  readonly label: string;
  readonly #types: (BtfType | undefined)[] = [];
  #names: NameIndex | undefined;

  private constructor(table: BtfTable, base: Btf | undefined, label: string) {
    this.#table = table;
    this.base = base;
    this.label = label;
  }

  /** Throws EINVAL with what is wrong, where the data is damaged. The bytes must not change afterwards. */
  static parse(bytes: Uint8Array, options: ParseOptions = {}): Btf {
    const label = options.name ?? 'BTF';
    const base = options.base ? options.base.#table : undefined;
    const raw = readRawBtf(bytes, label, base ? base.typeCount + 1 : 1, base ? base.namesEnd : 0);
    const table = new BtfTable(raw, base);
    if (!options.trusted) validateTypes(table, options.relaxed ?? false);
    return new Btf(table, options.base, label);
  }

  /** The data itself, as sections; not to be changed. */
  get raw(): RawBtf {
    return this.#table.raw;
  }

  /** The highest id; split BTF counts its base's too. */
  get typeCount(): number {
    return this.#table.typeCount;
  }

  /** The lowest id that is not the base's. */
  get firstId(): number {
    return this.#table.raw.firstId;
  }

  /** Behind the last byte of the names, those of the base too. */
  get namesEnd(): number {
    return this.#table.namesEnd;
  }

  /** Throws EINVAL for an id that there is not. */
  type(id: number): BtfType {
    if (id === 0) return VOID;
    this.#check(id);
    if (id < this.firstId) return this.base!.type(id);
    const index = id - this.firstId;
    const known = this.#types[index];
    if (known) return known;
    const type = this.#decode(id);
    this.#types[index] = type;
    return type;
  }

  /** The kind without the rest of the type. */
  kindOf(id: number): BtfKind {
    this.#check(id);
    return KINDS[this.#table.kind(id)];
  }

  /**
   * The type that a pointer, a qualifier, a typedef, a function or a variable refers to, and the result of a prototype;
   * nothing is decoded for it.
   */
  referred(id: number): number {
    this.#check(id);
    const kind = this.#table.kind(id);
    const refers =
      kind === KIND.PTR ||
      kind === KIND.FUNC ||
      kind === KIND.FUNC_PROTO ||
      kind === KIND.VAR ||
      isModifierKind(kind);
    return refers ? this.#table.third(id) : 0;
  }

  /** Types of the parameters of a prototype, without their names; empty for another type. */
  paramTypes(id: number): number[] {
    this.#check(id);
    const types: number[] = [];
    if (this.#table.kind(id) !== KIND.FUNC_PROTO) return types;
    const count = this.#table.count(id);
    for (let index = 0; index < count; index++) types.push(this.#table.word(id, 4 + 2 * index));
    return types;
  }

  /** The lowest id of a name, of one kind where it is given. */
  find(name: string, kind?: BtfKind): number | undefined {
    const inBase = this.base?.find(name, kind);
    if (inBase !== undefined) return inBase;
    for (const id of this.#nameIndex().find(name))
      if (kind === undefined || this.kindOf(id) === kind) return id;
    return undefined;
  }

  /** Every id of a name, lowest first. */
  findAll(name: string): number[] {
    return [...(this.base?.findAll(name) ?? []), ...this.#nameIndex().find(name)];
  }

  /** Calls `found` with the id of each function that is not the base's, and where its name's bytes are. */
  eachFunction(found: (id: number, names: Uint8Array, start: number, end: number) => void): void {
    const { words, starts, strings, firstId, firstName } = this.#table.raw;
    for (let index = 0; index < starts.length; index++) {
      const at = starts[index];
      if (kindOfInfo(words[at + 1]) !== KIND.FUNC) continue;
      const inBase = words[at] < firstName;
      const names = inBase ? this.#table.nameBytes(words[at]) : strings;
      const start = inBase ? 0 : words[at] - firstName;
      let end = start;
      while (end < names.length && names[end] !== 0) end++;
      found(firstId + index, names, start, end);
    }
  }

  /** Every id of a name that is not the base's, lowest first. */
  findOwn(name: string): number[] {
    return this.#nameIndex().find(name);
  }

  /** Every id whose name is `name`, or `name` with a flavor (`name___flavor`); what CO-RE calls the essential name. */
  findEssential(name: string): number[] {
    return [...(this.base?.findEssential(name) ?? []), ...this.#nameIndex().findEssential(name)];
  }

  /** The type behind typedefs, qualifiers and type tags. */
  resolve(id: number): number {
    this.#check(id);
    return this.#table.resolve(id);
  }

  /** Bytes of a value. Throws EINVAL for types that have none: void, functions, structs that are only declared. */
  sizeOf(id: number): number {
    this.#check(id);
    const size = this.#table.sizeOf(id);
    if (size >= 0) return size;
    throw new BpfError('EINVAL', `${this.label}: type ${id} (${this.typeName(id)}) has no size`);
  }

  /** Empty for a type without a name. */
  name(id: number): string {
    this.#check(id);
    return id === 0 ? '' : this.#table.name(this.#table.word(id, 0));
  }

  /** A name or other text by its offset: `.BTF.ext` has such. Throws EINVAL outside. */
  nameAt(offset: number): string {
    if (offset < this.#table.namesEnd) return this.#table.name(offset);
    throw new BpfError(
      'EINVAL',
      `${this.label} has no name at ${offset}: it has ${this.#table.namesEnd} bytes of names`,
    );
  }

  /** The type as C writes it where no name is declared: `const struct task *`, `int (*)(void *)`. */
  typeName(id: number): string {
    this.#check(id);
    return spellType(this, id, '');
  }

  #check(id: number): void {
    if (id < 0 || id > this.#table.typeCount || !Number.isInteger(id))
      throw new BpfError(
        'EINVAL',
        `${this.label} has types 1 to ${this.#table.typeCount}, there is no type ${id}`,
      );
  }

  #nameIndex(): NameIndex {
    this.#names ??= new NameIndex(this.#table);
    return this.#names;
  }

  #decode(id: number): BtfType {
    const table = this.#table;
    const number = table.kind(id);
    const third = table.third(id);
    const text = table.name(table.word(id, 0));
    const named = text === '' ? {} : { name: text };
    switch (number) {
      case KIND.INT: {
        const word = table.word(id, 3);
        const encoding = word >>> 24;
        return {
          kind: 'int',
          ...named,
          size: third,
          bits: word & 0xff,
          offset: (word >>> 16) & 0xff,
          encoding: {
            signed: (encoding & INT_ENCODING.SIGNED) !== 0,
            char: (encoding & INT_ENCODING.CHAR) !== 0,
            bool: (encoding & INT_ENCODING.BOOL) !== 0,
          },
        };
      }
      case KIND.PTR:
        return { kind: 'ptr', type: third };
      case KIND.ARRAY:
        return {
          kind: 'array',
          type: table.word(id, 3),
          indexType: table.word(id, 4),
          nelems: table.word(id, 5),
        };
      case KIND.STRUCT:
      case KIND.UNION:
        return {
          kind: number === KIND.STRUCT ? 'struct' : 'union',
          ...named,
          size: third,
          members: this.#members(id),
        };
      case KIND.ENUM:
      case KIND.ENUM64: {
        const signed = table.info(id) >>> 31 === 1;
        return {
          kind: number === KIND.ENUM ? 'enum' : 'enum64',
          ...named,
          size: third,
          signed,
          values: this.#enumValues(id, number === KIND.ENUM64, signed),
        };
      }
      case KIND.FWD:
        return { kind: 'fwd', ...named, of: table.info(id) >>> 31 === 1 ? 'union' : 'struct' };
      case KIND.FUNC:
        return { kind: 'func', ...named, type: third, linkage: LINKAGES[table.count(id)] };
      case KIND.FUNC_PROTO:
        return { kind: 'func_proto', returnType: third, params: this.#params(id) };
      case KIND.VAR:
        return { kind: 'var', ...named, type: third, linkage: LINKAGES[table.word(id, 3)] };
      case KIND.DATASEC:
        return { kind: 'datasec', ...named, size: third, vars: this.#sectionVars(id) };
      case KIND.FLOAT:
        return { kind: 'float', ...named, size: third };
      case KIND.DECL_TAG:
        return { kind: 'decl_tag', ...named, tag: text, type: third, component: table.word(id, 3) | 0 };
      default:
        return {
          kind: KINDS[number] as 'typedef' | 'volatile' | 'const' | 'restrict' | 'type_tag',
          ...named,
          type: third,
        };
    }
  }

  #members(id: number): BtfMember[] {
    const table = this.#table;
    const withBits = table.info(id) >>> 31 === 1;
    return Array.from({ length: table.count(id) }, (_, index) => {
      const name = table.name(table.word(id, 3 + 3 * index));
      const type = table.word(id, 4 + 3 * index);
      const offset = table.word(id, 5 + 3 * index);
      if (withBits) return { name, type, bitOffset: offset & 0xff_ffff, bitSize: offset >>> 24 };
      // The older form: the int itself says which of its bits are the value.
      const int = table.resolve(type);
      if (table.kind(int) !== KIND.INT) return { name, type, bitOffset: offset, bitSize: 0 };
      const word = table.word(int, 3);
      const shift = (word >>> 16) & 0xff;
      const bits = word & 0xff;
      const isBitfield = shift !== 0 || bits !== table.third(int) * 8 || offset % 8 !== 0;
      return { name, type, bitOffset: offset + shift, bitSize: isBitfield ? bits : 0 };
    });
  }

  #enumValues(id: number, wide: boolean, signed: boolean): BtfEnumValue[] {
    const table = this.#table;
    const step = wide ? 3 : 2;
    return Array.from({ length: table.count(id) }, (_, index) => {
      const at = 3 + step * index;
      const low = table.word(id, at + 1);
      let value: bigint;
      if (wide) {
        value = (BigInt(table.word(id, at + 2)) << 32n) | BigInt(low);
        if (signed) value = BigInt.asIntN(64, value);
      } else value = BigInt(signed ? low | 0 : low);
      return { name: table.name(table.word(id, at)), value };
    });
  }

  #params(id: number): BtfParam[] {
    const table = this.#table;
    return Array.from({ length: table.count(id) }, (_, index) => ({
      name: table.name(table.word(id, 3 + 2 * index)),
      type: table.word(id, 4 + 2 * index),
    }));
  }

  #sectionVars(id: number): BtfSectionVar[] {
    const table = this.#table;
    return Array.from({ length: table.count(id) }, (_, index) => ({
      type: table.word(id, 3 + 3 * index),
      offset: table.word(id, 4 + 3 * index),
      size: table.word(id, 5 + 3 * index),
    }));
  }
}
