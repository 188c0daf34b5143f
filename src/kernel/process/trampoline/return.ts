/**
 * Return trampolines: where a traced function returns to when programs run at its return. There is one for each depth of
 * tail calls; they differ in the number that they leave on the stack.
 *
 * And what the C++ unwinder needs to see through them: it looks for the caller by the return address, which is ours. A
 * small program in front of `_Unwind_Find_FDE` tells it the original one instead. Nothing on the stack is changed for it,
 * so that the calls which are not unwound still run their programs when they return.
 */

import {
  type Assembler,
  type Label,
  mem,
  type Reg,
  r8,
  r9,
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
  emitEndCall,
  emitFindCall,
  MOST_DEPTH,
} from '../kfunc_md/call_table.js';
import { ITEM, LISTS, RESULT, RESULT_PLACES } from '../kfunc_md/lists.js';
import { RECORD } from '../kfunc_md/record.js';
import { CALLER_SAVED, emitStoreVector, WORD } from './context_frame.js';

/** From one return trampoline to the next. */
export const RETURN_STRIDE = 16;
/** In front of each: the `call` that enters a function which shall return there. */
export const CALL_THUNK_LENGTH = 4;
/** From the stack pointer at that call to the word with the function's address: full.ts puts it there. */
const CALL_TARGET = -24;
const SAVED = CALLER_SAVED;
/** Lists lie no further from their record. */
const MOST_DISTANCE = 0x10000;
/** `lahf`, `sahf`: five of the flags to ah and back; the sixth, overflow, goes through al. */
const LAHF = 0x9f;
const SAHF = 0x9e;
const OVERFLOW_AGAIN = 0x7f;
/** From the stack pointer, once all is saved and the entry pushed, to the word that held the return address. */
const SAVED_WORDS = SAVED.length + 1;

/**
 * Emits the return trampolines, which must begin at a multiple of `RETURN_STRIDE`; the first label is where.
 *
 *     call the function
 *     save; find the call by its stack word; put the original return address back there
 *     for each program at the return: run
 *     free the entry; restore; return to the original return address
 *
 * Function and trampoline return to where the calls before them stand: a processor that predicts returns is right.
 */
export function emitReturnTrampolines(a: Assembler, place: CallTablePlace): Label {
  const common = a.label();
  const ended = a.label();
  const lost = a.label();
  const special = a.label();
  const done = a.label();
  const leave = a.label();
  const first = a.label();
  for (let depth = 0; depth < MOST_DEPTH; depth++) {
    while (a.length % RETURN_STRIDE !== RETURN_STRIDE - CALL_THUNK_LENGTH) a.int3();
    a.callReg(mem(rsp, CALL_TARGET));
    if (depth === 0) a.bind(first);
    // Where the return address was: the word is above our stack pointer as long as we work.
    a.push(depth);
    a.jmp(common);
  }
  a.align(RETURN_STRIDE);
  a.bind(common);
  for (const reg of SAVED) a.push(reg);
  a.byte(LAHF);
  a.setcc('o', rax);
  a.push(rax);
  a.lea(rdx, mem(rsp, SAVED_WORDS * WORD));
  a.mov(r8, mem(rdx));
  emitFindCall(a, place, lost, ended);
  a.mov(rax, mem(rcx, CALL.original));
  a.mov(mem(rdx), rax);
  a.push(rcx);
  a.mov(mem(rcx, CALL.isReturn), 1);
  a.mov(rsi, mem(rcx, CALL.record));
  a.mov(rax, mem(rsi, RECORD.flags), 4);
  // A child that was forked long ago may find the slot used for something else.
  a.lea(r8, mem(rax, -1));
  a.cmp(r8, MOST_DISTANCE, 4);
  a.jcc('ae', done);
  a.add(rsi, rax);
  a.mov(rax, mem(rsi, LISTS.exits), 4);
  a.mov(r8, mem(rsi, LISTS.result), 4);
  a.add(rsi, rax);
  a.test(r8, r8, 4);
  a.jcc('ne', special);
  emitPrograms(a, done, [{ place: SAVED_WORDS * WORD, swapped: CALL.swapped }], 0);
  a.bind(done);
  emitEndCall(a);
  a.lea(rsp, mem(rsp, WORD));
  a.bind(leave);
  a.pop(rax);
  a.add(rax, OVERFLOW_AGAIN, 1);
  a.byte(SAHF);
  for (const reg of SAVED.toReversed()) a.pop(reg);
  a.ret();

  // Returned from once already, and again.
  a.bind(ended);
  a.mov(rax, mem(rcx, CALL.original));
  a.mov(mem(rdx), rax);
  a.jmp(leave);
  // Somebody copied our return address to where no call of ours was: there is no telling where to go.
  a.bind(lost);
  a.ud2();

  // A result that is not in rax alone.
  a.bind(special);
  for (const [i, word] of ['second', 'first'].entries())
    emitResultWord(a, word === 'first' ? RESULT.first : RESULT.second, i);
  const specialDone = a.label();
  const results = [
    { place: 0, swapped: CALL.swapped },
    { place: WORD, swapped: CALL.swappedSecond },
  ];
  emitPrograms(a, specialDone, results, 2 * WORD);
  a.bind(specialDone);
  a.lea(rsp, mem(rsp, 2 * WORD));
  a.jmp(done);
  return first;
}

/**
 * Runs the programs from the item rsi on, and goes to `done`. rcx = the call's entry, whose address is also in the stack
 * word `entryAt`. Each word of the result is in the stack word `place`; what stands in the context where a program looks
 * for it is kept in the entry meanwhile: to another program it is an argument.
 */
