/**
 * The first words of a machine's shared data: whether the machine is open, and where the process has its call table.
 * Another multitrace that comes to the process reads them there, to tell a tracer that works from one that is done, and to
 * give the calls under way their return addresses back.
 *
 *     0  u64 open    8  u64 address of the call table, 0 for none    16  u64 its entries    24  u64 return trampoline
 */

import type { Arena } from './region/arena.js';
import type { ReturnPlace } from './trampoline/full.js';

/** "mtopen" and a version; no other data begins like this. */
const OPEN = 0x6d74_6f70_656e_0001n;
const CLOSED = 0x6d74_6f70_656e_0000n;

const WORDS = 4;

export interface OpenMark {
  /** From now on return addresses on the process's stacks may be ours. */
  noteReturns(place: ReturnPlace): void;
  close(): void;
}

/** Marks the machine open; the first block of its first data region. */
export function openMark(arena: Arena): OpenMark {
  const { bytes } = arena.alloc(WORDS * 8);
  const words = new BigUint64Array(bytes.buffer, bytes.byteOffset, WORDS);
  words[0] = OPEN;
  return {
    noteReturns: ({ table, trampoline }) => {
      words[2] = BigInt(table.entries);
      words[3] = trampoline;
      words[1] = table.address;
    },
    close: () => {
      words[0] = CLOSED;
    },
  };
}

/** Whether a data region that begins with `word` belongs to an open machine. */
export function isOpenMark(word: bigint): boolean {
  return word === OPEN;
}

/** Where the machine whose data region begins with `words` had its call table, if it had one. */
export function markedReturns(words: BigUint64Array): ReturnPlace | undefined {
  const [mark, address, entries, trampoline] = words;
  if ((mark !== OPEN && mark !== CLOSED) || address === 0n) return undefined;
  return { table: { address, entries: Number(entries) }, trampoline };
}

/** Bytes of the mark. */
export const MARK_BYTES = WORDS * 8;
