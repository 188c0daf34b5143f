/**
 * The types of BTF data and of its base as one table of words, by id: what validation, look-up and the type objects
 * read from. Nothing here allocates for each type.
 */

import { damagedBtf, type RawBtf } from './raw.js';
import { isModifierKind, KIND, POINTER_SIZE } from './types.js';

/**
 * How often the bytes of names may be decoded on average, and what is free. Names may share bytes; a file in which
 * millions of names overlap would fill the memory.
 */
const MAX_SHARING = 4;
const SMALL_NAMES = 64 * 1024;

export class BtfTable {
  readonly raw: RawBtf;
  readonly base: BtfTable | undefined;
  /** Types of the base and these; ids are 1 to this. */
  readonly typeCount: number;
  /** Behind the last offset that a name can have. */
  readonly namesEnd: number;
  /** Names that were decoded: many members have the same. */
  readonly #decoded = new Map<number, string>();
  #budget: number;

  constructor(raw: RawBtf, base?: BtfTable) {
    this.raw = raw;
    this.base = base;
    this.typeCount = raw.firstId - 1 + raw.starts.length;
    this.namesEnd = raw.firstName + raw.strings.length;
    this.#budget = this.namesEnd * MAX_SHARING + SMALL_NAMES;
  }

  /** The piece that a type is in. */
  #of(id: number): BtfTable {
    let table: BtfTable = this;
    while (id < table.raw.firstId && table.base) table = table.base;
    return table;
  }

  /** A word of a type: 0 its name, 1 its info, 2 its size or type, then what its kind has. `id` must be one. */
  word(id: number, index: number): number {
    const raw = id >= this.raw.firstId ? this.raw : this.#of(id).raw;
    return raw.words[raw.starts[id - raw.firstId] + index];
  }

  info(id: number): number {
    return this.word(id, 1);
  }

  /** A number of `KIND`; void for id 0. */
  kind(id: number): number {
    return id === 0 ? KIND.VOID : (this.info(id) >>> 24) & 0x1f;
  }

  /** How many members, values or parameters it has. */
  count(id: number): number {
    return this.info(id) & 0xffff;
  }

  /** Its size in bytes or the type that it refers to. */
  third(id: number): number {
    return this.word(id, 2);
  }

  /** The bytes of a name, without its zero. */
  nameBytes(offset: number): Uint8Array {
    let table: BtfTable = this;
    while (offset < table.raw.firstName && table.base) table = table.base;
    const { strings, firstName } = table.raw;
    const start = offset - firstName;
    return strings.subarray(start, strings.indexOf(0, start));
  }

  name(offset: number): string {
    if (offset === 0) return '';
    const known = this.#decoded.get(offset);
    if (known !== undefined) return known;
    const bytes = this.nameBytes(offset);
    this.#budget -= bytes.length;
    if (this.#budget < 0) throw damagedBtf(this.raw.label, 'its names overlap');
    const name = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
    this.#decoded.set(offset, name);
    return name;
  }

  /** The type behind typedefs, qualifiers and type tags. */
  resolve(id: number): number {
    let at = id;
    while (at !== 0 && isModifierKind(this.kind(at))) at = this.third(at);
    return at;
  }

  /** Bytes of a value of the type; -1 where it can have none (void, functions, declared structs). */
  sizeOf(id: number): number {
    let at = id;
    let factor = 1;
    for (;;) {
      const kind = this.kind(at);
      switch (kind) {
        case KIND.INT:
        case KIND.STRUCT:
        case KIND.UNION:
        case KIND.ENUM:
        case KIND.ENUM64:
        case KIND.FLOAT:
        case KIND.DATASEC:
          return factor * this.third(at);
        case KIND.PTR:
          return factor * POINTER_SIZE;
        case KIND.ARRAY:
          factor *= this.word(at, 5);
          at = this.word(at, 3);
          break;
        case KIND.VAR:
          at = this.third(at);
          break;
        default:
          if (!isModifierKind(kind)) return -1;
          at = this.third(at);
      }
    }
  }
}
