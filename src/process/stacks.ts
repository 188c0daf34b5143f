/**
 * Where a stopped thread will go on: its instruction pointer, and those that the frames of signal handlers on its stack
 * keep for when the handlers return. Other words on a stack may be left over from calls that returned long ago.
 */

import type { StoppedThread, TracedProcess } from './process.js';
import { R } from './registers.js';
import { RESTORER, SHORT_RESTORER, SIGNAL_FRAME } from './signal_frame.js';

/** Stacks in use are far smaller; one that is larger can't be told to be free of anything. */
const MOST_STACK = 32 << 20;
const PIECE = 1 << 20;
const TWO_32 = 2 ** 32;

/**
 * Whether `hit` is true of an address in [`low`, `high`) at which the thread is, or will be when a signal handler on
 * its stack returns. True as well for a stack too large to search: it can't be ruled out. Addresses are numbers: user
 * addresses have 47 bits.
 */
export function goesOnAt(
  process: TracedProcess,
  thread: StoppedThread,
  low: number,
  high: number,
  hit: (address: number) => boolean,
): boolean {
  const rip = Number(thread.registers[R.rip]);
  if (rip >= low && rip < high && hit(rip)) return true;
  return forEachSavedRip(process, thread, low, high, hit, () => true);
}

/**
 * Calls `visit` for each address in [`low`, `high`) that `hit` is true of and at which the thread will be when a signal
 * handler on its stack returns, with where on the stack it is kept. Ends with true when `visit` returns true, or for a
 * stack too large to search.
 */
export function forEachSavedRip(
  process: TracedProcess,
  thread: StoppedThread,
  low: number,
  high: number,
  hit: (address: number) => boolean,
  visit: (address: number, at: bigint) => boolean,
): boolean {
  const start = thread.registers[R.rsp] & ~7n;
  const length = Number(process.mappingEnd(start) - start);
  for (let done = 0; done < Math.min(length, MOST_STACK); done += PIECE) {
    const bytes = process.readMapped(start + BigInt(done), Math.min(PIECE, length - done));
    const halves = new Uint32Array(bytes.buffer, bytes.byteOffset, (bytes.length >> 3) * 2);
    for (let i = 0; i < halves.length; i += 2) {
      const word = halves[i + 1] * TWO_32 + halves[i];
      if (word < low || word >= high || !hit(word)) continue;
      const at = start + BigInt(done + i * 4);
      if (isSavedRip(process, at) && visit(word, at)) return true;
    }
  }
  return length > MOST_STACK;
}

/** Whether the word at `at` is the rip in a signal handler's frame. */
function isSavedRip(process: TracedProcess, at: bigint): boolean {
  const word = process.readMapped(at - BigInt(SIGNAL_FRAME.rip), 8);
  if (word.length < 8) return false;
  const restorer = new DataView(word.buffer, word.byteOffset).getBigUint64(0, true);
  const code = process.readMapped(restorer, RESTORER.length);
  return [RESTORER, SHORT_RESTORER].some(
    bytes => bytes.length <= code.length && bytes.every((byte, i) => code[i] === byte),
  );
}
