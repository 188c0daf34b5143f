/**
 * The call table: the calls of traced functions that will run programs when they return. Its counterpart in the kernel
 * is function graph tracing's shadow stack (`fgraph`); it is no stack here, because a process switches stacks, jumps out
 * of calls and forks as it likes. An entry is found by the address of the stack word that holds the call's return
 * address: the word goes where the stack goes, and a call that never returned leaves an entry that the next call on the
 * same word takes over.
 *
 * It lies in private memory of the process, so that a forked child has its own, as it has its own stack. Nothing waits:
 * only the thread whose stack it is works on the entries of a word, and a free entry is claimed by compare-and-exchange.
 *
 *     table    u8 touched[ENTRIES / CHUNK], then entries
 *     entry      0  key        word | depth << 48 | live; 0: never used; without `live`: free, contents as it was
 *                8  original   the return address that was replaced
 *               16  serial     of the lists when the function was entered
 *               24  the frame of frame.ts: isReturn, cookie, stack word, item, record
 *               64  words of arguments, and of the result behind them (the context)
 *              176  swapped    what the two words of the result stand in place of, while a program runs
 *              192  session cookies
 *
 * Depth: a function that was called by a tail call (`jmp`) from a traced one finds our trampoline for its return
 * address. It has an entry of its own, one deeper, and a trampoline of its own, which returns to the other one.
 */

import {
  type Assembler,
  type Label,
  mem,
  r8,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
} from '../../../x86/assembler.js';
import { FRAME } from '../trampoline/frame.js';

export const CALL_CONTEXT = 64;

export const CALL = {
  key: 0,
  original: 8,
  serial: 16,
  isReturn: CALL_CONTEXT + FRAME.isReturn,
  cookie: CALL_CONTEXT + FRAME.cookie,
  stack: CALL_CONTEXT + FRAME.stack,
  item: CALL_CONTEXT + FRAME.entry,
  record: CALL_CONTEXT + FRAME.record,
  swapped: 176,
  swappedSecond: 184,
  sessions: 192,
  size: 256,
} as const;

/** Programs with a session cookie that one function can have. */
export const MOST_SESSIONS = 8;
/** Tail calls among traced functions that share one return. */
export const MOST_DEPTH = 8;
export const LIVE = 1;
export const DEPTH_SHIFT = 48;
/** Entries for one byte of `touched`. */
export const CHUNK = 64;
/** An entry is at most so many places behind where its word hashes to. */
const WINDOW = 64;
const GOLDEN = 0x9e37_79b9;
/** The entries of one word at other depths are further on. */
const DEPTH_STEP = 8;
/** Consecutive stack words have consecutive entries; each stretch of 64 KiB of stack begins elsewhere. */
const BLOCK_SHIFT = 16;
const WORD_SHIFT = 4;
const ENTRY_SHIFT = 8;

/** Where a process has its call table. `entries` is a power of two. */
export interface CallTablePlace {
  readonly address: bigint;
  readonly entries: number;
}

export function callTableBytes(entries: number): number {
  return entries / CHUNK + entries * CALL.size;
}

export function entriesAddress({ address, entries }: CallTablePlace): bigint {
  return address + BigInt(entries / CHUNK);
}

/**
 * Both below begin so: rdx = stack word, r8 = depth. Leaves the live key in r10, the place in r9, the entries' address in
 * r11, and in rdi how many places there are to look at.
 */
function emitHash(a: Assembler, place: CallTablePlace): void {
  a.mov(r10, r8);
  a.shl(r10, DEPTH_SHIFT);
  a.lea(r10, mem(r10, LIVE, rdx, 1));
  a.mov(r9, rdx);
  a.shr(r9, BLOCK_SHIFT);
  a.imul3(r9, r9, GOLDEN | 0, 4);
  a.mov(rcx, rdx);
  a.shr(rcx, WORD_SHIFT);
  a.add(r9, rcx, 4);
  a.lea(r9, mem(r9, 0, r8, DEPTH_STEP));
  a.movImm64(r11, entriesAddress(place));
  a.mov(rdi, WINDOW, 4);
}

/** rcx = the entry at place r9. */
function emitEntryAt(a: Assembler, place: CallTablePlace): void {
  a.and(r9, place.entries - 1, 4);
  a.mov(rcx, r9);
  a.shl(rcx, ENTRY_SHIFT);
  a.add(rcx, r11);
}

/**
 * Emits the claim of an entry: rdx = stack word, r8 = depth; rcx = the entry, live, on falling through; `full` where
 * there is none. Changes rax, rcx, rdi, r9 to r11.
 */
export function emitClaimCall(a: Assembler, place: CallTablePlace, full: Label): void {
  const fresh = a.label();
  const take = a.label();
  const taken = a.label();
  emitHash(a, place);
  const probe = a.here();
  emitEntryAt(a, place);
  a.mov(rax, mem(rcx));
  a.test(rax, rax);
  a.jcc('e', fresh);
  a.test(rax, LIVE, 1);
  a.jcc('e', take);
  // Left by a call that never returned.
  a.cmp(rax, r10);
  a.jcc('e', taken);
  a.inc(r9, 4);
  a.dec(rdi, 4);
  a.jcc('ne', probe);
  a.jmp(full);
  a.bind(fresh);
  a.mov(rax, r9, 4);
  a.shr(rax, Math.log2(CHUNK));
  a.sub(rax, place.entries / CHUNK);
  a.mov(mem(r11, 0, rax, 1), 1, 1);
  a.xor(rax, rax, 4);
  a.bind(take);
  a.lockCmpxchg(mem(rcx), r10);
  a.jcc('ne', probe);
  a.bind(taken);
}

/**
 * Emits the look-up of a call: rdx = stack word, r8 = depth; rcx = its live entry on falling through, `lost` where there is
 * none. With `ended`, an entry that was freed and that nobody took since goes there, with rcx. Changes rax, rdi, r9 to r11.
 */
export function emitFindCall(a: Assembler, place: CallTablePlace, lost: Label, ended?: Label): void {
  const found = a.label();
  const search = (hit: Label): void => {
    emitHash(a, place);
    if (hit !== found) a.dec(r10);
    const probe = a.here();
    emitEntryAt(a, place);
    a.mov(rax, mem(rcx));
    a.cmp(rax, r10);
    a.jcc('e', hit);
    a.inc(r9, 4);
    a.dec(rdi, 4);
    a.jcc('ne', probe);
  };
  search(found);
  if (ended !== undefined) search(ended);
  a.jmp(lost);
  a.bind(found);
}
