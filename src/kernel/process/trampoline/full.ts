/**
 * Full trampolines: for functions that have more than plain fentry programs. At entry they run the fentry and fsession
 * programs, then the modify-return programs until one returns non-zero; where programs run at the return they put our
 * return trampoline (return.ts) in the place of the function's return address.
 *
 * The original is never called from here: what a caller passed on the stack stays where the function looks for it.
 */

import {
  type Assembler,
  type Label,
  mem,
  r8,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from '../../../x86/assembler.js';
import {
  CALL,
  CALL_CONTEXT,
  type CallTablePlace,
  emitClaimCall,
  MOST_DEPTH,
} from '../kfunc_md/call_table.js';
import { ITEM, LISTS, NEEDS } from '../kfunc_md/lists.js';
import { ENTRY, RECORD } from '../kfunc_md/record.js';
import { emitTableLookup } from '../kfunc_md/table.js';
import { FRAME } from './frame.js';
import { ARGUMENTS, RETURN_TO_RECORD, type TrampolineSpec } from './global.js';
import { RETURN_STRIDE } from './return.js';

/** Where the process has what calls with a return need. */
export interface ReturnPlace {
  readonly table: CallTablePlace;
  /** The first of the return trampolines. */
  readonly trampoline: bigint;
}

const WORD = 8;
/** Of the caller-saved registers those that carry no argument; rax is the highest on the stack. */
const OTHERS = [rax, r10, r11] as const;
/** From the context to the words above it. */
const SAVED_RAX = (ARGUMENTS.length + 1 + OTHERS.length - 1) * WORD;
const OWN_RETURN = SAVED_RAX + WORD;
const STACK_WORD = OWN_RETURN + WORD;
/** Below the context, beside the words of frame.ts: the call's entry (0: none), and what a return value stands for. */
const CLAIMED = FRAME.isReturn - WORD;
const SWAPPED = CLAIMED - WORD;
const BOTTOM = SWAPPED;

/** A word of the frame, by its distance from the context. */
const at = (offset: number) => mem(rsp, offset - BOTTOM);

/**
 * Emits one full trampoline:
 *
 *     save; lay out the arguments
 *     lists = those of the record
 *     if (lists.claims) entry = claim(stack word)
 *     for each entry program: run
 *     for each modify-return program: if ((value = run) != 0) { skip the original; break }
 *     if (entry) *stack word = return trampoline
 *     restore; return into the function, or to its caller with the value
 */
export function emitFullTrampoline(
  a: Assembler,
  spec: TrampolineSpec,
  tableRoot: bigint,
  place: ReturnPlace,
): void {
  const lookup = spec.record !== 'slot';
  const absent = a.label();
  const finish = a.label();
  for (const reg of OTHERS) a.push(reg);
  a.push(0);
  for (const reg of ARGUMENTS.toReversed()) a.push(reg);
  a.mov(rax, mem(rsp, OWN_RETURN));
  if (spec.record === 'slot') a.sub(rax, RETURN_TO_RECORD);
  else {
    a.sub(rax, spec.record.returnOffset);
    emitTableLookup(a, tableRoot, rax, rax, absent);
  }
  a.lea(rdx, mem(rsp, STACK_WORD));
  a.push(rax);
  a.push(0);
  a.push(rdx);
  a.push(0);
  a.push(0);
  a.push(0);
  a.push(0);
  a.mov(rsi, mem(rax, RECORD.flags), 4);
  if (lookup) emitPlain(a, finish);
  a.add(rsi, rax);
  emitClaim(a, place);
  emitEntries(a);
  emitModReturns(a);
  a.bind(finish);
  emitHook(a);
  a.sub(rsp, BOTTOM);
  if (lookup) a.bind(absent);
  for (const reg of ARGUMENTS) a.pop(reg);
  a.lea(rsp, mem(rsp, WORD));
  for (const reg of OTHERS.toReversed()) a.pop(reg);
  a.ret();
}

/** A record without lists: the thread came through a nop sled just when these programs left or joined. rsi = flags. */
function emitPlain(a: Assembler, finish: Label): void {
  const full = a.label();
  const done = a.label();
  a.test(rsi, rsi, 4);
  a.jcc('ne', full);
  a.add(rax, RECORD.entry);
  a.mov(at(FRAME.entry), rax);
  a.lea(rdi, at(0));
  a.callReg(mem(rax, ENTRY.bpfFunc));
  a.mov(rax, at(FRAME.entry));
  a.mov(rax, mem(rax, RECORD.more - RECORD.entry));
  a.test(rax, rax);
  a.jcc('e', done);
  const next = a.here();
  a.cmp(mem(rax, ENTRY.bpfFunc), 0);
  a.jcc('e', done);
  a.mov(at(FRAME.entry), rax);
  a.lea(rdi, at(0));
  a.callReg(mem(rax, ENTRY.bpfFunc));
  a.mov(rax, at(FRAME.entry));
  a.add(rax, ENTRY.size);
  a.jmp(next);
  a.bind(done);
  a.jmp(finish);
  a.bind(full);
}

/** rsi = lists, rdx = stack word. Keeps rsi. */
function emitClaim(a: Assembler, { table, trampoline }: ReturnPlace): void {
  const none = a.label();
  const missed = a.label();
  const claim = a.label();
  const noArguments = a.label();
  a.test(mem(rsi, LISTS.needs), NEEDS.claim, 1);
  a.jcc('e', none);
  a.xor(r8, r8, 4);
  a.mov(rax, mem(rdx));
  a.movImm64(rcx, trampoline);
  a.sub(rax, rcx);
  a.cmp(rax, MOST_DEPTH * RETURN_STRIDE);
  a.jcc('ae', claim);
  // Called by a tail call: the word holds a return trampoline of ours already.
  a.mov(r8, rax);
  a.shr(r8, Math.log2(RETURN_STRIDE));
  a.inc(r8, 4);
  a.cmp(r8, MOST_DEPTH, 4);
  a.jcc('e', missed);
  a.bind(claim);
  emitClaimCall(a, table, missed);
  a.mov(at(CLAIMED), rcx);
  a.mov(rax, mem(rdx));
  a.mov(mem(rcx, CALL.original), rax);
  a.mov(rax, mem(rsi, LISTS.serial));
  a.mov(mem(rcx, CALL.serial), rax);
  a.mov(mem(rcx, CALL.stack), rdx);
  a.mov(rax, at(FRAME.record));
  a.mov(mem(rcx, CALL.record), rax);
  // Which return trampoline: kept until it is put on the stack.
  a.shl(r8, Math.log2(RETURN_STRIDE));
  a.movImm64(rax, trampoline);
  a.add(rax, r8);
  a.mov(mem(rcx, CALL.swapped), rax);
  a.test(mem(rsi, LISTS.needs), NEEDS.args, 1);
  a.jcc('e', noArguments);
  for (let i = 0; i < ARGUMENTS.length; i++) {
    a.mov(rax, at(i * WORD));
    a.mov(mem(rcx, CALL_CONTEXT + i * WORD), rax);
  }
  a.bind(noArguments);
  a.test(mem(rsi, LISTS.needs), NEEDS.sessions, 1);
  a.jcc('e', none);
  for (let offset = CALL.sessions; offset < CALL.size; offset += WORD) a.mov(mem(rcx, offset), 0);
  a.jmp(none);

  a.bind(missed);
  a.mov(rdi, mem(rsi, LISTS.exits), 4);
  a.add(rdi, rsi);
  const next = a.here();
  a.cmp(mem(rdi, ITEM.bpfFunc), 0);
  a.jcc('e', none);
  a.mov(rax, mem(rdi, ITEM.missed));
  a.lock('inc', mem(rax));
  a.add(rdi, ITEM.size);
  a.jmp(next);
  a.bind(none);
}

/** Runs the programs at entry. rsi = lists. */
function emitEntries(a: Assembler): void {
  const done = a.label();
  const run = a.label();
  const skip = a.label();
  a.add(rsi, LISTS.entries);
  const next = a.here();
  a.mov(at(FRAME.entry), rsi);
  a.cmp(mem(rsi, ITEM.bpfFunc), 0);
  a.jcc('e', done);
  a.mov(rax, mem(rsi, ITEM.session));
  a.test(rax, rax);
  a.jcc('e', run);
  // A session that can't see the return does not see the entry either.
  a.mov(rcx, at(CLAIMED));
  a.test(rcx, rcx);
  a.jcc('e', skip);
  a.add(rax, rcx);
  a.mov(at(FRAME.cookie), rax);
  a.bind(run);
  a.lea(rdi, at(0));
  a.callReg(mem(rsi, ITEM.bpfFunc));
  a.bind(skip);
  a.mov(rsi, at(FRAME.entry));
  a.add(rsi, ITEM.size);
  a.jmp(next);
  a.bind(done);
}

/** Runs the modify-return programs, which follow the entry programs' end. */
function emitModReturns(a: Assembler): void {
  const done = a.label();
  a.mov(rsi, at(FRAME.entry));
  const next = a.here();
  a.add(rsi, ITEM.size);
  a.mov(at(FRAME.entry), rsi);
  a.cmp(mem(rsi, ITEM.bpfFunc), 0);
  a.jcc('e', done);
  a.lea(rdi, at(0));
  a.mov(rax, mem(rsi, ITEM.returnAt));
  a.mov(rdx, mem(rdi, 0, rax, 1));
  a.mov(at(SWAPPED), rdx);
  a.mov(mem(rdi, 0, rax, 1), 0);
  a.callReg(mem(rsi, ITEM.bpfFunc));
  a.mov(rsi, at(FRAME.entry));
  a.mov(rdx, mem(rsi, ITEM.returnAt));
  a.mov(rcx, at(SWAPPED));
  a.mov(mem(rsp, -BOTTOM, rdx, 1), rcx);
  a.test(rax, rax);
  a.jcc('e', next);
  // Skipped: its caller gets the value, and what returned into the function returns to the caller.
  a.mov(at(SAVED_RAX), rax);
  a.mov(rcx, at(CLAIMED));
  const straight = a.label();
  a.mov(rax, mem(rsp, STACK_WORD - BOTTOM));
  a.test(rcx, rcx);
  a.jcc('e', straight);
  a.mov(rax, mem(rcx, CALL.swapped));
  a.mov(mem(rsp, STACK_WORD - BOTTOM), rax);
  a.bind(straight);
  a.sub(rsp, BOTTOM);
  for (const reg of ARGUMENTS) a.pop(reg);
  a.lea(rsp, mem(rsp, WORD));
  for (const reg of OTHERS.toReversed()) a.pop(reg);
  a.lea(rsp, mem(rsp, WORD));
  a.ret();
  a.bind(done);
}

/** The word that the caller's return address is in leads to us from here on. */
function emitHook(a: Assembler): void {
  const none = a.label();
  a.mov(rcx, at(CLAIMED));
  a.test(rcx, rcx);
  a.jcc('e', none);
  a.mov(rax, mem(rcx, CALL.swapped));
  a.mov(at(STACK_WORD), rax);
  a.bind(none);
}
