/**
 * The lock-free hash table behind hash, LRU, per-CPU, LPM and map-of-maps maps, the reader's side: the algorithm of
 * hash_code.ts, where it is explained, on the same memory with the same atomic operations, while programs run. It
 * knows keys and the values in nodes; what a value means is the maps' to say.
 */

import { randomBytes } from 'node:crypto';
import { MAP_FLAG, UPDATE } from '../../../bpf/map_type.js';
import type { Arena } from '../region/arena.js';
import type { MapAttributes } from './attributes.js';
import { HASH, NODE, padded } from './layout.js';
import { mixKey } from './mix.js';
import { MARK, nodeOf, PooledMap, type PoolShape, SPARE, successor } from './node_pool.js';

/**
 * Nodes for replacements: as many threads can be inside an update of an existing key at once before one of them
 * must borrow a node of the free list. Fewer where nodes are large.
 */
const SPARE_NODES = 128;
const FEWEST_SPARE_NODES = 8;
const SPARE_BYTES = 1 << 20;

/** As many nodes in a row that were used since the last look are spared; then one is evicted all the same. */
export const LRU_PATIENCE = 128;

/** How the nodes of a table are laid out, beyond what the map's attributes say. */
export interface TableOptions {
  /** Bytes of the value in a node. */
  readonly nodeValue: number;
  /** Bytes of a node behind that value which updates leave alone. */
  readonly nodeExtra?: number;
  /** Full tables evict what was not used lately. */
  readonly lru?: boolean;
  /** Bytes behind the pool. */
  readonly behindPool?: (nodes: number) => number;
}

/** How many nodes a map of these attributes has beyond `maxEntries`. */
function spareNodes(nodeSize: number): number {
  return Math.min(SPARE_NODES, Math.max(FEWEST_SPARE_NODES, Math.floor(SPARE_BYTES / nodeSize)));
}

interface TableShape extends PoolShape {
  readonly buckets: number;
  readonly refDelta: number;
}

function tableShape(attr: MapAttributes, options: TableOptions): TableShape {
  const valueOffset = NODE.KEY + padded(attr.keySize);
  const { nodeValue, nodeExtra = 0, lru = false } = options;
  const refDelta = lru ? padded(nodeValue) + nodeExtra : 0;
  const nodeSize = valueOffset + padded(nodeValue) + nodeExtra + (lru ? 8 : 0);
  const nodes = attr.maxEntries + spareNodes(nodeSize);
  const buckets = 2 ** Math.ceil(Math.log2(attr.maxEntries));
  const pool = HASH.BUCKETS + buckets * 8;
  const end = Math.ceil((pool + nodes * nodeSize) / 64) * 64;
  const size = end + (options.behindPool?.(nodes) ?? 0);
  return { pool, nodeSize, valueOffset, entries: attr.maxEntries, nodes, size, buckets, refDelta };
}

export abstract class HashTable extends PooledMap {
  /** Bytes from the map's start to what `behindPool` asked for. */
  protected readonly behindPool: number;
  private readonly nodeValue: number;
  private readonly refDelta: number;
  private readonly seed: bigint;
  private readonly bucketMask: bigint;
  private readonly keyWords: number;
  /** The key of the operation at hand, padded. */
  private readonly key: BigUint64Array;
  private readonly keyBytes: Uint8Array;

  // What a search leaves: the word that leads to the node, what it held, the node (0 is none), what its word held.
  private prev = 0;
  private link = 0n;
  protected node = 0;
  protected next = 0n;

  constructor(attr: MapAttributes, id: number, arena: Arena, options: TableOptions) {
    const shape = tableShape(attr, options);
    super(attr, id, arena, shape);
    this.nodeValue = options.nodeValue;
    this.refDelta = shape.refDelta;
    this.behindPool = Math.ceil((shape.pool + shape.nodes * shape.nodeSize) / 64) * 64;
    this.keyWords = padded(this.keySize) / 8;
    this.key = new BigUint64Array(this.keyWords);
    this.keyBytes = new Uint8Array(this.key.buffer);
    this.seed = (this.flags & MAP_FLAG.ZERO_SEED) === 0 ? randomBytes(8).readBigUInt64LE() : 0n;
    this.bucketMask = BigInt(shape.buckets - 1);
    this.header.setUint32(HASH.REF_DELTA, shape.refDelta, true);
    this.header.setBigUint64(HASH.SEED, this.seed, true);
    this.header.setBigUint64(HASH.BUCKET_MASK, this.bucketMask, true);
  }

  /** Reads the value of `key` with `read`, which is given the word where it begins; `undefined` where it is absent. */
  protected readNode<T>(key: Uint8Array, read: (first: number) => T): T | undefined {
    this.setKey(key);
    for (;;) {
      this.search();
      if (this.node === 0) return undefined;
      const got = read(this.valueIndex(this.node));
      // The node's word is as the search saw it: it was live all the time, and so what was read is of one value.
      if (Atomics.load(this.words, this.node) === this.next) return got;
    }
  }

