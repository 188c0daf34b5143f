/**
 * The BPF program behind `latency`: the time of the entry goes into the session's cookie, and at the return the duration
 * is added to the function's total, maximum and histogram, atomically: functions that several threads call lose nothing.
 * What is measured is the time between the last instruction of the entry's run and the first of the return's.
 */

import { ProgramBuilder, type ProgramLabel, R0, R1, R2, R3, R6, R7, R8, R9, R10 } from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { KFUNC } from '../../bpf/kfuncs.js';
import type { Operator, ResultFilter } from '../filters.js';
import type { ResultSize } from '../signature.js';
import { emitChoice, type ThreadChoice } from '../thread_choice.js';
import { BUCKETS, MAX_BITS, SUB_BITS } from './histogram.js';

/** A function's value in the first map; bytes. */
export const STATS = { total: 0, max: 8, size: 16 } as const;
/** In the second: calls in each bucket. */
export const HISTOGRAM_BYTES = BUCKETS * 8;

export interface LatencyMaps {
  readonly stats: { readonly id: number };
  readonly histograms: { readonly id: number };
}

export interface LatencyFilters {
  /** Whose calls. */
  readonly threads?: ThreadChoice;
  /** Shorter calls do not count, ns. */
  readonly minDuration?: number;
  readonly result?: ResultFilter;
}

/** Behind the slot in the cookie: how the function's result compares. */
const KIND_SHIFT = 32;
const OPAQUE = 0;
const NOTHING = 15;
const SIZES = [1, 2, 4, 8] as const;

/** `null`: it has no result that a program sees; `undefined`: nothing is known of it. */
export function latencyCookie(slot: number, result: ResultSize | null | undefined): bigint {
  return BigInt(slot) | (BigInt(kindOf(result)) << BigInt(KIND_SHIFT));
}

function kindOf(result: ResultSize | null | undefined): number {
  if (result === undefined) return OPAQUE;
  if (result === null) return NOTHING;
  const index = SIZES.indexOf(result.bytes as (typeof SIZES)[number]);
  return index < 0 ? NOTHING : 1 + index + (result.signed ? SIZES.length : 0);
}

const STACK = { slot: -4 } as const;
const RESULT_AT = 6 * 8;
/** Tries to raise a maximum that others raise at the same time. */
const MAX_TRIES = 4;

