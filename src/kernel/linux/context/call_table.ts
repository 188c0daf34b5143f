/**
 * The table by which main (main.ts) hands something on from the entry of a call to its return. Each call can have one of a few
 * entries; who finds one that is nobody's takes it with one atomic instruction. No lock: what main runs in may be a function
 * that holds one.
 */

import { type ProgramBuilder, type ProgramLabel, R0, R1, R2, R8, R9, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import { ENTRY, PLACE, TABLE_BITS } from './plan.js';

const WORD = 8;
/** How many entries a call can have. */
const PLACES = 8;
/** An odd number that spreads what is multiplied by it over the high bits (2^64 by the golden ratio). */
export const SPREAD = 0x9e37_79b9_7f4a_7c15n;

/** r8 is by what main knows the call, in all of these. */
export interface CallTable {
  readonly map: { readonly id: number };
  /** The entry that counts calls without one. */
  readonly lost: number;
  /** Of main's context, from its frame pointer. */
  readonly contextAt: number;
  /** Words of arguments that are handed on. */
  readonly words: readonly number[];
}

/** Takes an entry that is nobody's, or was this call's before; counts the call and goes to `none` where there is no such. */
export function emitSave(b: ProgramBuilder, table: CallTable, none: ProgramLabel): void {
  const taken = b.label();
  for (let place = 0; place < PLACES; place++) {
    emitLookUp(b, table, place, none);
    b.mov(R0, 0);
    b.mov(R1, R8);
    b.atomicCmpxchg(8, R9, ENTRY.key, R1);
    b.jump('eq', R0, 0, taken);
    b.jump('eq', R0, R8, taken);
  }
  b.mov(R2, table.lost);
  emitEntry(b, table, none);
  b.mov(R1, 1);
  b.atomicAdd(8, R9, ENTRY.key, R1);
  b.goto(none);
  b.bind(taken);
  b.load(8, R1, R10, table.contextAt + PLACE.cookie);
  b.store(8, R9, ENTRY.cookie, R1);
  for (const [i, word] of table.words.entries()) {
    b.load(8, R1, R10, table.contextAt + WORD * word);
    b.store(8, R9, ENTRY.words + WORD * i, R1);
  }
}

/** r9 = the call's entry, at `found`; or goes on, or to `none`. */
export function emitFind(b: ProgramBuilder, table: CallTable, found: ProgramLabel, none: ProgramLabel): void {
  for (let place = 0; place < PLACES; place++) {
    emitLookUp(b, table, place, none);
    b.load(8, R1, R9, ENTRY.key);
    b.jump('eq', R1, R8, found);
  }
}

/** Takes everything out of entry r9, which is nobody's then. */
export function emitTake(b: ProgramBuilder, { contextAt, words }: CallTable): void {
  b.load(8, R1, R9, ENTRY.cookie);
  b.store(8, R10, contextAt + PLACE.cookie, R1);
  for (const [i, word] of words.entries()) {
    b.load(8, R1, R9, ENTRY.words + WORD * i);
    b.store(8, R10, contextAt + WORD * word, R1);
  }
  b.store(8, R9, ENTRY.key, 0);
}

/** r9 = one of the entries that the call can have. */
function emitLookUp(b: ProgramBuilder, table: CallTable, place: number, none: ProgramLabel): void {
  b.ldImm64(R1, SPREAD);
  b.mov(R2, R8);
  b.mul(R2, R1);
  b.rsh(R2, 64 - TABLE_BITS);
  if (place > 0) b.xor(R2, place);
  emitEntry(b, table, none);
}

/** r9 = the entry of number r2. */
function emitEntry(b: ProgramBuilder, { map, contextAt }: CallTable, none: ProgramLabel): void {
  b.store(4, R10, contextAt + PLACE.index, R2);
  b.ldMap(R1, map);
  b.mov(R2, R10);
  b.add(R2, contextAt + PLACE.index);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, none);
  b.mov(R9, R0);
}
