/**
 * Task storage (BPF_MAP_TYPE_TASK_STORAGE), the reader's side: a value for each thread that made one. A process has no
 * task_struct, and the kernel's key, a pidfd, means nothing here: the key is the thread's id, u32.
 */

import type { Arena } from '../region/arena.js';
import { POSSIBLE_CPUS } from '../threads/layout.js';
import { indexOfKey, keyOfIndex } from './array.js';
import type { MapAttributes } from './attributes.js';
import { ARRAY, padded, STORAGE } from './layout.js';
import { SharedMap } from './shared_map.js';

/** Whether a thread of the process with this id is there; values of dead threads are not shown. */
export type ThreadAlive = (tid: number) => boolean;

function strideOf(attr: MapAttributes): number {
  return STORAGE.VALUE + padded(attr.valueSize);
}

export class TaskStorageMap extends SharedMap {
  private readonly pieceBytes: number;
  private readonly alive: ThreadAlive;

  constructor(attr: MapAttributes, id: number, arena: Arena, alive: ThreadAlive = () => true) {
    super(attr, id, arena, ARRAY.VALUES + strideOf(attr) * POSSIBLE_CPUS);
    this.pieceBytes = strideOf(attr);
    this.alive = alive;
    this.header.setUint32(ARRAY.STRIDE, this.pieceBytes, true);
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    const tid = this.tidOf(key);
    this.checkReadable();
    for (;;) {
      const piece = this.pieces().get(tid);
      if (piece === undefined) return undefined;
      const claim = Atomics.load(this.words, piece);
      const copy = new BigUint64Array(padded(this.valueSize) / 8);
      for (let i = 0; i < copy.length; i++) copy[i] = Atomics.load(this.words, piece + STORAGE.VALUE / 8 + i);
      if (claim !== 0n && Atomics.load(this.words, piece) === claim) {
        return new Uint8Array(copy.buffer, 0, this.valueSize);
      }
    }
  }

  /** Writes the value of a thread that has one; only the thread itself can make it. */
  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    const tid = this.tidOf(key);
    this.checkValue(value);
    this.checkWritable(flags);
    const piece = this.pieces().get(tid);
    if (piece === undefined) throw this.missing(tid);
    const whole = new BigUint64Array(padded(this.valueSize) / 8);
    new Uint8Array(whole.buffer).set(value);
    for (let i = 0; i < whole.length; i++)
      Atomics.store(this.words, piece + STORAGE.VALUE / 8 + i, whole[i]!);
  }

  delete(key: Uint8Array): void {
    const tid = this.tidOf(key);
    this.checkWritable();
    const piece = this.pieces().get(tid);
    if (piece === undefined) throw this.missing(tid);
    Atomics.store(this.words, piece, 0n);
  }

  nextKey(key?: Uint8Array): Uint8Array | undefined {
    const tids = [...this.pieces().keys()];
    const at = key === undefined ? -1 : tids.indexOf(this.tidOf(key));
    const next = tids[at + 1];
    return next === undefined ? undefined : keyOfIndex(next);
  }

  /** The word where each thread's piece begins, by thread id. Of two with one id, the later thread's. */
  private pieces(): Map<number, number> {
    const found = new Map<number, number>();
    for (let slot = 0; slot < POSSIBLE_CPUS; slot++) {
      const piece = (ARRAY.VALUES + slot * this.pieceBytes) / 8;
      const claim = Atomics.load(this.words, piece);
      if (claim === 0n) continue;
      const tid = Number(Atomics.load(this.words, piece + STORAGE.TID / 8) & 0xffff_ffffn);
      const other = found.get(tid);
      if (other !== undefined && Atomics.load(this.words, other) > claim) continue;
      if (this.alive(tid)) found.set(tid, piece);
    }
    return found;
  }

  private tidOf(key: Uint8Array): number {
    this.checkKey(key);
    return indexOfKey(key);
  }

  private missing(tid: number): Error {
    return this.error(
      'ENOENT',
      `Thread ${tid} has nothing in map '${this.name}'; its program makes it first.`,
    );
  }
}
