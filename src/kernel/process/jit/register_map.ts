/**
 * Which x86-64 register holds which BPF register. Arguments and results are where machine-code helpers expect
 * them; r6 to r9, which BPF keeps across calls, are registers that those keep too. The frame pointer r10 has no
 * register: it is a constant distance from rsp (frame.ts).
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import {
  type Reg,
  r8,
  r9,
  r10,
  r11,
  r13,
  r14,
  r15,
  rax,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
} from '../../../x86/assembler.js';

/** By BPF register, r0 to r9. */
const HOMES: readonly Reg[] = [rax, rdi, rsi, rdx, rcx, r8, rbx, r13, r14, r15];

/** A set of x86-64 registers: bit n is the register with hardware number n. */
export type RegisterMask = number;

export function maskOf(...registers: Reg[]): RegisterMask {
  return registers.reduce((mask, register) => mask | (1 << register.code), 0);
}

/** Registers that a program may change: the caller-saved ones. */
export const CALLER_SAVED: RegisterMask = maskOf(rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11);

/** Registers that hold no BPF register and need not be kept. */
export const SPARE: readonly Reg[] = [r11, r10, r9];

/** The register that holds BPF register `number`, r0 to r9. */
export function homeOf(number: number): Reg {
  const home = HOMES[number];
  if (home === undefined)
    throw new RangeError(`BPF register r${number} has no register (r${FRAME_POINTER} never)`);
  return home;
}

/** The homes of a set of BPF registers. */
export function homesOf(set: number): Reg[] {
  return HOMES.filter((_, number) => (set & (1 << number)) !== 0);
}
