/**
 * The dynamic table of an ELF file (gABI chapter 5, "Dynamic Section"): what the dynamic linker is told.
 * Only the table itself; the things it points to are read by those who need them.
 */

import { DT_NEEDED, DT_NULL, DYN_SIZE, readU64 } from './format.js';

/** Entries that are read; a program that needs hundreds of libraries has hundreds. */
const MAX_ENTRIES = 65536;

/** Values of the dynamic table by tag. */
export class DynamicTable {
  readonly #values = new Map<number, number>();
  /** Offsets in the dynamic string table of the names of the libraries needed. */
  readonly needed: number[] = [];

  constructor(bytes: Buffer) {
    const end = Math.min(bytes.length, MAX_ENTRIES * DYN_SIZE);
    for (let at = 0; at + DYN_SIZE <= end; at += DYN_SIZE) {
      const tag = readU64(bytes, at);
      if (tag === DT_NULL) break;
      const value = readU64(bytes, at + 8);
      if (tag === DT_NEEDED) this.needed.push(value);
      else this.#values.set(tag, value);
    }
  }

  /** The value of a tag: an address, a size or an offset, as the tag says. */
  get(tag: number): number | undefined {
    return this.#values.get(tag);
  }
}
