/**
 * Writes many words of text into a stopped process, as fast as the kernel takes them: a loop of ptrace(2) calls in
 * machine code, because the process stands still meanwhile and a call through the FFI costs as much as the kernel's
 * part again.
 */

import { addressOf, callCode, PTRACE } from '../ffi/libc.js';
import { type Assembler, mem, r10, r12, r13, r14, rax, rdi, rdx, rsi } from '../x86/assembler.js';
import { ownCode } from './own_code.js';

const SYS_PTRACE = 101;
/** A pair { u64 address, u64 word }. */
const PAIR = 16;

let code: bigint | undefined;

/** rdi = thread, rsi = pairs, rdx = how many; returns how many were written before one failed. */
function emitPokeLoop(a: Assembler): void {
  const done = a.label();
  for (const reg of [r12, r13, r14]) a.push(reg);
  a.mov(r12, rdi);
  a.mov(r13, rsi);
  // The end of the pairs; the number written falls out of where the loop ends.
  a.shl(rdx, 4);
  a.lea(r14, mem(rsi, 0, rdx, 1));
  a.push(rsi);
  const next = a.here();
  a.cmp(r13, r14);
  a.jcc('ae', done);
  a.mov(rax, SYS_PTRACE, 4);
  a.mov(rdi, PTRACE.POKETEXT, 4);
  a.mov(rsi, r12);
  a.mov(rdx, mem(r13));
  a.mov(r10, mem(r13, 8));
  a.syscall();
  a.test(rax, rax);
  a.jcc('s', done);
  a.add(r13, PAIR);
  a.jmp(next);
  a.bind(done);
  a.pop(rsi);
  a.mov(rax, r13);
  a.sub(rax, rsi);
  a.shr(rax, 4);
  for (const reg of [r14, r13, r12]) a.pop(reg);
  a.ret();
}

/**
 * Writes `pairs` (address, word, address, word, …) into the text of the process of stopped thread `tid`, in order.
 * Returns how many words were written: fewer than there are where the kernel refused one.
 */
export function pokeWords(tid: number, pairs: BigUint64Array): number {
  if (pairs.length === 0) return 0;
  const bytes = new Uint8Array(pairs.buffer, pairs.byteOffset, pairs.byteLength);
  code ??= ownCode(emitPokeLoop);
  return Number(callCode(code, tid, addressOf(bytes), pairs.length / 2));
}
