/**
 * Trampolines of one target alone (`bpf_trampoline`), for functions that plain links are on: they stand in the target's
 * slot, behind its record, know it, and call each program without looking for it. This is the one for plain fentry
 * programs; for others full.ts emits its code for one target.
 *
 * A call goes through the word in the record that holds the program's address: so the code is the same whatever the
 * programs are, and a child that was forked, whose text leads here for ever, never finds half of another one.
 */

import type { WordPlace } from '../../../process/symbols/call_layout.js';
import { type Assembler, mem, rax, rdi, rsp } from '../../../x86/assembler.js';
import { ENTRY, RECORD } from '../kfunc_md/record.js';
import { bit, ContextFrame, placesKey } from './context_frame.js';
import { FRAME, type FrameDepth } from './frame.js';
import { emitFrame } from './global.js';

export interface DirectSpec {
  readonly words: readonly WordPlace[];
  readonly clobbers: number;
  readonly depth: FrameDepth;
  /** How many programs. */
  readonly programs: number;
}

export function directSpecKey({ words, clobbers, depth, programs }: DirectSpec): string {
  return `direct.${placesKey(words)}.${clobbers}.${depth}.${programs}`;
}

/** `lea rax, [rip + …]` with what is `distance` bytes before the end of the instruction. */
export function emitAddressBefore(a: Assembler, distance: number): void {
  a.byte(0x48, 0x8d, 0x05);
  a.u32(-distance >>> 0);
}
/** Bytes of that. */
export const ADDRESS_LENGTH = 7;

/**
 * Emits the trampoline, which begins `behind` bytes behind its record and falls through to the displaced instructions:
 *
 *     save what changes; lay out the arguments; ctx = stack pointer
 *     record.first(ctx); each of record.more(ctx)
 *     restore
 */
export function emitDirectTrampoline(a: Assembler, spec: DirectSpec, behind: number): void {
  const start = a.length - behind;
  const frame = new ContextFrame(spec.words, spec.clobbers | bit(rax) | bit(rdi));
  frame.emitSave(a, 0);
  emitAddressBefore(a, a.length + ADDRESS_LENGTH - start - RECORD.entry);
  emitFrame(a, spec.depth, frame.size);
  const bottom = FRAME[spec.depth];
  a.lea(rdi, mem(rsp, -bottom));
  a.callReg(mem(rax, ENTRY.bpfFunc));
  for (let i = 1; i < spec.programs; i++) {
    a.mov(rax, mem(rsp, FRAME.entry - bottom));
    if (i === 1) a.mov(rax, mem(rax, RECORD.more - RECORD.entry));
    else a.add(rax, ENTRY.size);
    a.mov(mem(rsp, FRAME.entry - bottom), rax);
    a.lea(rdi, mem(rsp, -bottom));
    a.callReg(mem(rax, ENTRY.bpfFunc));
  }
  a.lea(rsp, mem(rsp, -bottom));
  frame.emitRestore(a);
}
