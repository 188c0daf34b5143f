/**
 * The general registers of a stopped thread, in the layout of `struct user_regs_struct` (sys/user.h, x86-64).
 */

import { addressOf, PTRACE, ptraceBuffer } from '../ffi/libc.js';

/** Index of each register in the array that `getRegisters` returns. */
export const R = {
  r15: 0,
  r14: 1,
  r13: 2,
  r12: 3,
  rbp: 4,
  rbx: 5,
  r11: 6,
  r10: 7,
  r9: 8,
  r8: 9,
  rax: 10,
  rcx: 11,
  rdx: 12,
  rsi: 13,
  rdi: 14,
  orig_rax: 15,
  rip: 16,
  cs: 17,
  eflags: 18,
  rsp: 19,
  ss: 20,
  fs_base: 21,
  gs_base: 22,
} as const;

const COUNT = 27;

/** All general registers of a stopped thread. */
export type Registers = BigUint64Array;

export function getRegisters(tid: number): Registers {
  const registers = new BigUint64Array(COUNT);
  ptraceBuffer(PTRACE.GETREGS, tid, 0, new Uint8Array(registers.buffer));
  return registers;
}

export function setRegisters(tid: number, registers: Registers): void {
  ptraceBuffer(PTRACE.SETREGS, tid, 0, new Uint8Array(registers.buffer));
}

/** `struct iovec` for PTRACE_GETREGSET, and the note type of the extended state (elf.h: NT_X86_XSTATE). */
const NT_X86_XSTATE = 0x202;
const XSTATE_ROOM = 16384;

/** The vector and floating-point state of a stopped thread, to be given back with `setExtendedState`. */
export function getExtendedState(tid: number): Uint8Array {
  const area = new Uint8Array(XSTATE_ROOM);
  const iovec = new BigUint64Array([addressOf(area), BigInt(area.length)]);
  ptraceBuffer(PTRACE.GETREGSET, tid, NT_X86_XSTATE, new Uint8Array(iovec.buffer));
  return area.subarray(0, Number(iovec[1]));
}

export function setExtendedState(tid: number, state: Uint8Array): void {
  const iovec = new BigUint64Array([addressOf(state), BigInt(state.length)]);
  ptraceBuffer(PTRACE.SETREGSET, tid, NT_X86_XSTATE, new Uint8Array(iovec.buffer));
}
