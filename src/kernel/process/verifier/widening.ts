/**
 * Loops that end by something other than their counters (iterators, `may_goto`, callbacks) may count without end as far
 * as the walk can see. After many rounds, a number that keeps growing is taken to grow as far as it can, and one that
 * keeps shrinking likewise: then the rounds come together. That only ever allows more values than there are.
 */

import { FRAME_POINTER } from '../../../bpf/instruction.js';
import { type Facts, keptInCall } from './facts.js';
import { boundsOf, lowHalf, type Scalar, settle, unbounded } from './scalar.js';
import type { StackSlot } from './stack.js';
import type { Frame, State } from './state.js';
import type { Value } from './value.js';

const ALL = 0xffff_ffff_ffff_ffffn;

/** The values of both, and all in the direction in which the number goes. */
export function widen(old: Scalar, now: Scalar): Scalar {
  if (old === now) return now;
  const b = unbounded();
  const { min, max, smin, smax, min32, max32, smin32, smax32 } = boundsOf(old);
  if (now.min >= min) b.min = min;
  if (now.max <= max) b.max = max;
  if (now.smin >= smin) b.smin = smin;
  if (now.smax <= smax) b.smax = smax;
  if (now.min32 >= min32) b.min32 = min32;
  if (now.max32 <= max32) b.max32 = max32;
  if (now.smin32 >= smin32) b.smin32 = smin32;
  if (now.smax32 <= smax32) b.smax32 = smax32;
  // Low bits that both have are those of every step of a number that goes by a power of two.
  const differ = old.mask | now.mask | (old.value ^ now.value);
  const lowest = differ & -differ;
  b.mask = lowest === 0n ? 0n : ALL ^ (lowest - 1n);
  b.value = now.value & ~b.mask & ALL;
  return settle(b) ?? now;
}

/** Widens what matters of `now` by how it differs from `old`, a round before. */
export function widenState(facts: Facts, old: State, now: State, index: number): void {
  for (let f = 0; f < now.frames.length; f++) {
    const a = old.frames[f] as Frame;
    const b = now.frames[f] as Frame;
    const inner = now.frames[f + 1];
    const first = inner?.callsite ?? index;
    const second = inner === undefined ? index : first + 1;
    let precise = facts.preciseRegisters(first);
    if (inner !== undefined) {
      precise = keptInCall(facts.preciseRegisters(second)) | (inner.callback === undefined ? 0 : precise);
    }
    for (let r = 0; r < FRAME_POINTER; r++) {
      if ((precise & (1 << r)) !== 0)
        b.registers[r] = widenValue(a.registers[r] as Value, b.registers[r] as Value);
    }
    for (let s = 0; s < b.stack.length; s++) {
      if (!facts.isPrecise(first, s) && !facts.isPrecise(second, s)) continue;
      const x = a.slot(s);
      const y = b.slot(s);
      if (x !== y) b.setSlot(s, widenSlot(x, y));
    }
  }
}

function widenValue(old: Value, now: Value): Value {
  return old.kind === 'scalar' && now.kind === 'scalar' ? widen(old, now) : now;
}

function widenSlot(old: StackSlot, now: StackSlot): StackSlot {
  if (now.object !== undefined) return now;
  if (now.value !== undefined) {
    if (now.value.kind !== 'scalar' || old.value?.kind !== 'scalar') return now;
    const value = widen(old.value, now.value);
    return value === now.value ? now : { ...now, value, zero: value.max === 0n ? now.zero : 0 };
  }
  const zero = old.zero & now.zero;
  const low = now.low && (old.low === undefined ? undefined : lowHalf(widen(old.low, now.low)));
  const high = now.high && (old.high === undefined ? undefined : lowHalf(widen(old.high, now.high)));
  return { ...now, zero, low, high };
}
