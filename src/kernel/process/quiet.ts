/**
 * Whether no thread is in some code, so that it can be taken away: the grace period of a process that stands still.
 *
 * Code of ours calls nothing, so a thread is in it only with its instruction pointer, or with that of a signal
 * handler's frame.
 */

import type { TracedProcess } from '../../process/process.js';
import { goesOnAt } from '../../process/stacks.js';
import type { Stop } from './stopper.js';

/** A range of addresses. */
export interface Range {
  readonly address: bigint;
  readonly size: number;
}

/** The threads of the stopped process that execute in the ranges, or will when a signal handler returns. */
export function threadsInside(process: TracedProcess, stop: Stop, ranges: readonly Range[]): Set<number> {
  const bounds = ranges.map(r => ({ from: Number(r.address), to: Number(r.address) + r.size }));
  if (bounds.length === 0) return new Set();
  const low = Math.min(...bounds.map(r => r.from));
  const high = Math.max(...bounds.map(r => r.to));
  const inside = (address: number): boolean => bounds.some(r => address >= r.from && address < r.to);
  return new Set(
    stop.threads.filter(thread => goesOnAt(process, thread, low, high, inside)).map(({ tid }) => tid),
  );
}

/** No thread of the stopped process executes in the ranges, or will when a signal handler returns. */
export function isQuiet(process: TracedProcess, stop: Stop, ranges: readonly Range[]): boolean {
  return threadsInside(process, stop, ranges).size === 0;
}