function emitPrograms(
  a: Assembler,
  done: Label,
  results: readonly { readonly place: number; readonly swapped: number }[],
  entryAt: number,
): void {
  const next = a.label();
  const run = a.here();
  a.cmp(mem(rsi, ITEM.bpfFunc), 0);
  a.jcc('e', done);
  // One that joined while the call was under way did not see it begin.
  a.mov(rax, mem(rsi, ITEM.serial));
  a.cmp(rax, mem(rcx, CALL.serial));
  a.jcc('a', next);
  a.mov(mem(rcx, CALL.item), rsi);
  a.mov(rax, mem(rsi, ITEM.session), 4);
  a.add(rax, rcx);
  a.mov(mem(rcx, CALL.cookie), rax);
  a.lea(rdi, mem(rcx, CALL_CONTEXT));
  a.mov(rax, mem(rsi, ITEM.returnAt), 4);
  for (const [i, { place, swapped }] of results.entries()) {
    a.mov(r8, mem(rdi, i * WORD, rax, 1));
    a.mov(mem(rcx, swapped), r8);
    a.mov(r8, mem(rsp, place));
    a.mov(mem(rdi, i * WORD, rax, 1), r8);
  }
  a.callReg(mem(rsi, ITEM.bpfFunc));
  a.mov(rcx, mem(rsp, entryAt));
  a.mov(rsi, mem(rcx, CALL.item));
  a.mov(rax, mem(rsi, ITEM.returnAt), 4);
  for (const [i, { swapped }] of results.entries()) {
    a.mov(r8, mem(rcx, swapped));
    a.mov(mem(rcx, CALL_CONTEXT + i * WORD, rax, 1), r8);
  }
  a.bind(next);
  a.add(rsi, ITEM.size);
  a.jmp(run);
}

/** Pushes the word of the result that the bits at `shift` of r8 name; `pushed` words of it are pushed already. */
function emitResultWord(a: Assembler, shift: number, pushed: number): void {
  const ready = a.label();
  const saved = (reg: Reg): number => (SAVED_WORDS - SAVED.indexOf(reg) + pushed) * WORD;
  a.mov(r9, r8);
  a.shr(r9, shift);
  a.and(r9, RESULT.mask, 4);
  for (const [place, emit] of [
    ['rdx', () => a.push(mem(rsp, saved(rdx)))],
    ['xmm0', () => emitPushVector(a, 0)],
    ['xmm1', () => emitPushVector(a, 1)],
    ['nowhere', () => a.push(0)],
  ] as const) {
    const other = a.label();
    a.cmp(r9, RESULT_PLACES.indexOf(place), 4);
    a.jcc('ne', other);
    emit();
    a.jmp(ready);
    a.bind(other);
  }
  a.push(mem(rsp, saved(rax)));
  a.bind(ready);
}

function emitPushVector(a: Assembler, vector: number): void {
  a.push(rax);
  emitStoreVector(a, vector);
}

/** In `struct _Unwind_Context` (libgcc, unwind-dw2.c): from `bases` back to the return address and the frame's CFA. */
const CONTEXT_RA = -16;
const CONTEXT_CFA = -24;

/**
 * Emits the program in front of `_Unwind_Find_FDE (pc, bases)`: rdi = its context, whose arguments the trampoline puts
 * back into the registers. An unwinder that asks about one of our return trampolines has it in its `_Unwind_Context`:
 * there and in `pc` it becomes the original return address.
 */
export function emitUnwindProgram(a: Assembler, place: CallTablePlace, trampoline: bigint): void {
  const out = a.label();
  const lost = a.label();
  a.mov(rax, mem(rdi));
  a.movImm64(rcx, trampoline - 1n);
  a.mov(rdx, rax);
  a.sub(rdx, rcx);
  a.cmp(rdx, MOST_DEPTH * RETURN_STRIDE);
  a.jcc('ae', out);
  // `pc` is the return address, or one less: what the call belongs to.
  a.mov(rsi, mem(rdi, WORD));
  a.sub(rax, mem(rsi, CONTEXT_RA));
  a.cmp(rax, 0);
  a.jcc('g', out);
  a.cmp(rax, -1);
  a.jcc('l', out);
  a.push(rdi);
  a.push(rax);
  a.mov(r8, mem(rsi, CONTEXT_RA));
  a.mov(rdx, mem(rsi, CONTEXT_CFA));
  a.sub(rdx, WORD);
  emitSeeThrough(a, place, trampoline, lost);
  a.mov(mem(rsi, CONTEXT_RA), r8);
  a.pop(rax);
  a.pop(rdi);
  a.add(rax, r8);
  a.mov(mem(rdi), rax);
  a.bind(out);
  a.ret();
  a.bind(lost);
  a.add(rsp, 2 * WORD);
  a.ret();
}

/**
 * Emits what a stack walk does with a return address: r8 = the address, rdx = the stack word that it is in. r8 is the
 * original one on falling through, which it was already unless it is ours; `lost` where it is ours and no call is known
 * there. Changes rax, rcx, rdi, r9 to r11.
 */
export function emitSeeThrough(a: Assembler, place: CallTablePlace, trampoline: bigint, lost: Label): void {
  const seen = a.label();
  const again = a.here();
  a.movImm64(rcx, trampoline);
  a.mov(rax, r8);
  a.sub(rax, rcx);
  a.cmp(rax, MOST_DEPTH * RETURN_STRIDE);
  a.jcc('ae', seen);
  a.shr(rax, Math.log2(RETURN_STRIDE));
  a.mov(r8, rax);
  emitFindCall(a, place, lost);
  a.mov(r8, mem(rcx, CALL.original));
  a.jmp(again);
  a.bind(seen);
}

/** What the unwind program changes. */
export const UNWIND_CLOBBERS = SAVED.reduce((mask, reg) => mask | (1 << reg.code), 0);
