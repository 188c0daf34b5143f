/**
 * Longest-prefix matches (BPF_MAP_TYPE_LPM_TRIE), the reader's side: no trie, but the hash table of prefixes that
 * lpm_code.ts explains. A key is a u32 prefix length and the data, most significant byte first; the bits behind the
 * prefix do not count, and come back as zeros.
 */

import { BpfError } from '../../errno.js';
import type { Arena } from '../region/arena.js';
import type { MapAttributes } from './attributes.js';
import { HashTable } from './hash_table.js';
import { HASH } from './layout.js';

const LENGTH_BYTES = 4;

function lengthBitmapBytes(attr: MapAttributes): number {
  return (Math.floor(((attr.keySize - LENGTH_BYTES) * 8) / 64) + 1) * 8;
}

export class LpmTrie extends HashTable {
  private readonly maxPrefix: number;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    super(attr, id, arena, { nodeValue: attr.valueSize, behindPool: () => lengthBitmapBytes(attr) });
    this.maxPrefix = (this.keySize - LENGTH_BYTES) * 8;
    this.header.setBigUint64(HASH.LENGTHS, BigInt(this.behindPool), true);
    this.header.setUint32(HASH.MAX_PREFIX, this.maxPrefix, true);
  }

  /** The value of the longest prefix that matches. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    this.checkKey(key);
    this.checkReadable();
    const most = this.lengthOf(key);
    if (most > this.maxPrefix) return undefined;
    for (let length = most; length >= 0; length--) {
      if (!this.hasLength(length)) continue;
      const value = this.readNode(this.cut(key, length), first => this.copyWords(first, this.valueSize));
      if (value !== undefined) return value;
    }
    return undefined;
  }

  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    const prefix = this.prefix(key);
    this.checkValue(value);
    this.checkWritable(flags);
    const length = this.lengthOf(key);
    Atomics.or(this.words, this.lengthWord(length), 1n << BigInt(length & 63));
    this.updateNode(prefix, value, flags);
  }

  override delete(key: Uint8Array): void {
    super.delete(this.prefix(key));
  }

  /** In no order; a key that is not in the map begins again. */
  override nextKey(key?: Uint8Array): Uint8Array | undefined {
    return super.nextKey(key === undefined ? undefined : this.prefix(key));
  }

  protected override full(): BpfError {
    return this.error(
      'ENOSPC',
      `Map '${this.name}' is full with ${this.maxEntries} prefixes; delete some, or create it with more.`,
    );
  }

  private lengthOf(key: Uint8Array): number {
    return new DataView(key.buffer, key.byteOffset, LENGTH_BYTES).getUint32(0, true);
  }

  private lengthWord(length: number): number {
    return this.behindPool / 8 + (length >> 6);
  }

  private hasLength(length: number): boolean {
    return (Atomics.load(this.words, this.lengthWord(length)) & (1n << BigInt(length & 63))) !== 0n;
  }

  /** The key that an operation names, with the bits behind its prefix cleared. */
  private prefix(key: Uint8Array): Uint8Array {
    this.checkKey(key);
    const length = this.lengthOf(key);
    if (length > this.maxPrefix) {
      throw new BpfError(
        'EINVAL',
        `A prefix of ${length} bits was given to map '${this.name}', whose keys have ${this.maxPrefix}; shorten it.`,
      );
    }
    return this.cut(key, length);
  }

  private cut(key: Uint8Array, length: number): Uint8Array {
    const cut = key.slice();
    new DataView(cut.buffer).setUint32(0, length, true);
    const byte = LENGTH_BYTES + (length >> 3);
    if (byte < cut.length) cut[byte] = cut[byte]! & (0xff00 >> (length & 7));
    cut.fill(0, byte + 1);
    return cut;
  }
}
