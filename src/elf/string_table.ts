/**
 * A string table of an ELF file (gABI chapter 4, "String Table"): names that end with a zero byte, found by
 * their offset.
 */

import { damaged } from './format.js';

/**
 * How often a table's bytes may be decoded on average. Linkers let a name share the tail of a longer one, so
 * a byte can belong to several names; a table made so that millions of names overlap would fill the memory.
 */
const MAX_SHARING = 4;
const SMALL_TABLE_ALLOWANCE = 64 * 1024;

/** Names by offset. Equal offsets give the same string, which is decoded once. */
export class StringTable {
  readonly #bytes: Buffer;
  readonly #path: string;
  readonly #decoded = new Map<number, string>();
  #budget: number;

  /** `path` names the file in errors. */
  constructor(bytes: Buffer, path: string) {
    this.#bytes = bytes;
    this.#path = path;
    this.#budget = bytes.length * MAX_SHARING + SMALL_TABLE_ALLOWANCE;
  }

  /** The name at `offset`. Throws ENOEXEC when it starts outside the table or does not end in it. */
  at(offset: number): string {
    if (offset === 0) return '';
    const known = this.#decoded.get(offset);
    if (known !== undefined) return known;
    const end = offset < this.#bytes.length ? this.#bytes.indexOf(0, offset) : -1;
    if (end < 0) throw damaged(this.#path, 'a name lies outside its string table');
    this.#budget -= end - offset;
    if (this.#budget < 0) throw damaged(this.#path, 'the names in a string table overlap');
    const name = this.#bytes.toString('utf8', offset, end);
    this.#decoded.set(offset, name);
    return name;
  }
}
