/**
 * What a conditional jump teaches about the numbers that it compares: on the way where it is taken, and on the
 * way where it is not.
 */

import type { Condition, Width } from '../../../bpf/operation.js';
import {
  type Bounds,
  boundsOf,
  isConstant,
  largest,
  lowHalf,
  meetBits,
  type Scalar,
  settle,
  smallest,
} from './scalar.js';

const ALL = 0xffff_ffff_ffff_ffffn;
const LOW = 0xffff_ffffn;
const HIGH = ALL ^ LOW;
const SMIN = -(1n << 63n);
const SMAX = (1n << 63n) - 1n;
const U32 = 0xffff_ffff;
const S32_MIN = -0x8000_0000;
const S32_MAX = 0x7fff_ffff;

/** The operands as they are on one way; `undefined` where that way can't be. */
export type Refined = { readonly dst: Scalar; readonly src: Scalar } | undefined;

type Ordered = Exclude<Condition, 'set'>;

export const OPPOSITE: Readonly<Record<Ordered, Ordered>> = {
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

/** Both ways of a jump that compares `dst` with `src` at `width` bits. */
export function refineBranch(
  condition: Condition,
  width: Width,
  dst: Scalar,
  src: Scalar,
): { readonly taken: Refined; readonly fallen: Refined } {
  const unchanged = { dst, src };
  const certain = outcome(condition, width, dst, src);
  if (certain === true) return { taken: unchanged, fallen: undefined };
  if (certain === false) return { taken: undefined, fallen: unchanged };
  if (condition === 'set') {
    return { taken: refineSet(width, dst, src), fallen: refineClear(width, dst, src) };
  }
  return {
    taken: refine(condition, width, dst, src),
    fallen: refine(OPPOSITE[condition], width, dst, src),
  };
}

/** Whether the jump is taken, where that is certain (the kernel's `is_branch_taken`). */
export function outcome(condition: Condition, width: Width, a: Scalar, b: Scalar): boolean | undefined {
  switch (condition) {
    case 'eq':
      return equal(width, a, b);
    case 'ne': {
      const same = equal(width, a, b);
      return same === undefined ? undefined : !same;
    }
    case 'set': {
      const x = width === 32 ? lowHalf(a) : a;
      const y = width === 32 ? lowHalf(b) : b;
      if (((x.value | x.mask) & (y.value | y.mask)) === 0n) return false;
      return (x.value & y.value) !== 0n ? true : undefined;
    }
    case 'gt':
      return less(width, false, b, a);
    case 'lt':
      return less(width, false, a, b);
    case 'ge':
      return not(less(width, false, a, b));
    case 'le':
      return not(less(width, false, b, a));
    case 'sgt':
      return less(width, true, b, a);
    case 'slt':
      return less(width, true, a, b);
    case 'sge':
      return not(less(width, true, a, b));
    case 'sle':
      return not(less(width, true, b, a));
  }
}

function not(value: boolean | undefined): boolean | undefined {
  return value === undefined ? undefined : !value;
}

function equal(width: Width, a: Scalar, b: Scalar): boolean | undefined {
  if (width === 64) {
    if (isConstant(a) && isConstant(b)) return a.min === b.min;
    if (a.min > b.max || a.max < b.min || a.smin > b.smax || a.smax < b.smin) return false;
    return ((a.value ^ b.value) & ~(a.mask | b.mask) & ALL) !== 0n ? false : undefined;
  }
  if (a.min32 === a.max32 && b.min32 === b.max32) return a.min32 === b.min32;
  if (a.min32 > b.max32 || a.max32 < b.min32 || a.smin32 > b.smax32 || a.smax32 < b.smin32) return false;
  return ((a.value ^ b.value) & ~(a.mask | b.mask) & LOW) !== 0n ? false : undefined;
}

/** Whether a < b, where that is certain. */
function less(width: Width, signed: boolean, a: Scalar, b: Scalar): boolean | undefined {
  if (width === 64) {
    if (signed) return a.smax < b.smin ? true : a.smin >= b.smax ? false : undefined;
    return a.max < b.min ? true : a.min >= b.max ? false : undefined;
  }
  if (signed) return a.smax32 < b.smin32 ? true : a.smin32 >= b.smax32 ? false : undefined;
  return a.max32 < b.min32 ? true : a.min32 >= b.max32 ? false : undefined;
}

function refine(condition: Ordered, width: Width, dst: Scalar, src: Scalar): Refined {
  switch (condition) {
    case 'gt':
      return swapped(refine('lt', width, src, dst));
    case 'ge':
      return swapped(refine('le', width, src, dst));
    case 'sgt':
      return swapped(refine('slt', width, src, dst));
    case 'sge':
      return swapped(refine('sle', width, src, dst));
    default:
  }
  const a = boundsOf(dst);
  const b = boundsOf(src);
  const possible = width === 64 ? refine64(condition, a, b) : refine32(condition, a, b);
  if (!possible) return undefined;
  const left = settle(a);
  const right = settle(b);
  return left === undefined || right === undefined ? undefined : { dst: left, src: right };
}

function swapped(refined: Refined): Refined {
  return refined === undefined ? undefined : { dst: refined.src, src: refined.dst };
}

function refine64(condition: Ordered, a: Bounds, b: Bounds): boolean {
  switch (condition) {
    case 'eq': {
      a.min = b.min = largest(a.min, b.min);
      a.max = b.max = smallest(a.max, b.max);
      a.smin = b.smin = largest(a.smin, b.smin);
      a.smax = b.smax = smallest(a.smax, b.smax);
      return equalLow(a, b) && meetBits(a, b.value, b.mask) && meetBits(b, a.value, a.mask);
    }
    case 'ne':
      withoutEdge64(a, b);
      withoutEdge64(b, a);
      return true;
    case 'lt':
    case 'le': {
      const one = condition === 'lt' ? 1n : 0n;
      if (b.max < one || a.min > ALL - one) return false;
      if (b.max - one < a.max) a.max = b.max - one;
      if (a.min + one > b.min) b.min = a.min + one;
      return true;
    }
    default: {
      const one = condition === 'slt' ? 1n : 0n;
      if (b.smax - one < SMIN || a.smin + one > SMAX) return false;
      if (b.smax - one < a.smax) a.smax = b.smax - one;
      if (a.smin + one > b.smin) b.smin = a.smin + one;
      return true;
    }
  }
}

function equalLow(a: Bounds, b: Bounds): boolean {
  a.min32 = b.min32 = Math.max(a.min32, b.min32);
  a.max32 = b.max32 = Math.min(a.max32, b.max32);
  a.smin32 = b.smin32 = Math.max(a.smin32, b.smin32);
  a.smax32 = b.smax32 = Math.min(a.smax32, b.smax32);
  return a.min32 <= a.max32 && a.smin32 <= a.smax32;
}

function refine32(condition: Ordered, a: Bounds, b: Bounds): boolean {
  switch (condition) {
    case 'eq': {
      const { value, mask } = a;
      return (
        equalLow(a, b) &&
        meetBits(a, b.value & LOW, (b.mask & LOW) | HIGH) &&
        meetBits(b, value & LOW, (mask & LOW) | HIGH)
      );
    }
    case 'ne':
      withoutEdge32(a, b);
      withoutEdge32(b, a);
      return true;
    case 'lt':
    case 'le': {
      const one = condition === 'lt' ? 1 : 0;
      if (b.max32 < one || a.min32 > U32 - one) return false;
      a.max32 = Math.min(a.max32, b.max32 - one);
      b.min32 = Math.max(b.min32, a.min32 + one);
      return true;
    }
    default: {
      const one = condition === 'slt' ? 1 : 0;
      if (b.smax32 - one < S32_MIN || a.smin32 + one > S32_MAX) return false;
      a.smax32 = Math.min(a.smax32, b.smax32 - one);
      b.smin32 = Math.max(b.smin32, a.smin32 + one);
      return true;
    }
  }
}

/** `a`, known to differ from `b`: that takes a value away only at the ends of the range. */
function withoutEdge64(a: Bounds, b: Bounds): void {
  if (b.mask !== 0n) return;
  const v = b.value;
  const s = BigInt.asIntN(64, v);
  if (a.min === v) a.min++;
  if (a.max === v) a.max--;
  if (a.smin === s) a.smin++;
  if (a.smax === s) a.smax--;
}

function withoutEdge32(a: Bounds, b: Bounds): void {
  if (b.min32 !== b.max32) return;
  const v = b.min32;
  const s = v | 0;
  if (a.min32 === v) a.min32++;
  if (a.max32 === v) a.max32--;
  if (a.smin32 === s) a.smin32++;
  if (a.smax32 === s) a.smax32--;
}

/** Some bit of the mask is set: which one is known where the mask has one bit. */
function refineSet(width: Width, dst: Scalar, src: Scalar): Refined {
  const bits = width === 32 ? src.value & LOW : src.value;
  const known = width === 32 ? (src.mask & LOW) === 0n : src.mask === 0n;
  if (!known || bits === 0n || (bits & (bits - 1n)) !== 0n) return { dst, src };
  const a = boundsOf(dst);
  if (!meetBits(a, bits, ALL ^ bits)) return undefined;
  const left = settle(a);
  return left === undefined ? undefined : { dst: left, src };
}

/** No bit of the mask is set. */
function refineClear(width: Width, dst: Scalar, src: Scalar): Refined {
  // Only the bits that the mask certainly has are known to be clear.
  const bits = width === 32 ? src.value & LOW : src.value;
  if (bits === 0n) return { dst, src };
  const a = boundsOf(dst);
  if (!meetBits(a, 0n, ALL ^ bits)) return undefined;
  const left = settle(a);
  return left === undefined ? undefined : { dst: left, src };
}
