/**
 * The open-coded iterator over numbers (`bpf_iter_num_new`, `_next`, `_destroy`), as the interpreter runs it. Its
 * eight bytes, on the program's stack:
 *
 *     0   s32 cur   the number before the next one
 *     4   s32 end   the number that it stops before
 */

import { MAX_LOOPS } from './instruction.js';
import type { BpfMemory } from './interpreter.js';

/** Byte offsets of the iterator's parts. */
export const NUMBERS = { current: 0, end: 4 } as const;

const EINVAL = -22n;
const E2BIG = -7n;

function write(memory: BpfMemory, iterator: bigint, current: bigint, end: bigint): void {
  memory.store(iterator + BigInt(NUMBERS.current), 4, current);
  memory.store(iterator + BigInt(NUMBERS.end), 4, end);
}

/** Numbers from `start` up to before `end`, both signed of 32 bits: 0, or -EINVAL, -E2BIG and no numbers. */
export function iteratorNew(memory: BpfMemory, iterator: bigint, start: bigint, end: bigint): bigint {
  const from = BigInt.asIntN(32, start);
  const to = BigInt.asIntN(32, end);
  write(memory, iterator, 0n, 0n);
  if (from > to) return EINVAL;
  if (to - from > BigInt(MAX_LOOPS)) return E2BIG;
  write(memory, iterator, from - 1n, to);
  return 0n;
}

/** The address of the next number, which is in the iterator; 0 after the last. */
export function iteratorNext(memory: BpfMemory, iterator: bigint): bigint {
  const current = BigInt.asIntN(32, memory.load(iterator + BigInt(NUMBERS.current), 4) + 1n);
  const end = BigInt.asIntN(32, memory.load(iterator + BigInt(NUMBERS.end), 4));
  if (current >= end) return iteratorDestroy(memory, iterator);
  memory.store(iterator + BigInt(NUMBERS.current), 4, current);
  return iterator;
}

/** Ends it. */
export function iteratorDestroy(memory: BpfMemory, iterator: bigint): bigint {
  write(memory, iterator, 0n, 0n);
  return 0n;
}
