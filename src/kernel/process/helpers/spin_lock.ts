/**
 * Machine code of bpf_spin_lock and bpf_spin_unlock (helpers 93 and 94): a word that is 1 while the lock is held. A
 * thread that dies with it held, or a signal handler's jump out of the program, must not hang the process: who has
 * waited long enough takes the lock over. A program that holds one is not entered again on its thread (the guard), so
 * nobody waits for itself.
 */

import { type Assembler, mem, r10, rax, rdi, rdx } from '../../../x86/assembler.js';
import type { HelperLabels } from './labels.js';

/** Rounds of waiting, some ten nanoseconds each. */
const PATIENCE = 1 << 22;

/** `helper_93` and `helper_94`: rdi = the lock → rax = 0. They change rax, rdx and r10. */
export function emitSpinLockRoutines(a: Assembler): { routines: HelperLabels } {
  const held = a.label();
  const mine = a.label();
  a.align(16);
  const lock = a.here();
  a.mov(rdx, 1, 4);
  a.mov(r10, PATIENCE, 4);
  const again = a.here();
  a.xor(rax, rax, 4);
  a.lockCmpxchg(mem(rdi), rdx, 4);
  a.jcc('ne', held);
  a.bind(mine);
  a.xor(rax, rax, 4);
  a.ret();
  a.bind(held);
  a.pause();
  a.dec(r10, 4);
  a.jcc('e', mine);
  a.cmp(mem(rdi), 0, 4);
  a.jcc('ne', held);
  a.jmp(again);

  a.align(16);
  const unlock = a.here();
  a.mov(mem(rdi), 0, 4);
  a.xor(rax, rax, 4);
  a.ret();
  return {
    routines: new Map([
      ['helper_93', lock],
      ['helper_94', unlock],
    ]),
  };
}
