/**
 * What a conditional jump teaches about the numbers that it compares: on the way where it is taken, and on the
 * way where it is not.
 */

import { holds } from '../../../bpf/arithmetic.js';
import type { Condition, Width } from '../../../bpf/operation.js';
import {
  fromBits,
  intersect,
  isConstant,
  largest,
  lowHalf,
  type Scalar,
  scalarOf,
  smallest,
  UNKNOWN,
} from './scalar.js';

/** The operands as they are on one way; `undefined` where that way can't be. */
export type Refined = { readonly dst: Scalar; readonly src: Scalar } | undefined;

const OPPOSITE: Readonly<Record<Exclude<Condition, 'set'>, Condition>> = {
  eq: 'ne',
  ne: 'eq',
  gt: 'le',
  le: 'gt',
  ge: 'lt',
  lt: 'ge',
  sgt: 'sle',
  sle: 'sgt',
  sge: 'slt',
  slt: 'sge',
};

/** Signed comparisons order non-negative numbers as the unsigned ones do. */
const UNSIGNED: Readonly<Partial<Record<Condition, Condition>>> = {
  sgt: 'gt',
  sge: 'ge',
  slt: 'lt',
  sle: 'le',
};

/** Both ways of a jump that compares `dst` with `src` at `width` bits. */
export function refineBranch(
  condition: Condition,
  width: Width,
  dst: Scalar,
  src: Scalar,
): { readonly taken: Refined; readonly fallen: Refined } {
  const unchanged = { dst, src };
  const a = width === 32 ? lowHalf(dst) : dst;
  const b = width === 32 ? lowHalf(src) : src;
  if (isConstant(a) && isConstant(b)) {
    const taken = holds(condition, width, a.min, b.min);
    return taken ? { taken: unchanged, fallen: undefined } : { taken: undefined, fallen: unchanged };
  }
  if (condition === 'set') return refineSet(a, b, dst, src, width);

  const largestPositive = width === 32 ? 0x7fff_ffffn : UNKNOWN.max >> 1n;
  const unsigned = UNSIGNED[condition];
  if (unsigned !== undefined && (a.max > largestPositive || b.max > largestPositive)) {
    return { taken: unchanged, fallen: unchanged };
  }
  const compared = unsigned ?? condition;
  return {
    taken: widen(refine(compared, a, b), width, dst, src),
    fallen: widen(refine(OPPOSITE[compared as Exclude<Condition, 'set'>], a, b), width, dst, src),
  };
}

/** A comparison of low halves says something of the whole only where the upper half is zero. */
function widen(refined: Refined, width: Width, dst: Scalar, src: Scalar): Refined {
  if (refined === undefined || width === 64) return refined;
  return {
    dst: lowHalf(dst) === dst ? refined.dst : dst,
    src: lowHalf(src) === src ? refined.src : src,
  };
}

function refine(condition: Condition, a: Scalar, b: Scalar): Refined {
  switch (condition) {
    case 'eq': {
      const same = intersect(a, b);
      return same === undefined ? undefined : { dst: same, src: same };
    }
    case 'ne':
      return pair(withoutEdge(a, b), withoutEdge(b, a));
    case 'gt':
      return swapped(refine('lt', b, a));
    case 'ge':
      return swapped(refine('le', b, a));
    case 'lt':
      return b.max === 0n || a.min === UNKNOWN.max
        ? undefined
        : pair(bounded(a, 0n, b.max - 1n), bounded(b, a.min + 1n, UNKNOWN.max));
    default:
      return pair(bounded(a, 0n, b.max), bounded(b, a.min, UNKNOWN.max));
  }
}

function pair(dst: Scalar | undefined, src: Scalar | undefined): Refined {
  return dst === undefined || src === undefined ? undefined : { dst, src };
}

function swapped(refined: Refined): Refined {
  return refined === undefined ? undefined : { dst: refined.src, src: refined.dst };
}

function bounded(a: Scalar, min: bigint, max: bigint): Scalar | undefined {
  const low = largest(a.min, min);
  const high = smallest(a.max, max);
  return low > high ? undefined : scalarOf(low, high, a.value, a.mask);
}

/** `a`, known to differ from `b`: that takes a value away only at the ends of the range. */
function withoutEdge(a: Scalar, b: Scalar): Scalar | undefined {
  if (!isConstant(b)) return a;
  if (a.min === b.min) return a.min === a.max ? undefined : bounded(a, a.min + 1n, a.max);
  if (a.max === b.min) return bounded(a, a.min, a.max - 1n);
  return a;
}

function refineSet(
  a: Scalar,
  b: Scalar,
  dst: Scalar,
  src: Scalar,
  width: Width,
): { taken: Refined; fallen: Refined } {
  const unchanged = { dst, src };
  if (((a.value | a.mask) & (b.value | b.mask)) === 0n) return { taken: undefined, fallen: unchanged };
  if ((a.value & b.value) !== 0n) return { taken: unchanged, fallen: undefined };
  if (!isConstant(b)) return { taken: unchanged, fallen: unchanged };
  const zeros = fromBits(0n, UNKNOWN.max & ~b.value);
  const cleared = intersect(a, zeros);
  const fallen = widen(pair(cleared, b), width, dst, src);
  return { taken: unchanged, fallen };
}
