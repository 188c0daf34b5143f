/**
 * Global trampolines (`bpf_global_caller_N`): the code that every target with N arguments calls. It finds the
 * target's record, runs the programs named there, and returns to the traced function with every register as it was.
 *
 * There are two ways to the record. A target with a slot calls from the slot, whose record lies at a fixed distance
 * before the return address. A target with a compiler's nop sled calls from the function itself, and the record is
 * looked up in the metadata table by the function's address.
 *
 * Registers: callers inside one module may rely on a callee not changing caller-saved registers (-fipa-ra), so
 * all that programs or we change are saved; programs say which those are. Vector registers are never touched. Flags
 * change: a function that reads them at its entry is refused as a target.
 */

import {
  type Assembler,
  mem,
  type Reg,
  r8,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import { ENTRY, RECORD } from '../kfunc_md/record.js';
import { emitTableLookup } from '../kfunc_md/table.js';
import { FRAME } from './frame.js';

/** Integer arguments in registers, in order (System V ABI). */
export const ARGUMENTS: readonly Reg[] = [rdi, rsi, rdx, rcx, r8, r9];
const CALLER_SAVED: readonly Reg[] = [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11];
const WORD = 8;
/** `call rel32`. */
export const CALL_LENGTH = 5;
/** From the return address of a slot's call back to the slot's record. */
export const RETURN_TO_RECORD = RECORD.size + CALL_LENGTH;

const bit = (reg: Reg): number => 1 << reg.code;
const TABLE_LOOKUP_CHANGES = bit(rcx) | bit(rdx) | bit(r10) | bit(r11);

/** What sets one global trampoline apart from another. */
export interface TrampolineSpec {
  /** Arguments that programs see: 0 to 6. */
  readonly nrArgs: number;
  /** Any program reads arguments; without it they are not laid out. */
  readonly arguments: boolean;
  /** Caller-saved registers that the programs change, a mask of 1 << register number. */
  readonly clobbers: number;
  /** A program reads where the function's return address is. */
  readonly stack?: boolean;
  /** For functions with more than plain fentry programs: full.ts. */
  readonly full?: boolean;
  /** The record is before the slot's call, or is looked up: then how far the return address is past the function. */
  readonly record: 'slot' | { readonly returnOffset: number };
}

/** Two specs with one key share a trampoline. */
export function specKey(spec: TrampolineSpec): string {
  const record = spec.record === 'slot' ? 'slot' : spec.record.returnOffset;
  if (spec.full === true) return `full.${record}`;
  return `${spec.nrArgs}.${spec.arguments}.${spec.clobbers}.${spec.stack === true}.${record}`;
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
  const laidOut = spec.arguments ? ARGUMENTS.slice(0, spec.nrArgs) : [];
  const others = CALLER_SAVED.filter(reg => (changed & bit(reg)) !== 0 && !laidOut.includes(reg));
  const pushed = [...others, ...laidOut.toReversed()];
  for (const reg of pushed) a.push(reg);
  a.mov(rax, mem(rsp, pushed.length * WORD));

  const absent = a.label();
  const further = a.label();
  const done = a.label();
  if (spec.record === 'slot') a.sub(rax, RETURN_TO_RECORD);
  else {
    a.sub(rax, spec.record.returnOffset);
    emitTableLookup(a, tableRoot, rax, rax, absent);
  }
  // ctx - 8 and ctx - 16, and ctx - 24 where it is asked for: see frame.ts.
  const bottom = spec.stack === true ? FRAME.stack : FRAME.entry;
  const entry = mem(rsp, FRAME.entry - bottom);
  a.push(rax);
  a.add(rax, RECORD.entry);
  a.push(rax);
  if (spec.stack === true) {
    a.lea(rdi, mem(rsp, (pushed.length + 1) * WORD - FRAME.entry));
    a.push(rdi);
  }
  a.lea(rdi, mem(rsp, -bottom));
  a.callReg(mem(rax, ENTRY.bpfFunc));
  a.mov(rax, entry);
  a.mov(rax, mem(rax, RECORD.more - RECORD.entry));
  a.test(rax, rax);
  a.jcc('ne', further);
  a.bind(done);
  a.add(rsp, -bottom);
  if (lookup) a.bind(absent);
  for (const reg of pushed.toReversed()) a.pop(reg);
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
