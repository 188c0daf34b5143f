/** Machine code that copies keys and values as 64-bit words, the last one padded with zeros. */

import {
  type Assembler,
  type Label,
  mem,
  type Reg,
  r10,
  r11,
  rax,
  rcx,
  rdx,
} from '../../../x86/assembler.js';

/**
 * dst = the 1 to 7 bytes at `ptr` (as many as the low three bits of `size` say), zero-extended. Reads no byte
 * beyond them. Clobbers `scratch`.
 */
export function emitLoadPadded(a: Assembler, dst: Reg, ptr: Reg, size: Reg, scratch: Reg): void {
  const two = a.label();
  const four = a.label();
  const done = a.label();
  a.xor(dst, dst, 4);
  a.test(size, 1, 1);
  a.jcc('e', two);
  a.mov(scratch, size, 4);
  a.and(scratch, 6, 4);
  a.movzx(dst, mem(ptr, 0, scratch), 1);
  a.bind(two);
  a.test(size, 2, 1);
  a.jcc('e', four);
  a.mov(scratch, size, 4);
  a.and(scratch, 4, 4);
  a.movzx(scratch, mem(ptr, 0, scratch), 2);
  a.shl(dst, 16);
  a.or(dst, scratch);
  a.bind(four);
  a.test(size, 4, 1);
  a.jcc('e', done);
  a.mov(scratch, mem(ptr), 4);
  a.shl(dst, 32);
  a.or(dst, scratch);
  a.bind(done);
}

/**
 * A routine that copies eax bytes (at least 1) from r10 to rcx, padded: whole words are written there.
 * Clobbers rax, rcx, rdx, r10, r11.
 */
export function emitCopyPadded(a: Assembler): Label {
  const tail = a.label();
  const done = a.label();
  const start = a.here();
  a.sub(rax, 8, 4);
  a.jcc('b', tail);
  const word = a.here();
  a.mov(rdx, mem(r10));
  a.mov(mem(rcx), rdx);
  a.add(r10, 8);
  a.add(rcx, 8);
  a.sub(rax, 8, 4);
  a.jcc('ae', word);
  a.bind(tail);
  a.add(rax, 8, 4);
  a.jcc('e', done);
  emitLoadPadded(a, r11, r10, rax, rdx);
  a.mov(mem(rcx), r11);
  a.bind(done);
  a.ret();
  return start;
}

/**
 * A routine that copies eax bytes (at least 1) from r10 to rcx and writes no byte beyond them: into memory that is a
 * program's. Clobbers rax, rcx, rdx, r10.
 */
export function emitCopyExact(a: Assembler): Label {
  const tail = a.label();
  const done = a.label();
  const start = a.here();
  a.sub(rax, 8, 4);
  a.jcc('b', tail);
  const word = a.here();
  a.mov(rdx, mem(r10));
  a.mov(mem(rcx), rdx);
  a.add(r10, 8);
  a.add(rcx, 8);
  a.sub(rax, 8, 4);
  a.jcc('ae', word);
  a.bind(tail);
  a.add(rax, 8, 4);
  a.jcc('e', done);
  const byte = a.here();
  a.movzx(rdx, mem(r10), 1);
  a.mov(mem(rcx), rdx, 1);
  a.inc(r10);
  a.inc(rcx);
  a.dec(rax, 4);
  a.jcc('ne', byte);
  a.bind(done);
  a.ret();
  return start;
}

/** Zeros the value_size bytes that `r10` points at, as pop and peek of an empty map do. Clobbers rax, r10. */
export function emitZeroBytes(a: Assembler): void {
  const again = a.here();
  a.mov(mem(r10, -1, rax), 0, 1);
  a.dec(rax, 4);
  a.jcc('ne', again);
}
