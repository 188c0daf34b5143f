/**
 * Bloom filters (BPF_MAP_TYPE_BLOOM_FILTER), the reader's side: the hashes of bloom_code.ts. There are no keys: what is
 * looked up is a value, and what is found may not be there, with a chance that `mapExtra` (the number of hash functions)
 * and the number of entries decide.
 */

import { randomBytes } from 'node:crypto';
import { MAP_FLAG, UPDATE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { Arena } from '../region/arena.js';
import { BLOOM_HASHES, checkSize, type MapAttributes } from './attributes.js';
import { BLOOM, HASH, MAP, padded } from './layout.js';
import { mixKey } from './mix.js';
import { SharedMap } from './shared_map.js';

const MOST_BITS = 2 ** 32;
const FEWEST_BITS = 64;

/** Bits for `entries` values: hashes / ln 2 for each, up to a power of two. */
function bitsFor(entries: number, hashes: number): number {
  const wanted = Math.ceil((entries * hashes * 7) / 5);
  return Math.min(MOST_BITS, Math.max(FEWEST_BITS, 2 ** Math.ceil(Math.log2(wanted))));
}

function hashesOf(attr: MapAttributes): number {
  return Number(attr.mapExtra ?? 0n) || BLOOM_HASHES;
}

export class BloomFilter extends SharedMap {
  private readonly hashes: number;
  private readonly bits: number;
  private readonly seed: bigint;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    const bits = bitsFor(attr.maxEntries, hashesOf(attr));
    super(attr, id, arena, BLOOM.BITS + bits / 8);
    this.hashes = hashesOf(attr);
    this.bits = bits;
    this.seed = (this.flags & MAP_FLAG.ZERO_SEED) === 0 ? randomBytes(8).readBigUInt64LE() : 0n;
    // The value is what is hashed: the machine code finds its size where that of keys is.
    this.header.setUint32(MAP.KEY_SIZE, this.valueSize, true);
    this.header.setUint32(BLOOM.HASHES, this.hashes, true);
    this.header.setBigUint64(HASH.SEED, this.seed, true);
    this.header.setBigUint64(BLOOM.BIT_MASK, BigInt(bits - 1), true);
  }

  /** Whether `value` may have been pushed; false is certain. */
  peek(value: Uint8Array): boolean {
    checkSize('value', this.name, value, this.valueSize);
    this.checkReadable();
    for (const bit of this.bitsOf(value)) {
      if ((Atomics.load(this.bytes, BLOOM.BITS + Math.floor(bit / 8)) & (1 << (bit % 8))) === 0) return false;
    }
    return true;
  }

  /** As bpf(2): what is given is the value, which is returned if it may have been pushed. */
  lookup(value: Uint8Array): Uint8Array | undefined {
    return this.peek(value) ? value.slice() : undefined;
  }

  /** Pushes `value`; the key is empty. */
  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    this.checkValue(value);
    this.checkWritable(flags);
    if (flags !== UPDATE.ANY) {
      throw new BpfError('EINVAL', `Update flags ${flags} are not for bloom filter '${this.name}'; use 0.`);
    }
    for (const bit of this.bitsOf(value)) {
      Atomics.or(this.bytes, BLOOM.BITS + Math.floor(bit / 8), 1 << (bit % 8));
    }
  }

  delete(): void {
    throw this.unsupported('delete a value');
  }

  nextKey(): Uint8Array | undefined {
    throw this.unsupported('list the values');
  }

  override entries(): never {
    throw this.unsupported('list the values');
  }

  private *bitsOf(value: Uint8Array): Iterable<number> {
    const words = new BigUint64Array(padded(value.length) / 8);
    new Uint8Array(words.buffer).set(value);
    const hash = mixKey(this.seed, words, words.length);
    const low = Number(hash & 0xffff_ffffn);
    const high = Number((hash >> 32n) | 1n);
    for (let i = 0; i < this.hashes; i++) yield (low + i * high) % this.bits;
  }
}
