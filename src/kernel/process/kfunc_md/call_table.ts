/**
 * The call table: the calls of traced functions that will run programs when they return. Its counterpart in the kernel
 * is function graph tracing's shadow stack (`fgraph`); it is no stack here, because a process switches stacks, jumps out
 * of calls and forks as it likes. An entry is found by the address of the stack word that holds the call's return
 * address: the word goes where the stack goes, and a call that never returned leaves an entry that the next call on the
 * same word takes over.
 *
 * It lies in private memory of the process, so that a forked child has its own, as it has its own stack. Nothing waits:
 * only the thread whose stack it is works on the entries of a word. In the first half of the table an entry stays its
 * word's when the call has ended, so that the next call on the word takes it with a plain store: no other thread writes
 * it. Where all places there are other words', the second half serves: there every entry is claimed by
 * compare-and-exchange, and anyone's when its call has ended. Entries of the first half are taken from their words only
 * while the process stands still, with no thread in code of ours (settle.ts).
 *
 *     table    u8 touched[ENTRIES / CHUNK], then entries
 *     entry      0  key        word | depth << 48 | state; 0: never used
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
/** States of an entry: its call is under way, or has ended and left everything as it was. */
export const LIVE = 1;
export const ENDED = 2;
export const STATES = LIVE | ENDED;
export const DEPTH_SHIFT = 48;
/** Entries for one byte of `touched`. */
export const CHUNK = 64;
/** An entry is at one of so many places of the first half, or of the second. */
export const FIRST_PLACES = 8;
export const SECOND_PLACES = 56;
/**
 * From each place to the next it is so many times as far as before, from 1 on: the first few are near the word's first
 * place, the others all over the table, since deep stacks fill whole stretches of it.
 */
export const STEP_FACTOR = 5; // rdi + 4 * rdi
const stepAfter = (places: number): number =>
  Array.from({ length: places }).reduce<number>(step => Math.imul(step, STEP_FACTOR), 1);
const LAST_OF_FIRST = stepAfter(FIRST_PLACES);
const LAST_OF_SECOND = stepAfter(FIRST_PLACES + SECOND_PLACES);
const GOLDEN = 0x9e37_79b9;
/** The entries of one word at other depths are further on. */
export const DEPTH_STEP = 8;
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

/** The places where the entry of a word's call may be, in the order in which they are looked at. */
export function* callPlaces(word: bigint, depth: number, entries: number): Iterable<number> {
  const block = Number(BigInt.asUintN(32, word >> BigInt(BLOCK_SHIFT)));
  const first = Number(BigInt.asUintN(32, word >> BigInt(WORD_SHIFT))) + depth * DEPTH_STEP;
  let place = (Math.imul(block, GOLDEN) + first) | 0;
  const half = entries / 2;
  let at = 0;
  for (let step = 1; step !== LAST_OF_SECOND; step = Math.imul(step, STEP_FACTOR)) {
    if (step === LAST_OF_FIRST) at = half;
    yield at + (place & (half - 1));
    place = (place + step) | 0;
  }
}

/**
 * Both below begin so: rdx = stack word, r8 = depth. Leaves the live key in r10, the place in r9, the entries' address in
 * r11, and in rdi how far it is to the next place.
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
  a.mov(rdi, 1, 4);
}

/** Goes on with the next place at `probe`, or falls through behind the `last` one. */
function emitNextPlace(a: Assembler, probe: Label, last: number): void {
  a.add(r9, rdi, 4);
  a.lea(rdi, mem(rdi, 0, rdi, 4));
  a.cmp(rdi, last, 4);
  a.jcc('ne', probe);
}

/** rcx = the entry at place r9, in this half. */
function emitEntryAt(a: Assembler, { entries }: CallTablePlace, half: 'first' | 'second'): void {
  a.mov(rcx, r9);
  a.and(rcx, entries / 2 - 1, 4);
  a.shl(rcx, ENTRY_SHIFT);
  if (half === 'second') a.add(rcx, (entries / 2) * CALL.size);
  a.add(rcx, r11);
}

/** Notes that the chunk of the entry rcx was touched. Changes rax. */
function emitTouch(a: Assembler, { entries }: CallTablePlace): void {
  a.mov(rax, rcx);
  a.sub(rax, r11);
  a.shr(rax, ENTRY_SHIFT + Math.log2(CHUNK));
  a.sub(rax, entries / CHUNK);
  a.mov(mem(r11, 0, rax, 1), 1, 1);
}

/**
 * Emits the claim of an entry: rdx = stack word, r8 = depth; rcx = the entry, live, on falling through; `full` where
 * there is none. Changes rax, rcx, rdi, r9 to r11.
 */
export function emitClaimCall(a: Assembler, place: CallTablePlace, full: Label): void {
  const own = a.label();
  const fresh = a.label();
  const further = a.label();
  const taken = a.label();
  emitHash(a, place);
  const first = a.here();
  emitEntryAt(a, place, 'first');
  a.mov(rax, mem(rcx));
  // Ended, or left by a call that never returned.
  a.sub(rax, r10);
  a.cmp(rax, ENDED - LIVE);
  a.jcc('be', own);
  a.add(rax, r10);
  a.jcc('e', fresh);
  emitNextPlace(a, first, LAST_OF_FIRST);
  a.jmp(further);
  a.bind(fresh);
  emitTouch(a, place);
  a.xor(rax, rax, 4);
  a.lockCmpxchg(mem(rcx), r10);
  a.jcc('ne', first);
  a.jmp(taken);

  const second = a.label();
  const take = a.label();
  a.bind(further);
  a.bind(second);
  emitEntryAt(a, place, 'second');
  a.mov(rax, mem(rcx));
  a.cmp(rax, r10);
  a.jcc('e', taken);
  a.test(rax, LIVE, 1);
  a.jcc('e', take);
  emitNextPlace(a, second, LAST_OF_SECOND);
  a.jmp(full);
  a.bind(take);
  emitTouch(a, place);
  a.mov(rax, mem(rcx));
  a.test(rax, LIVE, 1);
  a.jcc('ne', second);
  a.lockCmpxchg(mem(rcx), r10);
  a.jcc('ne', second);
  a.jmp(taken);

  a.bind(own);
  a.mov(mem(rcx), r10);
  a.bind(taken);
}

/** Ends the call of the entry rcx. */
export function emitEndCall(a: Assembler): void {
  // As a whole: the next call loads it as a whole, perhaps before it is out of the store buffer.
  a.add(mem(rcx), ENDED - LIVE);
}

/**
 * Emits the look-up of a call: rdx = stack word, r8 = depth; rcx = its live entry on falling through, `lost` where there is
 * none. With `ended`, an entry whose call has ended and that nobody took since goes there, with rcx. Changes rax, rdi, r9
 * to r11.
 */
export function emitFindCall(a: Assembler, place: CallTablePlace, lost: Label, ended?: Label): void {
  const found = a.label();
  const search = (hit: Label): void => {
    emitHash(a, place);
    if (hit !== found) a.add(r10, ENDED - LIVE);
    for (const [half, last] of [
      ['first', LAST_OF_FIRST],
      ['second', LAST_OF_SECOND],
    ] as const) {
      const probe = a.here();
      emitEntryAt(a, place, half);
      a.mov(rax, mem(rcx));
      a.cmp(rax, r10);
      a.jcc('e', hit);
      emitNextPlace(a, probe, last);
    }
  };
  search(found);
  if (ended !== undefined) search(ended);
  a.jmp(lost);
  a.bind(found);
}
