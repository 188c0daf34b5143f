/**
 * The first word of a machine's shared data: whether the machine is open. Another multitrace that comes to the process
 * reads it there, to tell a tracer that works from one that is done.
 */

import type { Arena } from './region/arena.js';

/** "mtopen" and a version; no other data begins like this. */
const OPEN = 0x6d74_6f70_656e_0001n;

export interface OpenMark {
  close(): void;
}

/** Marks the machine open; the first block of its first data region. */
export function openMark(arena: Arena): OpenMark {
  const { bytes } = arena.alloc(8);
  const word = new BigUint64Array(bytes.buffer, bytes.byteOffset, 1);
  word[0] = OPEN;
  return {
    close: () => {
      word[0] = 0n;
    },
  };
}

/** Whether a data region that begins with `word` belongs to an open machine. */
export function isOpenMark(word: bigint): boolean {
  return word === OPEN;
}
