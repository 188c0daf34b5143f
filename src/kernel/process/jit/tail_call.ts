/**
 * bpf_tail_call(ctx, map, index): another program goes on in this function's place, with its frame gone. The number of
 * tail calls made is in a word that all programs and functions of one run share; its address comes in rax.
 */

import { TAIL_CALLS } from '../../../bpf/instruction.js';
import { mem, rax, rcx, rdx } from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import type { Emitter } from './emitter.js';
import type { JitMap } from './environment.js';
import { emitEpilogue } from './functions.js';
import { CALLER_SAVED } from './register_map.js';

const WORD = 8;

/**
 *     if ((u32)index >= max_entries || *made >= 33 || !programs[index]) return -ENOENT
 *     (*made)++; leave the frame; goto programs[index]
 */
export function emitTailCall(e: Emitter, map: JitMap): void {
  const { a } = e;
  if (map.values === undefined) throw new RangeError('a program array has no code here');
  const absent = a.label();
  e.clobbers |= CALLER_SAVED;
  a.mov(rdx, rdx, 4);
  a.cmp(rdx, map.maxEntries | 0, 4);
  a.jcc('ae', absent);
  a.mov(rax, e.word('tailCalls'));
  a.cmp(mem(rax), TAIL_CALLS, 4);
  a.jcc('ae', absent);
  a.movImm64(rcx, map.values);
  a.mov(rcx, mem(rcx, 0, rdx, WORD));
  a.test(rcx, rcx);
  a.jcc('e', absent);
  a.inc(mem(rax), 4);
  emitEpilogue(e);
  a.jmpReg(rcx);
  a.bind(absent);
  a.mov(rax, -errnoNumber('ENOENT'));
}
