/**
 * Where stopped threads may return to: their instruction pointers and, conservatively, every word of their stacks.
 * A signal handler's frame keeps the interrupted instruction pointer on the stack, so what is not found here is
 * not executing anywhere.
 */

import type { StoppedThread, TracedProcess } from './process.js';
import { R } from './registers.js';

/** Stacks in use are far smaller; a larger one is not read to its end. */
const MOST_STACK = 4 << 20;
const TWO_32 = 2 ** 32;
/** The red zone may hold a word too. */
const RED_ZONE = 128n;

/**
 * Calls `visit` with each word of the thread's stack, up to `limit` bytes, that lies in [`low`, `high`); stops
 * and returns true when `visit` does. Addresses are numbers: user addresses have 47 bits.
 */
export function anyStackWord(
  process: TracedProcess,
  thread: StoppedThread,
  low: number,
  high: number,
  visit: (word: number) => boolean,
  limit: number = MOST_STACK,
): boolean {
  const rsp = thread.registers[R.rsp];
  const start = (rsp - RED_ZONE) & ~7n;
  for (let size = Math.min(limit, 64 << 10), done = 0; done < limit; size = Math.min(limit - done, 1 << 20)) {
    const bytes = process.readMapped(start + BigInt(done), size);
    const halves = new Uint32Array(bytes.buffer, bytes.byteOffset, (bytes.length >> 3) * 2);
    for (let i = 0; i < halves.length; i += 2) {
      const word = halves[i + 1] * TWO_32 + halves[i];
      if (word >= low && word < high && visit(word)) return true;
    }
    done += size;
    if (bytes.length < size) break;
  }
  return false;
}
