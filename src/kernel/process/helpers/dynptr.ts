/**
 * Machine code of the dynptr helpers that know nothing of what is behind one: from_mem (197), read (201), write (202)
 * and data (203). Those of ring buffers are elsewhere; the layout is in dynptr_layout.ts.
 */

import {
  type Assembler,
  type Label,
  mem,
  type Reg,
  r8,
  r9,
  r10,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';
import { errnoNumber } from '../../errno.js';
import { DYNPTR, DYNPTR_MAX_SIZE, DYNPTR_RDONLY, DYNPTR_TYPE, DYNPTR_TYPE_SHIFT } from './dynptr_layout.js';
import type { HelperLabels } from './labels.js';

/** Where an operation goes that is refused. */
interface Refusals {
  readonly EINVAL: Label;
  readonly E2BIG: Label;
}

/**
 * r10 = address of byte `offset` (u32) of the dynptr, if `length` (u32) bytes are there: refuses a null dynptr, and what
 * lies outside. Changes rax and r9, and clears the upper halves of `offset` and `length`.
 */
function emitRange(a: Assembler, dynptr: Reg, offset: Reg, length: Reg, refuse: Refusals): void {
  a.mov(offset, offset, 4);
  a.mov(length, length, 4);
  a.mov(r10, mem(dynptr, DYNPTR.DATA));
  a.test(r10, r10);
  a.jcc('e', refuse.EINVAL);
  a.mov(rax, mem(dynptr, DYNPTR.SIZE), 4);
  a.and(rax, DYNPTR_MAX_SIZE, 4);
  a.lea(r9, mem(offset, 0, length));
  a.cmp(r9, rax);
  a.jcc('a', refuse.E2BIG);
  a.add(r10, offset);
  a.mov(rax, mem(dynptr, DYNPTR.OFFSET), 4);
  a.add(r10, rax);
}

/** Copies rdx bytes from rsi to rdi, which may overlap. Changes rax, rdx and r9. */
function emitMove(a: Assembler): void {
  const done = a.label();
  const backwards = a.label();
  const bytes = a.label();
  const back = a.label();
  a.cmp(rdi, rsi);
  a.jcc('a', backwards);
  a.xor(r9, r9, 4);
  a.sub(rdx, 8);
  a.jcc('b', bytes);
  const word = a.here();
  a.mov(rax, mem(rsi, 0, r9));
  a.mov(mem(rdi, 0, r9), rax);
  a.add(r9, 8);
  a.sub(rdx, 8);
  a.jcc('ae', word);
  a.bind(bytes);
  a.add(rdx, 8);
  a.jcc('e', done);
  const byte = a.here();
  a.movzx(rax, mem(rsi, 0, r9), 1);
  a.mov(mem(rdi, 0, r9), rax, 1);
  a.inc(r9);
  a.dec(rdx);
  a.jcc('ne', byte);
  a.jmp(done);

  // The destination is the higher: from the end, bytes down to whole words.
  a.bind(backwards);
  a.test(rdx, 7, 1);
  a.jcc('e', back);
  a.dec(rdx);
  a.movzx(rax, mem(rsi, 0, rdx), 1);
  a.mov(mem(rdi, 0, rdx), rax, 1);
  a.jmp(backwards);
  a.bind(back);
  a.sub(rdx, 8);
  a.jcc('b', done);
  a.mov(rax, mem(rsi, 0, rdx));
  a.mov(mem(rdi, 0, rdx), rax);
  a.jmp(back);
  a.bind(done);
}

/** (data, u32 size, flags, dynptr): the dynptr is null where it is refused. */
function emitFromMemory(a: Assembler, refuse: Refusals): Label {
  const bad = { EINVAL: a.label(), E2BIG: a.label() };
  a.align(16);
  const start = a.here();
  a.mov(rsi, rsi, 4);
  a.cmp(rsi, DYNPTR_MAX_SIZE);
  a.jcc('a', bad.E2BIG);
  a.test(rdx, rdx);
  a.jcc('ne', bad.EINVAL);
  a.or(rsi, DYNPTR_TYPE.LOCAL << DYNPTR_TYPE_SHIFT, 4);
  a.mov(mem(rcx, DYNPTR.DATA), rdi);
  a.mov(mem(rcx, DYNPTR.SIZE), rsi, 4);
  a.mov(mem(rcx, DYNPTR.OFFSET), 0, 4);
  a.xor(rax, rax, 4);
  a.ret();
  for (const error of ['EINVAL', 'E2BIG'] as const) {
    a.bind(bad[error]);
    a.mov(mem(rcx, DYNPTR.DATA), 0);
    a.mov(mem(rcx, DYNPTR.SIZE), 0);
    a.jmp(refuse[error]);
  }
  return start;
}

/** (destination, u32 length, dynptr, u32 offset, flags). */
function emitRead(a: Assembler, refuse: Refusals): Label {
  a.align(16);
  const start = a.here();
  a.test(r8, r8);
  a.jcc('ne', refuse.EINVAL);
  emitRange(a, rdx, rcx, rsi, refuse);
  a.mov(rdx, rsi);
  a.mov(rsi, r10);
  emitMove(a);
  a.xor(rax, rax, 4);
  a.ret();
  return start;
}

/** (dynptr, u32 offset, source, u32 length, flags). */
function emitWrite(a: Assembler, refuse: Refusals): Label {
  a.align(16);
  const start = a.here();
  a.test(r8, r8);
  a.jcc('ne', refuse.EINVAL);
  a.test(mem(rdi, DYNPTR.SIZE), DYNPTR_RDONLY | 0, 4);
  a.jcc('ne', refuse.EINVAL);
  emitRange(a, rdi, rsi, rcx, refuse);
  a.mov(rdi, r10);
  a.mov(rsi, rdx);
  a.mov(rdx, rcx);
  emitMove(a);
  a.xor(rax, rax, 4);
  a.ret();
  return start;
}

/** (dynptr, u32 offset, u32 length) → address, or 0. */
function emitData(a: Assembler): Label {
  const none = a.label();
  a.align(16);
  const start = a.here();
  a.test(mem(rdi, DYNPTR.SIZE), DYNPTR_RDONLY | 0, 4);
  a.jcc('ne', none);
  emitRange(a, rdi, rsi, rdx, { EINVAL: none, E2BIG: none });
  a.mov(rax, r10);
  a.ret();
  a.bind(none);
  a.xor(rax, rax, 4);
  a.ret();
  return start;
}

/** Emits the routines by helper number; they change rax, rcx, rdx, rsi, rdi and r8 to r10. */
export function emitDynptrRoutines(a: Assembler): { routines: HelperLabels } {
  const refuse = { EINVAL: a.label(), E2BIG: a.label() };
  const routines: HelperLabels = new Map([
    ['helper_197', emitFromMemory(a, refuse)],
    ['helper_201', emitRead(a, refuse)],
    ['helper_202', emitWrite(a, refuse)],
    ['helper_203', emitData(a)],
  ]);
  for (const error of ['EINVAL', 'E2BIG'] as const) {
    a.bind(refuse[error]);
    a.mov(rax, -errnoNumber(error));
    a.ret();
  }
  return { routines };
}
