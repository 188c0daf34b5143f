/**
 * Hash maps (BPF_MAP_TYPE_HASH, preallocated), the reader's side: the algorithm of hash_code.ts, where it is
 * explained, on the same memory with the same atomic operations, while programs run. Not for the programs' side.
 */

import { randomBytes } from 'node:crypto';
import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import { BpfError } from '../../errno.js';
import type { Arena, Block } from '../region/arena.js';
import { checkSize, LARGEST_MAP, type MapAttributes } from './attributes.js';
import { HASH, MAP, NODE, padded, WORD } from './layout.js';
import type { BpfMap } from './map.js';
import { mixKey } from './mix.js';

const CACHE_LINE = 64;

/**
 * Nodes for replacements: as many threads can be inside an update of an existing key at once before one of them
 * must borrow a node of the free list. Fewer where nodes are large.
 */
const SPARE_NODES = 128;
const FEWEST_SPARE_NODES = 8;
const SPARE_BYTES = 1 << 20;

const MARK = BigInt(WORD.MARK);
const SPARE = BigInt(WORD.SPARE);
const VERSION_SHIFT = BigInt(WORD.VERSION_SHIFT);

/** Index of the 64-bit word where the node starts that a list word leads to, 0 for none. */
function nodeOf(word: bigint): number {
  return Number(BigInt.asUintN(32, word)) >>> 2;
}

/** The word that follows `word`: the next version, leading to `node`, with `flags`. */
function successor(word: bigint, node: number, flags = 0n): bigint {
  return BigInt.asUintN(64, ((word >> VERSION_SHIFT) + 1n) << VERSION_SHIFT) | BigInt(node * 4) | flags;
}

/** How many nodes a map of these attributes has beyond `maxEntries`. */
function spareNodes(nodeSize: number): number {
  return Math.min(SPARE_NODES, Math.max(FEWEST_SPARE_NODES, Math.floor(SPARE_BYTES / nodeSize)));
}

export class HashMap implements BpfMap {
  readonly type = MAP_TYPE.HASH;
  readonly id: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly address: bigint;

  private readonly arena: Arena;
  private readonly block: Block;
  /** The whole map as 64-bit words; all places below are indexes into it. */
  private readonly words: BigUint64Array;
  private readonly seed: bigint;
  private readonly bucketMask: bigint;
  private readonly keyWords: number;
  private readonly valueWords: number;
  /** The key of the operation at hand, padded. */
  private readonly key: BigUint64Array;
  private readonly keyBytes: Uint8Array;

  // What a search leaves: the word that leads to the node, what it held, the node (0 is none), what its word held.
  private prev = 0;
  private link = 0n;
  private node = 0;
  private next = 0n;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    this.id = id;
    this.name = attr.name;
    this.keySize = attr.keySize;
    this.valueSize = attr.valueSize;
    this.maxEntries = attr.maxEntries;
    this.keyWords = padded(this.keySize) / 8;
    this.valueWords = padded(this.valueSize) / 8;
    this.key = new BigUint64Array(this.keyWords);
    this.keyBytes = new Uint8Array(this.key.buffer);

    const valueOffset = NODE.KEY + this.keyWords * 8;
    const nodeSize = valueOffset + this.valueWords * 8;
    const spare = spareNodes(nodeSize);
    const nodes = this.maxEntries + spare;
    const buckets = 2 ** Math.ceil(Math.log2(this.maxEntries));
    const pool = HASH.BUCKETS + buckets * 8;
    const size = pool + nodes * nodeSize;
    if (size > LARGEST_MAP) {
      throw new BpfError(
        'E2BIG',
        `Map '${this.name}' with ${this.maxEntries} entries takes ${size} bytes; the limit is ${LARGEST_MAP}, so ask for fewer.`,
      );
    }
    this.arena = arena;
    this.block = arena.alloc(size, CACHE_LINE);
    this.address = this.block.address;
    const { buffer, byteOffset } = this.block.bytes;
    this.words = new BigUint64Array(buffer, byteOffset, size / 8);
    this.seed = randomBytes(8).readBigUInt64LE();
    this.bucketMask = BigInt(buckets - 1);

    const header = new DataView(buffer, byteOffset, HASH.BUCKETS);
    header.setUint32(MAP.TYPE, this.type, true);
    header.setUint32(MAP.KEY_SIZE, this.keySize, true);
    header.setUint32(MAP.VALUE_SIZE, this.valueSize, true);
    header.setUint32(MAP.MAX_ENTRIES, this.maxEntries, true);
    header.setUint32(HASH.VALUE_OFFSET, valueOffset, true);
    header.setUint32(HASH.NODE_SIZE, nodeSize, true);
    header.setBigUint64(HASH.SEED, this.seed, true);
    header.setBigUint64(HASH.BUCKET_MASK, this.bucketMask, true);
    header.setBigUint64(HASH.POOL, BigInt(pool), true);
    header.setBigUint64(HASH.NODES, BigInt(nodes), true);

