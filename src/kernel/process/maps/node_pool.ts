/**
 * Maps that are made of nodes in a pool (hash, queue, stack, stack trace), the reader's side: list words and the
 * lists of free nodes, changed by compare-and-swap as hash_code.ts explains. Not for what a map does with nodes.
 */

import type { Arena } from '../region/arena.js';
import type { MapAttributes } from './attributes.js';
import { HASH, NODE, WORD } from './layout.js';
import { SharedMap } from './shared_map.js';

export const MARK = BigInt(WORD.MARK);
export const SPARE = BigInt(WORD.SPARE);
const VERSION_SHIFT = BigInt(WORD.VERSION_SHIFT);

/** Index of the 64-bit word where the node starts that a list word leads to, 0 for none. */
export function nodeOf(word: bigint): number {
  return Number(BigInt.asUintN(32, word)) >>> 2;
}

/** The word that follows `word`: the next version, leading to `node`, with `flags`. */
export function successor(word: bigint, node: number, flags = 0n): bigint {
  return BigInt.asUintN(64, ((word >> VERSION_SHIFT) + 1n) << VERSION_SHIFT) | BigInt(node * 4) | flags;
}

/** Where the nodes of a map lie. Bytes from the map's start. */
export interface PoolShape {
  readonly pool: number;
  readonly nodeSize: number;
  readonly valueOffset: number;
  /** How many of the nodes are for keys of their own; the others are spare. */
  readonly entries: number;
  readonly nodes: number;
  /** Bytes of the whole map. */
  readonly size: number;
}

export abstract class PooledMap extends SharedMap {
  protected readonly shape: PoolShape;

  constructor(attr: MapAttributes, id: number, arena: Arena, shape: PoolShape) {
    super(attr, id, arena, shape.size);
    this.shape = shape;
    const { header } = this;
    header.setUint32(HASH.VALUE_OFFSET, shape.valueOffset, true);
    header.setUint32(HASH.NODE_SIZE, shape.nodeSize, true);
    header.setBigUint64(HASH.POOL, BigInt(shape.pool), true);
    header.setBigUint64(HASH.NODES, BigInt(shape.nodes), true);
    this.chain(HASH.FREE, 0, shape.entries);
    this.chain(HASH.SPARE, shape.entries, shape.nodes);
  }

  /** Makes a free list of the nodes `from` to `to`. Nobody else sees the map yet: without atomics. */
  private chain(head: number, from: number, to: number): void {
    const { pool, nodeSize } = this.shape;
    const halves = new Uint32Array(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length / 4);
    const low = (node: number): number => ((pool + node * nodeSize) / 8) * 4;
    halves[head / 4] = from < to ? low(from) : 0;
    for (let node = from; node < to; node++) {
      const at = (pool + node * nodeSize) / 4;
      // A node that is in no list is marked: whoever looks at all nodes sees which of them mean something.
      halves[at + NODE.NEXT / 4] = WORD.MARK;
      halves[at + NODE.NEXT_FREE / 4] = node + 1 < to ? low(node + 1) : 0;
    }
  }

  protected swap(at: number, from: bigint, to: bigint): boolean {
    return Atomics.compareExchange(this.words, at, from, to) === from;
  }

  /** A node of the free list (`source` 0n) or the spare list (`SPARE`); 0 where it is empty. */
  protected popFree(source = 0n): number {
    const head = this.headOf(source);
    for (;;) {
      const top = Atomics.load(this.words, head);
      const node = nodeOf(top);
      if (node === 0) return 0;
      const nextFree = nodeOf(Atomics.load(this.words, node + NODE.NEXT_FREE / 8));
      if (this.swap(head, top, successor(top, nextFree))) return node;
    }
  }

  protected pushFree(node: number, source = 0n): void {
    const head = this.headOf(source);
    for (;;) {
      const top = Atomics.load(this.words, head);
      Atomics.store(this.words, node + NODE.NEXT_FREE / 8, BigInt(nodeOf(top) * 4));
      if (this.swap(head, top, successor(top, node))) return;
    }
  }

  private headOf(source: bigint): number {
    return (source === 0n ? HASH.FREE : HASH.SPARE) / 8;
  }

  /** Copies `size` bytes from word `first` on, word by word. */
  protected copyWords(first: number, size: number): Uint8Array {
    const copy = new BigUint64Array(Math.ceil(size / 8));
    for (let i = 0; i < copy.length; i++) copy[i] = Atomics.load(this.words, first + i);
    return new Uint8Array(copy.buffer, 0, size);
  }

  /** Writes bytes from word `first` on, the last word padded with zeros. */
  protected writeWords(first: number, bytes: Uint8Array): void {
    const whole = new BigUint64Array(Math.ceil(bytes.length / 8));
    new Uint8Array(whole.buffer).set(bytes);
    this.words.set(whole, first);
  }

  protected valueIndex(node: number): number {
    return node + this.shape.valueOffset / 8;
  }
}
