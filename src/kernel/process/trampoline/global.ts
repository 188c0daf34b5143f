/**
 * Global trampolines (`bpf_global_caller_N`): the code that every target with the same layout of arguments calls. It
 * finds the target's record, runs the fentry programs named there, and returns to the traced function with every
 * register as it was. Functions with other programs have those of full.ts.
 *
 * There are two ways to the record. A target with a slot calls from the slot, whose record lies at a fixed distance
 * before the return address. A target with a compiler's nop sled calls from the function itself, and the record is
 * looked up in the metadata table by the function's address.
 *
 * Registers: callers inside one module may rely on a callee not changing caller-saved registers (-fipa-ra), so
 * all that programs or we change are saved; programs say which those are. Vector registers are never changed. Flags
 * are: a function that reads them at its entry is refused as a target.
 */

import type { WordPlace } from '../../../process/symbols/call_layout.js';
import { type Assembler, mem, r10, r11, rax, rcx, rdi, rdx, rsp } from '../../../x86/assembler.js';
import { ENTRY, RECORD } from '../kfunc_md/record.js';
import { emitTableLookup } from '../kfunc_md/table.js';
import { bit, ContextFrame, placesKey, WORD } from './context_frame.js';
import { FRAME, type FrameDepth } from './frame.js';
import { CALL_STUB_LENGTH } from './slot.js';

/** From the return address of a slot's call back to the slot's record. */
export const RETURN_TO_RECORD = RECORD.size + CALL_STUB_LENGTH;

const TABLE_LOOKUP_CHANGES = bit(rcx) | bit(rdx) | bit(r10) | bit(r11);

/** What sets one global trampoline apart from another. */
export interface TrampolineSpec {
  /** The words of the context, as far as programs read them. */
  readonly words: readonly WordPlace[];
  /** Caller-saved registers that the programs change, a mask of 1 << register number. */
  readonly clobbers: number;
  /** What programs read below the context: the last word of the frame. */
  readonly depth: FrameDepth;
  /** The record has one program. */
  readonly single?: boolean;
  /** The record is before the slot's call, or is looked up: then how far the return address is past the function. */
  readonly record: 'slot' | { readonly returnOffset: number };
}

/** Two specs with one key share a trampoline. */
export function specKey({ words, clobbers, depth, single, record }: TrampolineSpec): string {
  const from = record === 'slot' ? 'slot' : record.returnOffset;
  return `${placesKey(words)}.${clobbers}.${depth}.${single === true}.${from}`;
}

/** Pushes the words of the frame. rax = the entry that runs first; `stackWord`: bytes from rsp up to the return address. */
export function emitFrame(a: Assembler, depth: FrameDepth, stackWord: number): void {
  a.push(rax);
  if (depth === 'entry') return;
  a.lea(rdi, mem(rax, -RECORD.entry));
  a.push(rdi);
  if (depth === 'record') return;
  a.lea(rdi, mem(rsp, stackWord - FRAME.record));
  a.push(rdi);
}

/**
 * Emits one global trampoline:
 *
 *     save what changes; lay out the arguments; ctx = stack pointer
 *     record = the caller's record
 *     entry = &record.first
 *     do { entry.bpf_func(ctx) } while (entry = the next one)
 *     restore; return
 *
 * `tableRoot` is the address of the metadata table's root.
 */
export function emitGlobalTrampoline(a: Assembler, spec: TrampolineSpec, tableRoot: bigint): void {
  const lookup = spec.record !== 'slot';
  const changed = spec.clobbers | bit(rax) | bit(rdi) | (lookup ? TABLE_LOOKUP_CHANGES : 0);
  const frame = new ContextFrame(spec.words, changed);
  // Where it will return to lies between.
  frame.emitSave(a, WORD);
  a.mov(rax, mem(rsp, frame.size));

  const absent = a.label();
  const further = a.label();
  const done = a.label();
  if (spec.record === 'slot') a.sub(rax, RETURN_TO_RECORD - RECORD.entry);
  else {
    a.sub(rax, spec.record.returnOffset);
    emitTableLookup(a, tableRoot, rax, rax, absent);
    a.add(rax, RECORD.entry);
  }
  emitFrame(a, spec.depth, frame.size + WORD);
  const bottom = FRAME[spec.depth];
  const entry = mem(rsp, FRAME.entry - bottom);
  a.lea(rdi, mem(rsp, -bottom));
  a.callReg(mem(rax, ENTRY.bpfFunc));
  if (spec.single === true) {
    a.add(rsp, -bottom);
    if (lookup) a.bind(absent);
    frame.emitRestore(a);
    a.ret();
    return;
  }
  a.mov(rax, entry);
  a.mov(rax, mem(rax, RECORD.more - RECORD.entry));
  a.test(rax, rax);
  a.jcc('ne', further);
  a.bind(done);
  a.add(rsp, -bottom);
  if (lookup) a.bind(absent);
  frame.emitRestore(a);
  a.ret();

  const next = a.here();
  a.bind(further);
  a.mov(entry, rax);
  a.lea(rdi, mem(rsp, -bottom));
  a.callReg(mem(rax, ENTRY.bpfFunc));
  a.mov(rax, entry);
  a.add(rax, ENTRY.size);
  a.cmp(mem(rax, ENTRY.bpfFunc), 0);
  a.jcc('ne', next);
  a.jmp(done);
}