    // Nobody else sees the map yet: the free lists are laid out without atomics.
    const halves = new Uint32Array(buffer, byteOffset, size / 4);
    const low = (node: number): number => ((pool + node * nodeSize) / 8) * 4;
    const chain = (head: number, from: number, to: number): void => {
      halves[head / 4] = low(from);
      for (let node = from; node < to; node++) {
        halves[(pool + node * nodeSize + NODE.NEXT_FREE) / 4] = node + 1 < to ? low(node + 1) : 0;
      }
    };
    chain(HASH.FREE, 0, this.maxEntries);
    chain(HASH.SPARE, this.maxEntries, nodes);
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    this.setKey(key);
    for (;;) {
      this.search();
      if (this.node === 0) return undefined;
      const copy = new BigUint64Array(this.valueWords);
      const first = this.valueIndex(this.node);
      for (let i = 0; i < copy.length; i++) copy[i] = Atomics.load(this.words, first + i);
      // The node's word is as the search saw it: it was live all the time, and so the copy is of one value.
      if (Atomics.load(this.words, this.node) === this.next) {
        return new Uint8Array(copy.buffer, 0, this.valueSize);
      }
    }
  }

  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    this.setKey(key);
    checkSize('value', this.name, value, this.valueSize);
    if (flags < 0n || flags > UPDATE.EXIST) {
      throw new BpfError('EINVAL', `Update flags ${flags} of map '${this.name}' are unknown; use 0, 1 or 2.`);
    }
    const { words } = this;
    let fresh = 0;
    let source = 0n;
    try {
      for (;;) {
        this.search();
        if (this.node !== 0) {
          if (flags === UPDATE.NOEXIST) throw this.exists();
          if (fresh === 0) {
            source = SPARE;
            fresh = this.popFree(source);
            if (fresh === 0) {
              source = 0n;
              fresh = this.popFree(source);
            }
            if (fresh === 0) throw this.busy();
            this.fill(fresh, value);
          }
          words[fresh] = successor(words[fresh]!, nodeOf(this.next));
          const replaced = successor(this.next, fresh, source | MARK);
          if (!this.swap(this.node, this.next, replaced)) continue;
          this.next = replaced;
          if (!this.unlink()) this.search();
        } else {
          if (flags === UPDATE.EXIST) throw this.missing();
          if (fresh !== 0 && source !== 0n) {
            this.pushFree(fresh, source);
            fresh = 0;
          }
          if (fresh === 0) {
            source = 0n;
            fresh = this.popFree(source);
            if (fresh === 0) {
              // The key may have been inserted, and the last node with it, after the search.
              if (Atomics.load(words, this.prev) !== this.link) continue;
              throw this.full();
            }
            this.fill(fresh, value);
          }
          words[fresh] = successor(words[fresh]!, 0);
          if (!this.swap(this.prev, this.link, successor(this.link, fresh))) continue;
        }
        fresh = 0;
        return;
      }
    } finally {
      if (fresh !== 0) this.pushFree(fresh, source);
    }
  }

  delete(key: Uint8Array): void {
    this.setKey(key);
    for (;;) {
      this.search();
      if (this.node === 0) throw this.missing();
      const deleted = successor(this.next, nodeOf(this.next), MARK);
      if (!this.swap(this.node, this.next, deleted)) continue;
      this.next = deleted;
      if (!this.unlink()) this.search();
      return;
    }
  }

  nextKey(key?: Uint8Array): Uint8Array | undefined {
    if (key !== undefined) this.setKey(key);
    for (;;) {
      let bucket = 0;
      let start = true;
      if (key !== undefined) {
        this.search();
        if (this.node !== 0) {
          bucket = this.bucketOf();
          start = false;
          this.advance();
        }
      }
      const found = this.firstFrom(bucket, start);
      if (found !== 'changed') return found;
    }
  }

  free(): void {
    this.arena.free(this.block);
  }

  /** The first live key behind `prev`, or (`start`) of `bucket`, and else of the buckets after it. */
  private firstFrom(bucket: number, start: boolean): Uint8Array | undefined | 'changed' {
    const buckets = Number(this.bucketMask) + 1;
    for (let i = bucket, enter = start; i < buckets; i++, enter = true) {
      if (enter) this.enter(i);
      if (!this.settle()) return 'changed';
      if (this.node === 0) continue;
      const copy = new BigUint64Array(this.keyWords);
      for (let k = 0; k < copy.length; k++) copy[k] = this.words[this.node + NODE.KEY / 8 + k]!;
      if (Atomics.load(this.words, this.prev) !== this.link) return 'changed';
      return new Uint8Array(copy.buffer, 0, this.keySize);
    }
    return undefined;
  }

  private setKey(key: Uint8Array): void {
    checkSize('key', this.name, key, this.keySize);
    this.keyBytes.set(key);
  }

  private bucketOf(): number {
    return Number(mixKey(this.seed, this.key, this.keyWords) & this.bucketMask);
  }

  private valueIndex(node: number): number {
    return node + NODE.KEY / 8 + this.keyWords;
  }

  private swap(at: number, from: bigint, to: bigint): boolean {
    return Atomics.compareExchange(this.words, at, from, to) === from;
  }

  private enter(bucket: number): void {
    this.prev = HASH.BUCKETS / 8 + bucket;
    this.link = Atomics.load(this.words, this.prev);
  }

  /** From `node`, which is live, to its successor. */
  private advance(): void {
    this.prev = this.node;
    this.link = this.next;
  }

  /** `node` = the first unmarked node from `link` on; false where the list changed and the search must restart. */
  private settle(): boolean {
    for (;;) {
      this.node = nodeOf(this.link);
      if (this.node === 0) return true;
      this.next = Atomics.load(this.words, this.node);
      if ((this.next & MARK) === 0n) return true;
      if (!this.unlink()) return false;
    }
  }

  private search(): void {
    const bucket = this.bucketOf();
    restart: for (;;) {
      this.enter(bucket);
      for (;;) {
        if (!this.settle()) continue restart;
        if (this.node === 0) return;
        const same = this.hasKey(this.node);
        if (Atomics.load(this.words, this.prev) !== this.link) continue restart;
        if (same) return;
        this.advance();
      }
    }
  }

  private hasKey(node: number): boolean {
    const first = node + NODE.KEY / 8;
    for (let i = 0; i < this.keyWords; i++) if (this.words[first + i] !== this.key[i]) return false;
    return true;
  }

  /** Unlinks and frees `node`, which is marked; `link` is the new word then. False where the list changed. */
  private unlink(): boolean {
    const past = successor(this.link, nodeOf(this.next));
    if (!this.swap(this.prev, this.link, past)) return false;
    this.link = past;
    this.pushFree(this.node, this.next & SPARE);
    return true;
  }

  private headOf(source: bigint): number {
    return (source === 0n ? HASH.FREE : HASH.SPARE) / 8;
  }

  private popFree(source: bigint): number {
    const head = this.headOf(source);
    for (;;) {
      const top = Atomics.load(this.words, head);
      const node = nodeOf(top);
      if (node === 0) return 0;
      const nextFree = nodeOf(Atomics.load(this.words, node + NODE.NEXT_FREE / 8));
      if (this.swap(head, top, successor(top, nextFree))) return node;
    }
  }

  private pushFree(node: number, source: bigint): void {
    const head = this.headOf(source);
    for (;;) {
      const top = Atomics.load(this.words, head);
      Atomics.store(this.words, node + NODE.NEXT_FREE / 8, BigInt(nodeOf(top) * 4));
      if (this.swap(head, top, successor(top, node))) return;
    }
  }

  /** Writes key and value into a node that nobody else can reach, marked. */
  private fill(node: number, value: Uint8Array): void {
    const { words } = this;
    Atomics.store(words, node, successor(words[node]!, 0, MARK));
    words.set(this.key, node + NODE.KEY / 8);
    const whole = new BigUint64Array(this.valueWords);
    new Uint8Array(whole.buffer).set(value);
    words.set(whole, this.valueIndex(node));
  }

  private exists(): BpfError {
    return new BpfError(
      'EEXIST',
      `The key is in map '${this.name}' already; leave out UPDATE.NOEXIST to replace its value.`,
    );
  }

  private missing(): BpfError {
    return new BpfError('ENOENT', `The key is not in map '${this.name}'; insert it first.`);
  }

  private full(): BpfError {
    return new BpfError(
      'E2BIG',
      `Map '${this.name}' is full with ${this.maxEntries} entries; delete some, or create it with more.`,
    );
  }

  private busy(): BpfError {
    return new BpfError(
      'EBUSY',
      `Map '${this.name}' has no node to replace a value with, because other threads use them all; try again.`,
    );
  }
}
