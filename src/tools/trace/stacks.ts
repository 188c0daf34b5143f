/**
 * Which stack an address is on: of a process the mapping that it lies in, by its end, since stacks grow downwards; of the
 * kernel the aligned block.
 */

import { readMappings } from '../../process/mappings.js';
import type { StackOf } from './call_tree.js';

interface Range {
  low: number;
  readonly high: number;
}

/** THREAD_SIZE of x86-64: a thread's stack in the kernel is so large, and so aligned. */
const KERNEL_STACK_BYTES = 16384;

/** For threads in the kernel. */
export const kernelStack: StackOf = address => Math.floor(address / KERNEL_STACK_BYTES);

/** How often the map is read again for an address that was in no mapping, ms. */
const AGAIN_MS = 50;

/** For the threads of process `pid`. What it knows stays when the process is gone. */
export function stacksOf(pid: number): StackOf {
  let known: Range[] = [];
  let read = Number.NEGATIVE_INFINITY;
  let last: Range | undefined;
  const look = (address: number): Range | undefined =>
    known.find(({ low, high }) => address >= low && address < high);
  return address => {
    if (last !== undefined && address >= last.low && address < last.high) return last.high;
    last = look(address);
    if (last === undefined && performance.now() - read > AGAIN_MS) {
      read = performance.now();
      try {
        const now = readMappings(pid)
          .filter(({ writable }) => writable)
          .map(({ start, end }) => ({ low: Number(start), high: Number(end) }));
        known = [...now, ...known.filter(old => !now.some(({ high }) => high === old.high))];
      } catch {
        // It is gone, or going.
      }
      last = look(address);
    }
    return last?.high;
  };
}
