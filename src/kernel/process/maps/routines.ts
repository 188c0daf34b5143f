/** The machine code of all map operations, emitted once for each traced process and shared by all its maps. */

import type { Assembler } from '../../../x86/assembler.js';
import { type ArrayRoutines, emitArrayRoutines } from './array_code.js';
import { emitHashRoutines, type HashRoutines } from './hash_code.js';
import { emitCopyPadded } from './words_code.js';

/** Entry points; `rdi` is the map's address (`BpfMap.address`) in all of them. */
export interface MapRoutines extends ArrayRoutines, HashRoutines {}

/**
 * Emits the routines. Called like BPF helpers: arguments in rdi, rsi, rdx, rcx; result in rax; they may change
 * rax, rdi, rsi, rdx, rcx, r8 to r11 and the flags. They use at most 80 bytes of the caller's stack, make no
 * system call, wait for nobody, and can be interrupted, entered again or ended anywhere.
 */
export function emitMapRoutines(a: Assembler): MapRoutines {
  const copyPadded = emitCopyPadded(a);
  return { ...emitArrayRoutines(a, copyPadded), ...emitHashRoutines(a, copyPadded) };
}
