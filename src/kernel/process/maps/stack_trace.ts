/**
 * Stack trace maps (BPF_MAP_TYPE_STACK_TRACE), the reader's side: the table of stack_trace_code.ts. A key is an id that
 * bpf_get_stackid gave; the value is the stack's addresses, innermost first, zeros behind them.
 */

import { BpfError } from '../../errno.js';
import type { Arena } from '../region/arena.js';
import { indexOfKey, keyOfIndex } from './array.js';
import type { MapAttributes } from './attributes.js';
import { HASH, TRACE } from './layout.js';
import { nodeOf, PooledMap, type PoolShape, successor } from './node_pool.js';

/** Nodes beyond one for each bucket: as many threads can replace a stack at once. */
const SPARE_NODES = 32;

function bucketsOf(attr: MapAttributes): number {
  return 2 ** Math.ceil(Math.log2(attr.maxEntries));
}

function traceShape(attr: MapAttributes): PoolShape {
  const nodes = bucketsOf(attr) + SPARE_NODES;
  const pool = HASH.BUCKETS + bucketsOf(attr) * 8;
  const nodeSize = TRACE.IPS + attr.valueSize;
  return { pool, nodeSize, valueOffset: TRACE.IPS, entries: nodes, nodes, size: pool + nodes * nodeSize };
}

export class StackTraceMap extends PooledMap {
  private readonly buckets: number;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    super(attr, id, arena, traceShape(attr));
    this.buckets = bucketsOf(attr);
    this.header.setBigUint64(HASH.BUCKET_MASK, BigInt(this.buckets - 1), true);
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    this.checkKey(key);
    this.checkReadable();
    const id = indexOfKey(key);
    return id < this.buckets ? this.read(id) : undefined;
  }

  update(key: Uint8Array): void {
    this.checkKey(key);
    this.checkWritable();
    throw new BpfError(
      'EINVAL',
      `Stacks of map '${this.name}' are stored by programs only, with bpf_get_stackid; do not write them.`,
    );
  }

  delete(key: Uint8Array): void {
    this.checkKey(key);
    this.checkWritable();
    if (this.take(indexOfKey(key)) === undefined) throw this.missing(key);
  }

  override lookupAndDelete(key: Uint8Array): Uint8Array | undefined {
    this.checkKey(key);
    this.checkReadable();
    this.checkWritable();
    return this.take(indexOfKey(key));
  }

  nextKey(key?: Uint8Array): Uint8Array | undefined {
    if (key !== undefined) this.checkKey(key);
    const after = key === undefined ? -1 : indexOfKey(key);
    const from = after < this.buckets && this.isTaken(after) ? after + 1 : 0;
    for (let id = from; id < this.buckets; id++) if (this.isTaken(id)) return keyOfIndex(id);
    return undefined;
  }

  private isTaken(id: number): boolean {
    return id >= 0 && nodeOf(Atomics.load(this.words, HASH.BUCKETS / 8 + id)) !== 0;
  }

  private read(id: number): Uint8Array | undefined {
    for (;;) {
      const word = Atomics.load(this.words, HASH.BUCKETS / 8 + id);
      const node = nodeOf(word);
      if (node === 0) return undefined;
      const count = Number(Atomics.load(this.words, node + TRACE.COUNT / 8) & 0xffff_ffffn);
      const value = this.copyWords(this.valueIndex(node), this.valueSize);
      if (Atomics.load(this.words, HASH.BUCKETS / 8 + id) === word) return value.fill(0, count * 8);
    }
  }

  private take(id: number): Uint8Array | undefined {
    if (id >= this.buckets) return undefined;
    for (;;) {
      const word = Atomics.load(this.words, HASH.BUCKETS / 8 + id);
      const value = this.read(id);
      if (value === undefined) return undefined;
      if (!this.swap(HASH.BUCKETS / 8 + id, word, successor(word, 0))) continue;
      this.pushFree(nodeOf(word));
      return value;
    }
  }

  private missing(key: Uint8Array): BpfError {
    return this.error(
      'ENOENT',
      `There is no stack ${indexOfKey(key)} in map '${this.name}'; nothing to delete.`,
    );
  }
}
