/**
 * Run-time statistics of a program (BPF_ENABLE_STATS): how often it ran and for how many cycles of the time-stamp
 * counter. They are counted by code in front of the program, which only programs have that were loaded while
 * statistics were on.
 */

import { type Label, mem, rax, rcx, rdx } from '../../../x86/assembler.js';
import type { Emitter } from './emitter.js';

/** The counters, u64 each. */
export const STATISTICS = { runs: 0, cycles: 8, size: 16 } as const;

/**
 * Writes the code in front of `body`, where the program itself begins: it leaves rdi and r9 alone, and gives back what
 * the program returns.
 */
export function emitStatistics(e: Emitter, counters: bigint, body: Label): void {
  const { a } = e;
  const readCounter = (): void => {
    a.rdtsc();
    a.shl(rdx, 32);
    a.or(rax, rdx);
  };
  for (const register of [rax, rcx, rdx]) e.changing(register);
  // rax may say where tail calls are counted.
  a.mov(rcx, rax);
  readCounter();
  a.push(rax);
  a.mov(rax, rcx);
  a.call(body);
  a.pop(rcx);
  a.push(rax);
  readCounter();
  a.sub(rax, rcx);
  a.movImm64(rcx, counters);
  a.lock('add', mem(rcx, STATISTICS.cycles), rax);
  a.lock('inc', mem(rcx, STATISTICS.runs));
  a.pop(rax);
  a.ret();
}
