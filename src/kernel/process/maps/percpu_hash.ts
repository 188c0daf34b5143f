/**
 * Per-CPU hash maps and their LRU kind (BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH), the reader's side. The
 * node of a key says which CPUs have a value (layout.ts, PER_CPU); the others' is zeros, and their memory is not touched.
 */

import { MAP_TYPE, UPDATE } from '../../../bpf/map_type.js';
import type { Arena } from '../region/arena.js';
import { POSSIBLE_CPUS } from '../threads/layout.js';
import { checkSize, type MapAttributes } from './attributes.js';
import { HashTable } from './hash_table.js';
import { HASH, MAP, PER_CPU, padded } from './layout.js';

const CACHE_LINE = 64;

function rowBytesOf(attr: MapAttributes, nodes: number): number {
  return Math.ceil((padded(attr.valueSize) * nodes) / CACHE_LINE) * CACHE_LINE;
}

export class PerCpuHashMap extends HashTable {
  private readonly rowBytes: number;
  private readonly perCpuBytes: number;

  constructor(attr: MapAttributes, id: number, arena: Arena) {
    super(attr, id, arena, {
      nodeValue: PER_CPU.MASK_BYTES,
      nodeExtra: PER_CPU.BYTES - PER_CPU.MASK_BYTES,
      lru: attr.type === MAP_TYPE.LRU_PERCPU_HASH,
      behindPool: nodes => rowBytesOf(attr, nodes) * POSSIBLE_CPUS,
    });
    const { pool, nodeSize, nodes, valueOffset } = this.shape;
    this.perCpuBytes = padded(attr.valueSize);
    this.rowBytes = rowBytesOf(attr, nodes);
    // What updates copy into a node is the mask.
    this.header.setUint32(MAP.VALUE_SIZE, PER_CPU.MASK_BYTES, true);
    this.header.setUint32(HASH.PER_CPU_SIZE, this.valueSize, true);
    this.header.setBigUint64(HASH.SLOT_STRIDE, BigInt(this.rowBytes), true);
    for (let i = 0; i < nodes; i++) {
      const offset = (pool + i * nodeSize + valueOffset + PER_CPU.OFFSET) / 8;
      this.words[offset] = BigInt(this.behindPool + i * this.perCpuBytes);
    }
  }

  /** All CPUs' values, each rounded up to 8 bytes. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    this.checkReadable();
    return this.readNode(key, first => this.readAll(first));
  }

  /** Writes all CPUs' values. */
  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    checkSize('value', this.name, value, this.perCpuBytes * POSSIBLE_CPUS);
    this.checkWritable(flags);
    const whole = new BigUint64Array(value.slice().buffer);
    for (let wanted = flags; ; wanted = UPDATE.ANY) {
      if (wanted !== UPDATE.NOEXIST) {
        const written = this.readNode(key, first => {
          this.writeAll(first, whole);
          return true;
        });
        if (written === true) return;
        if (wanted === UPDATE.EXIST) throw this.missing();
      }
      // Zeros for every CPU at first; another may insert the key before us, unless that is an error.
      try {
        this.updateNode(key, new Uint8Array(PER_CPU.MASK_BYTES), UPDATE.NOEXIST);
      } catch (error) {
        if (wanted === UPDATE.NOEXIST || (error as { code?: string }).code !== 'EEXIST') throw error;
      }
    }
  }

  override lookupAndDelete(key: Uint8Array): Uint8Array | undefined {
    this.checkReadable();
    this.checkWritable();
    return this.takeNode(key, first => this.readAll(first));
  }

  private readAll(first: number): Uint8Array {
    const width = this.perCpuBytes / 8;
    const copy = new BigUint64Array(width * POSSIBLE_CPUS);
    for (let cpu = 0; cpu < POSSIBLE_CPUS; cpu++) {
      const mask = Atomics.load(this.words, first + PER_CPU.MASK / 8 + (cpu >> 6));
      if ((mask & (1n << BigInt(cpu & 63))) === 0n) continue;
      const from = this.wordOf(first, cpu);
      for (let i = 0; i < width; i++) copy[cpu * width + i] = Atomics.load(this.words, from + i);
    }
    return new Uint8Array(copy.buffer);
  }

  private writeAll(first: number, whole: BigUint64Array): void {
    const width = this.perCpuBytes / 8;
    for (let cpu = 0; cpu < POSSIBLE_CPUS; cpu++) {
      const value = whole.subarray(cpu * width, (cpu + 1) * width);
      const mask = first + PER_CPU.MASK / 8 + (cpu >> 6);
      const bit = 1n << BigInt(cpu & 63);
      // A thread that is about to add to its value may still do so: it has the value in place.
      const written = (Atomics.load(this.words, mask) & bit) !== 0n;
      if (!written && value.every(word => word === 0n)) continue;
      const to = this.wordOf(first, cpu);
      for (let i = 0; i < width; i++) Atomics.store(this.words, to + i, value[i]!);
      if (!written) Atomics.or(this.words, mask, bit);
    }
  }

  /** Word of CPU `cpu`'s value of the node whose own value is at word `first`. */
  private wordOf(first: number, cpu: number): number {
    return (Number(this.words[first + PER_CPU.OFFSET / 8]) + cpu * this.rowBytes) / 8;
  }
}
