/**
 * Finds types by name: a chained hash over the names' bytes, as in tables of symbols (gABI chapter 5, "Hash Table").
 * It is built once, makes no strings, and does not care how long the names of a hostile file are.
 */

import type { BtfTable } from './table.js';

/** Bytes of a name that are hashed; longer names only meet in one chain. */
const HASHED_BYTES = 256;
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** Separates a type's name from its flavor in CO-RE: `task_struct___old` means `task_struct`. */
const FLAVOR = '___';
const UNDERSCORE = 0x5f;

/** Names that are looked for are written here, unless they are longer than any real one. */
const scratch = Buffer.alloc(1024);

export class NameIndex {
  readonly #table: BtfTable;
  /** By hash: index + 1 of the first type of a chain; by index: the next one. Lowest id first. */
  readonly #heads: Int32Array;
  readonly #next: Int32Array;
  /** The same for essential names, of those types alone whose name has a flavor. */
  readonly #flavored = new Map<string, number[]>();

  constructor(table: BtfTable) {
    this.#table = table;
    const { starts, words, firstId, firstName, strings } = table.raw;
    this.#heads = new Int32Array(2 ** Math.ceil(Math.log2(starts.length + 2)));
    this.#next = new Int32Array(starts.length);
    for (let index = starts.length - 1; index >= 0; index--) {
      const offset = words[starts[index]];
      if (offset === 0) continue;
      const inBase = offset < firstName;
      const bytes = inBase ? table.nameBytes(offset) : strings;
      const start = inBase ? 0 : offset - firstName;
      // One pass over the name, as in hashOf: a kernel has a hundred thousand.
      const limit = Math.min(bytes.length, start + HASHED_BYTES);
      let hash = FNV_OFFSET;
      let underscores = 0;
      let mayHaveFlavor = false;
      for (let at = start; at < limit; at++) {
        const byte = bytes[at];
        if (byte === 0) break;
        hash = Math.imul(hash ^ byte, FNV_PRIME);
        if (byte === UNDERSCORE) underscores++;
        else {
          if (underscores === FLAVOR.length) mayHaveFlavor = true;
          underscores = 0;
        }
      }
      const slot = this.#slot(mixed(hash));
      this.#next[index] = this.#heads[slot];
      this.#heads[slot] = index + 1;
      const length = mayHaveFlavor ? essentialLength(bytes, start) : 0;
      if (length > 0)
        this.#addFlavored(Buffer.from(bytes.subarray(start, start + length)).toString(), firstId + index);
    }
  }

  #slot(hash: number): number {
    return hash & (this.#heads.length - 1);
  }

  #addFlavored(name: string, id: number): void {
    const ids = this.#flavored.get(name);
    if (ids) ids.push(id);
    else this.#flavored.set(name, [id]);
  }

  /** Ids whose name is exactly this, lowest first. */
  find(name: string): number[] {
    const found: number[] = [];
    if (name === '' || name.includes('\0')) return found;
    const most = 3 * name.length + 1;
    const wanted = most <= scratch.length ? scratch : Buffer.alloc(most);
    const length = wanted.write(name);
    wanted[length] = 0;
    const { starts, words, firstId, firstName, strings } = this.#table.raw;
    for (let at = this.#heads[this.#slot(hashOf(wanted, 0))]; at !== 0; at = this.#next[at - 1]) {
      const offset = words[starts[at - 1]];
      const inBase = offset < firstName;
      const bytes = inBase ? this.#table.nameBytes(offset) : strings;
      if (isNamed(bytes, inBase ? 0 : offset - firstName, wanted, length, inBase))
        found.push(firstId + at - 1);
    }
    return found;
  }

  /** Ids whose name without its flavor is this, lowest first. */
  findEssential(name: string): number[] {
    const flavored = this.#flavored.get(name);
    return flavored ? [...this.find(name), ...flavored].sort((a, b) => a - b) : this.find(name);
  }
}

/** The name without its flavor. */
export function essentialName(name: string): string {
  const bytes = Buffer.from(name);
  const length = essentialLength(bytes, 0);
  return length > 0 ? bytes.toString('utf8', 0, length) : name;
}

/** FNV-1a over a name's first bytes, up to its zero or the end of the array. */
function hashOf(bytes: Uint8Array, start: number): number {
  let hash = FNV_OFFSET;
  const end = Math.min(bytes.length, start + HASHED_BYTES);
  for (let at = start; at < end && bytes[at] !== 0; at++) hash = Math.imul(hash ^ bytes[at], FNV_PRIME);
  return mixed(hash);
}

/** The upper bits count too in a table that is indexed by the lower ones. */
function mixed(hash: number): number {
  return (hash ^ (hash >>> 15)) >>> 0;
}

/** The name at `start` is the first `length` bytes of `wanted`; a name that is an array of its own has no zero behind it. */
function isNamed(
  bytes: Uint8Array,
  start: number,
  wanted: Uint8Array,
  length: number,
  unterminated: boolean,
): boolean {
  if (unterminated ? bytes.length !== length : bytes[start + length] !== 0) return false;
  for (let i = 0; i < length; i++) if (bytes[start + i] !== wanted[i]) return false;
  return true;
}

/**
 * Bytes before the last `___` that has a name on both sides without an underscore next to it; 0 where there is none.
 * Only names of a usual length can have a flavor.
 */
function essentialLength(bytes: Uint8Array, start: number): number {
  let end = start;
  const limit = Math.min(bytes.length, start + HASHED_BYTES);
  while (end < limit && bytes[end] !== 0) end++;
  for (let at = end - FLAVOR.length - 1; at > start; at--)
    if (
      bytes[at] === UNDERSCORE &&
      bytes[at + 1] === UNDERSCORE &&
      bytes[at + 2] === UNDERSCORE &&
      bytes[at - 1] !== UNDERSCORE &&
      bytes[at + 3] !== UNDERSCORE
    )
      return at - start;
  return 0;
}