  protected updateNode(key: Uint8Array, value: Uint8Array, flags: bigint): void {
    this.setKey(key);
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
            this.fill(fresh, value, source);
          }
          words[fresh] = successor(words[fresh]!, nodeOf(this.next));
          const replaced = successor(this.next, fresh, source | MARK);
          if (!this.swap(this.node, this.next, replaced)) continue;
          this.next = replaced;
          if (!this.unlink()) this.search();
        } else {
          if (flags === UPDATE.EXIST) throw this.missing();
          if (fresh !== 0 && source !== 0n) {
            this.discard(fresh, source);
            fresh = 0;
          }
          if (fresh === 0) {
            source = 0n;
            fresh = this.popFree(source);
            if (fresh === 0) {
              // The key may have been inserted, and the last node with it, after the search.
              if (Atomics.load(words, this.prev) !== this.link) continue;
              if (this.refDelta === 0) throw this.full();
              if (!this.evict()) throw this.exhausted();
              this.setKey(key);
              continue;
            }
            this.fill(fresh, value, source);
          }
          words[fresh] = successor(words[fresh]!, 0);
          if (!this.swap(this.prev, this.link, successor(this.link, fresh))) continue;
        }
        fresh = 0;
        return;
      }
    } finally {
      if (fresh !== 0) this.discard(fresh, source);
    }
  }

  delete(key: Uint8Array): void {
    this.checkWritable();
    this.setKey(key);
    if (!this.deleteKey()) throw this.missing();
  }

  /** Deletes `key` and returns what `read` made of its last value. */
  protected takeNode<T>(key: Uint8Array, read: (first: number) => T): T | undefined {
    this.setKey(key);
    for (;;) {
      this.search();
      if (this.node === 0) return undefined;
      const got = read(this.valueIndex(this.node));
      if (this.deleteFound()) return got;
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

  /** The first live key behind `prev`, or (`start`) of `bucket`, and else of the buckets after it. */
  private firstFrom(bucket: number, start: boolean): Uint8Array | undefined | 'changed' {
    const buckets = Number(this.bucketMask) + 1;
    for (let i = bucket, enter = start; i < buckets; i++, enter = true) {
      if (enter) this.enter(i);
      if (!this.settle()) return 'changed';
      if (this.node === 0) continue;
      const copy = this.copyWords(this.node + NODE.KEY / 8, this.keySize);
      if (Atomics.load(this.words, this.prev) !== this.link) return 'changed';
      return copy;
    }
    return undefined;
  }

  private setKey(key: Uint8Array): void {
    this.checkKey(key);
    this.keyBytes.set(key);
  }

  private bucketOf(): number {
    return Number(mixKey(this.seed, this.key, this.keyWords) & this.bucketMask);
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

  private deleteKey(): boolean {
    for (;;) {
      this.search();
      if (this.node === 0) return false;
      if (this.deleteFound()) return true;
    }
  }

  /** Deletes what the search found; false where it changed since. */
  private deleteFound(): boolean {
    const deleted = successor(this.next, nodeOf(this.next), MARK);
    if (!this.swap(this.node, this.next, deleted)) return false;
    this.next = deleted;
    if (!this.unlink()) this.search();
    return true;
  }

  /**
   * Deletes a key that was not used lately: the hand goes round the nodes, and each use since its last visit spares a
   * node once. Another key than the one looked at may be deleted, if that node changes hands meanwhile.
   */
  private evict(): boolean {
    const { nodes, pool, nodeSize, valueOffset } = this.shape;
    let patience = LRU_PATIENCE;
    for (let step = 0; step < 2 * nodes; step++) {
      const hand = Number(Atomics.add(this.words, HASH.HAND / 8, 1n) % BigInt(nodes));
      const node = (pool + hand * nodeSize) / 8;
      if ((Atomics.load(this.words, node) & MARK) !== 0n) continue;
      const ref = node + (valueOffset + this.refDelta) / 8;
      if (Atomics.load(this.words, ref) !== 0n && patience > 0) {
        patience--;
        Atomics.store(this.words, ref, 0n);
        continue;
      }
      const first = node + NODE.KEY / 8;
      for (let i = 0; i < this.keyWords; i++) this.key[i] = this.words[first + i]!;
      if (this.deleteKey()) return true;
    }
    return false;
  }

  /** Unlinks and frees `node`, which is marked; `link` is the new word then. False where the list changed. */
  private unlink(): boolean {
    const past = successor(this.link, nodeOf(this.next));
    if (!this.swap(this.prev, this.link, past)) return false;
    this.link = past;
    this.pushFree(this.node, this.next & SPARE);
    return true;
  }

  /** Gives back a node that was filled and not linked. */
  private discard(node: number, source: bigint): void {
    this.words[node] = this.words[node]! | MARK;
    this.pushFree(node, source);
  }

  /** Writes key and value into a node that nobody else can reach, marked. */
  private fill(node: number, value: Uint8Array, source: bigint): void {
    const { words } = this;
    Atomics.store(words, node, successor(words[node]!, 0, MARK));
    words.set(this.key, node + NODE.KEY / 8);
    this.writeWords(this.valueIndex(node), value.subarray(0, this.nodeValue));
    if (this.refDelta !== 0) words[this.valueIndex(node) + this.refDelta / 8] = source;
  }

  private exists(): Error {
    return this.error(
      'EEXIST',
      `The key is in map '${this.name}' already; leave out UPDATE.NOEXIST to replace its value.`,
    );
  }

  protected missing(): Error {
    return this.error('ENOENT', `The key is not in map '${this.name}'; insert it first.`);
  }

  protected full(): Error {
    return this.error(
      'E2BIG',
      `Map '${this.name}' is full with ${this.maxEntries} entries; delete some, or create it with more.`,
    );
  }

  private exhausted(): Error {
    return this.error(
      'ENOMEM',
      `Map '${this.name}' has no node to evict, because other threads use them all; try again.`,
    );
  }

  private busy(): Error {
    return this.error(
      'EBUSY',
      `Map '${this.name}' has no node to replace a value with, because other threads use them all; try again.`,
    );
  }
}