export function latencyProgram(maps: LatencyMaps, filters: LatencyFilters): BpfInsn[] {
  const b = new ProgramBuilder();
  const out = b.label();
  const returned = b.label();
  b.mov(R6, R1);
  b.callKfunc(KFUNC.bpf_session_is_return);
  b.jump('ne', R0, 0, returned);
  emitChoice(b, filters.threads ?? {}, out);
  b.mov(R1, R6);
  b.callKfunc(KFUNC.bpf_session_cookie);
  b.mov(R7, R0);
  b.call(HELPER.ktime_get_ns);
  b.store(8, R7, 0, R0);
  b.goto(out);

  b.bind(returned);
  b.call(HELPER.ktime_get_ns);
  b.mov(R7, R0);
  b.mov(R1, R6);
  b.callKfunc(KFUNC.bpf_session_cookie);
  b.load(8, R1, R0);
  // Of a thread that is not wanted, or a run at the entry that a kernel left out, because the program was running already.
  b.jump('eq', R1, 0, out);
  b.sub(R7, R1);
  emitFilters(b, filters, out);
  emitCount(b, maps, out);
  b.bind(out);
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

/** r7 = duration. */
function emitFilters(b: ProgramBuilder, { minDuration, result }: LatencyFilters, out: ProgramLabel): void {
  if (minDuration !== undefined) {
    b.ldImm64(R1, BigInt(minDuration));
    b.jump('lt', R7, R1, out);
  }
  if (result !== undefined) emitResultFilter(b, result, out);
}

function emitResultFilter(b: ProgramBuilder, filter: ResultFilter, out: ProgramLabel): void {
  const pass = b.label();
  const signed = b.label();
  const unsigned = b.label();
  b.mov(R1, R6);
  b.call(HELPER.get_attach_cookie);
  b.rsh(R0, KIND_SHIFT);
  b.load(8, R1, R6, RESULT_AT);
  b.jump('eq', R0, NOTHING, out);
  const known = b.label();
  b.jump('ne', R0, OPAQUE, known);
  // A negative int leaves zeros above it.
  b.mov(R2, R1);
  b.rsh(R2, 32);
  b.jump('ne', R2, 0, signed);
  emitSignExtend(b, 4);
  b.goto(signed);
  b.bind(known);
  for (const [index, size] of SIZES.entries()) {
    const notUnsigned = b.label();
    const other = b.label();
    b.jump('ne', R0, 1 + index, notUnsigned);
    if (size < 8) {
      b.lsh(R1, 64 - 8 * size);
      b.rsh(R1, 64 - 8 * size);
    }
    b.goto(unsigned);
    b.bind(notUnsigned);
    b.jump('ne', R0, 1 + index + SIZES.length, other);
    if (size < 8) emitSignExtend(b, size);
    b.goto(signed);
    b.bind(other);
  }
  b.goto(out);
  b.bind(signed);
  emitCompare(b, filter, true, pass, out);
  b.bind(unsigned);
  emitCompare(b, filter, false, pass, out);
  b.bind(pass);
}

/** r1 as a signed number of so many bytes: by shifts, which kernels know that do not know the move. */
function emitSignExtend(b: ProgramBuilder, size: number): void {
  b.lsh(R1, 64 - 8 * size);
  b.arsh(R1, 64 - 8 * size);
}

const CONDITIONS: Readonly<
  Record<
    Operator,
    readonly ['slt' | 'sle' | 'sgt' | 'sge' | 'eq' | 'ne', 'lt' | 'le' | 'gt' | 'ge' | 'eq' | 'ne']
  >
> = {
  '<': ['slt', 'lt'],
  '<=': ['sle', 'le'],
  '>': ['sgt', 'gt'],
  '>=': ['sge', 'ge'],
  '==': ['eq', 'eq'],
  '!=': ['ne', 'ne'],
};

/** r1 = the result. A number that the type can't have is below, or above, all that it can. */
function emitCompare(
  b: ProgramBuilder,
  { operator, value }: ResultFilter,
  signed: boolean,
  pass: ProgramLabel,
  out: ProgramLabel,
): void {
  const above = signed && value >= 1n << 63n;
  const below = !signed && value < 0n;
  if (above || below) {
    const always = operator === '!=' || (above ? operator.startsWith('<') : operator.startsWith('>'));
    b.goto(always ? pass : out);
    return;
  }
  b.ldImm64(R2, BigInt.asUintN(64, value));
  b.jump(CONDITIONS[operator][signed ? 0 : 1], R1, R2, pass);
  b.goto(out);
}

/** r7 = duration. */
function emitCount(b: ProgramBuilder, { stats, histograms }: LatencyMaps, out: ProgramLabel): void {
  const positive = b.label();
  // A total of 0 says that the function was not called.
  b.jump('ne', R7, 0, positive);
  b.mov(R7, 1);
  b.bind(positive);
  b.mov(R1, R6);
  b.call(HELPER.get_attach_cookie);
  b.store(4, R10, STACK.slot, R0);
  b.mov(R2, R10);
  b.add(R2, STACK.slot);
  b.ldMap(R1, stats);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  b.mov(R9, R0);
  b.mov(R1, R7);
  b.atomicAdd(8, R9, STATS.total, R1);
  const notMore = b.label();
  b.load(8, R0, R9, STATS.max);
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    b.mov(R8, R0);
    b.jump('ge', R8, R7, notMore);
    b.mov(R1, R7);
    b.atomicCmpxchg(8, R9, STATS.max, R1);
    b.jump('eq', R0, R8, notMore);
  }
  b.bind(notMore);
  b.mov(R2, R10);
  b.add(R2, STACK.slot);
  b.ldMap(R1, histograms);
  b.call(HELPER.map_lookup_elem);
  b.jump('eq', R0, 0, out);
  emitBucket(b);
  b.jump('ge', R1, BUCKETS, out);
  b.lsh(R1, 3);
  b.add(R0, R1);
  b.mov(R2, 1);
  b.atomicAdd(8, R0, 0, R2);
}

/** r1 = the bucket of r7 (histogram.ts). Changes r2, r3. */
export function emitBucket(b: ProgramBuilder): void {
  const done = b.label();
  const inRange = b.label();
  b.ldImm64(R2, (1n << BigInt(MAX_BITS)) - 1n);
  b.jump('le', R7, R2, inRange);
  b.mov(R7, R2);
  b.bind(inRange);
  b.mov(R1, R7);
  b.jump('lt', R7, 1 << SUB_BITS, done);
  // r2 = the place of the highest bit.
  b.mov(R2, 0);
  b.mov(R3, R7);
  for (const step of [32, 16, 8, 4, 2, 1]) {
    const less = b.label();
    if (step === 32) {
      b.mov(R1, R3);
      b.rsh(R1, 32);
      b.jump('eq', R1, 0, less);
    } else b.jump('lt', R3, 1 << step, less);
    b.rsh(R3, step);
    b.add(R2, step);
    b.bind(less);
  }
  b.sub(R2, SUB_BITS);
  b.mov(R1, R7);
  b.rsh(R1, R2);
  b.and(R1, (1 << SUB_BITS) - 1);
  b.add(R2, 1);
  b.lsh(R2, SUB_BITS);
  b.add(R1, R2);
  b.bind(done);
}
