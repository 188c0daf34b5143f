/**
 * Per-CPU arrays (BPF_MAP_TYPE_PERCPU_ARRAY), the reader's side: each CPU, which is a thread's slot here, has all the
 * values side by side. Memory that no thread touched takes no pages, until it is read.
 */

import type { Arena } from '../region/arena.js';
import { POSSIBLE_CPUS } from '../threads/layout.js';
import { IndexedMap } from './array.js';
import { checkSize, type MapAttributes } from './attributes.js';
import { ARRAY, padded } from './layout.js';

const CACHE_LINE = 64;

export class PerCpuArrayMap extends IndexedMap {
  /** Address of CPU 0's first value in the process; CPU n's is `n * slotStride` bytes behind it. */
  readonly values: bigint;
  readonly stride: number;
  readonly slotStride: number;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    const stride = padded(attr.valueSize);
    const slotStride = Math.ceil((stride * attr.maxEntries) / CACHE_LINE) * CACHE_LINE;
    super(attr, id, arena, ARRAY.VALUES + slotStride * POSSIBLE_CPUS);
    this.stride = stride;
    this.slotStride = slotStride;
    this.values = this.address + BigInt(ARRAY.VALUES);
    this.header.setUint32(ARRAY.STRIDE, stride, true);
    this.header.setBigUint64(ARRAY.SLOT_STRIDE, BigInt(slotStride), true);
  }

  /** All CPUs' values, each rounded up to 8 bytes. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    const index = this.indexOf(key);
    this.checkReadable();
    if (index >= this.maxEntries) return undefined;
    const width = this.stride / 8;
    const copy = new BigUint64Array(width * POSSIBLE_CPUS);
    for (let cpu = 0; cpu < POSSIBLE_CPUS; cpu++) {
      const first = this.wordOf(index, cpu);
      for (let i = 0; i < width; i++) copy[cpu * width + i] = Atomics.load(this.words, first + i);
    }
    return new Uint8Array(copy.buffer);
  }

  /** Writes all CPUs' values. */
  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    checkSize('value', this.name, value, this.stride * POSSIBLE_CPUS);
    this.checkWritable(flags);
    const index = this.indexToWrite(key, flags);
    const width = this.stride / 8;
    const whole = new BigUint64Array(value.slice().buffer);
    for (let cpu = 0; cpu < POSSIBLE_CPUS; cpu++) {
      const first = this.wordOf(index, cpu);
      for (let i = 0; i < width; i++) {
        const word = whole[cpu * width + i]!;
        if (Atomics.load(this.words, first + i) !== word) Atomics.store(this.words, first + i, word);
      }
    }
  }

  private wordOf(index: number, cpu: number): number {
    return (ARRAY.VALUES + cpu * this.slotStride + index * this.stride) / 8;
  }
}
