/**
 * Arithmetic on what is known of numbers: for every pair of values that the operands can have, the result of
 * the real operation (bpf/arithmetic.ts) is among the values of the scalar returned here.
 */

import { compute, signExtend, swapBytes } from '../../../bpf/arithmetic.js';
import type { BinaryName, SwapName, Width } from '../../../bpf/operation.js';
import {
  constant,
  fromBits,
  fromRange,
  fromSignedRange,
  isConstant,
  isUnbounded,
  largest,
  lowHalf,
  meetBits,
  type Scalar,
  settle,
  signedLowHalf,
  smallest,
  UNKNOWN,
  unbounded,
  unknownOf,
} from './scalar.js';

const HALF = 32;
const ALL = 0xffff_ffff_ffff_ffffn;
const LOW = 0xffff_ffffn;
const SMIN = -(1n << 63n);
const SMAX = (1n << 63n) - 1n;
const S32_MIN = -0x8000_0000;
const S32_MAX = 0x7fff_ffff;
const U32 = 0xffff_ffff;

/** `dst NAME src` at `width` bits. */
export function scalarBinary(name: BinaryName, width: Width, dst: Scalar, src: Scalar): Scalar {
  if (isConstant(dst) && isConstant(src)) return constant(compute(name, width, dst.min, src.min));
  const a = width === HALF ? lowHalf(dst) : dst;
  const b = width === HALF ? lowHalf(src) : src;
  if (isConstant(a) && isConstant(b)) return constant(compute(name, width, a.min, b.min));
  const unknown = unknownOf(width);
  // A number of which nothing is known, with another added to it, is no better known.
  if ((name === 'add' || name === 'sub') && (isFree(a, width) || isFree(b, width))) return unknown;
  const ones = width === HALF ? LOW : ALL;
  const positive = a.max <= ones >> 1n && b.max <= ones >> 1n;
  switch (name) {
    case 'add':
      return addition(width, a, b);
    case 'sub':
      return subtraction(width, a, b);
    case 'mul':
      return product(width, a, b);
    case 'div':
      return b.min > 0n ? fromRange(a.min / b.max, a.max / b.min) : fromRange(0n, a.max);
    case 'mod':
      // A remainder by something larger than the number is the number.
      if (b.min > a.max) return a;
      return b.min > 0n ? fromRange(0n, smallest(a.max, b.max - 1n)) : fromRange(0n, a.max);
    case 'sdiv':
      return positive ? scalarBinary('div', width, a, b) : signedQuotient(width, a, b);
    case 'smod':
      return positive ? scalarBinary('mod', width, a, b) : signedRemainder(width, a, b);
    case 'and': {
      const value = a.value & b.value;
      const mask = (a.value | a.mask) & (b.value | b.mask) & ~value;
      return within(value, mask, 0n, smallest(a.max, b.max));
    }
    case 'or': {
      const value = a.value | b.value;
      const mask = (a.mask | b.mask) & ~value;
      return within(value, mask, largest(a.min, b.min), ones);
    }
    case 'xor': {
      const mask = a.mask | b.mask;
      return fromBits((a.value ^ b.value) & ~mask, mask);
    }
    default:
      return isConstant(b)
        ? shift(name, width, a, b.min & BigInt(width - 1))
        : shiftByUnknown(name, width, a);
  }
}

/** Whether nothing is known of a number of `width` bits. */
function isFree(a: Scalar, width: Width): boolean {
  return width === HALF ? a === unknownOf(HALF) : a === UNKNOWN || (a.mask === ALL && isUnbounded(a));
}

/** The scalar with these bits that lies between these unsigned bounds: both hold. */
function within(value: bigint, mask: bigint, min: bigint, max: bigint): Scalar {
  const bounds = unbounded();
  bounds.min = min;
  bounds.max = max;
  return meetBits(bounds, value, mask) ? (settle(bounds) ?? fromBits(value, mask)) : fromRange(min, max);
}

function addition(width: Width, a: Scalar, b: Scalar): Scalar {
  const ones = width === HALF ? LOW : ALL;
  // Carries can reach every bit where the smallest and the largest sum differ.
  const least = a.value + b.value;
  const differs = ((least ^ (least + a.mask + b.mask)) | a.mask | b.mask) & ones;
  const bounds = unbounded();
  bounds.value = least & ~differs & ones;
  bounds.mask = differs;
  if (width === HALF) bounds.max = LOW;
  else {
    const min = a.min + b.min;
    const max = a.max + b.max;
    if (min > ALL || max <= ALL) {
      bounds.min = min & ALL;
      bounds.max = max & ALL;
    }
    const smin = a.smin + b.smin;
    const smax = a.smax + b.smax;
    if (smin >= SMIN && smax <= SMAX) {
      bounds.smin = smin;
      bounds.smax = smax;
    }
  }
  const min = a.min32 + b.min32;
  const max = a.max32 + b.max32;
  if (min > U32 || max <= U32) {
    bounds.min32 = min >>> 0;
    bounds.max32 = max >>> 0;
  }
  const smin = a.smin32 + b.smin32;
  const smax = a.smax32 + b.smax32;
  if (smin >= S32_MIN && smax <= S32_MAX) {
    bounds.smin32 = smin;
    bounds.smax32 = smax;
  }
  return settle(bounds) as Scalar;
}

function subtraction(width: Width, a: Scalar, b: Scalar): Scalar {
  const ones = width === HALF ? LOW : ALL;
  const difference = a.value - b.value;
  const differs = (((difference + a.mask) ^ (difference - b.mask)) | a.mask | b.mask) & ones;
  const bounds = unbounded();
  bounds.value = difference & ~differs & ones;
  bounds.mask = differs;
  if (width === HALF) bounds.max = LOW;
  else {
    const min = a.min - b.max;
    const max = a.max - b.min;
    if (min >= 0n || max < 0n) {
      bounds.min = min & ALL;
      bounds.max = max & ALL;
    }
    const smin = a.smin - b.smax;
    const smax = a.smax - b.smin;
    if (smin >= SMIN && smax <= SMAX) {
      bounds.smin = smin;
      bounds.smax = smax;
    }
  }
  const min = a.min32 - b.max32;
  const max = a.max32 - b.min32;
  if (min >= 0 || max < 0) {
    bounds.min32 = min >>> 0;
    bounds.max32 = max >>> 0;
  }
  const smin = a.smin32 - b.smax32;
  const smax = a.smax32 - b.smin32;
  if (smin >= S32_MIN && smax <= S32_MAX) {
    bounds.smin32 = smin;
    bounds.smax32 = smax;
  }
  return settle(bounds) as Scalar;
}

function product(width: Width, a: Scalar, b: Scalar): Scalar {
  const ones = width === HALF ? LOW : ALL;
  const bounds = unbounded();
  bounds.mask = (ones << (trailingZeros(a) + trailingZeros(b))) & ones;
  if (width === HALF) {
    bounds.max = LOW;
    if (a.max * b.max <= LOW) {
      bounds.min = a.min * b.min;
      bounds.max = a.max * b.max;
    }
    return settle(bounds) as Scalar;
  }
  if (a.max * b.max <= ALL) {
    bounds.min = a.min * b.min;
    bounds.max = a.max * b.max;
  }
  const products = [a.smin * b.smin, a.smin * b.smax, a.smax * b.smin, a.smax * b.smax];
  const smin = products.reduce(smallest);
  const smax = products.reduce(largest);
  if (smin >= SMIN && smax <= SMAX) {
    bounds.smin = smin;
    bounds.smax = smax;
  }
  return settle(bounds) as Scalar;
}

/** A signed remainder has the sign of the number, and is smaller than the divisor. */
function signedRemainder(width: Width, a: Scalar, b: Scalar): Scalar {
  if (!isConstant(b)) return unknownOf(width);
  const by = BigInt.asIntN(width, b.min);
  if (by === 0n) return a;
  const most = (by < 0n ? -by : by) - 1n;
  const [smin, smax] = signedRange(width, a);
  return fromSigned(width, smin >= 0n ? 0n : largest(smin, -most), smax <= 0n ? 0n : smallest(smax, most));
}

/** A quotient by a constant is between those of the ends. */
function signedQuotient(width: Width, a: Scalar, b: Scalar): Scalar {
  if (!isConstant(b)) return unknownOf(width);
  const by = BigInt.asIntN(width, b.min);
  const [smin, smax] = signedRange(width, a);
  if (by === 0n) return constant(0);
  // The smallest number by -1 is itself.
  if (by === -1n && smin === (width === HALF ? BigInt(S32_MIN) : SMIN)) return unknownOf(width);
  return by > 0n ? fromSigned(width, smin / by, smax / by) : fromSigned(width, smax / by, smin / by);
}

function signedRange(width: Width, a: Scalar): readonly [bigint, bigint] {
  return width === HALF ? [BigInt(a.smin32), BigInt(a.smax32)] : [a.smin, a.smax];
}

/** The numbers of `width` bits between these, zero above. */
function fromSigned(width: Width, smin: bigint, smax: bigint): Scalar {
  if (width === 64) return fromSignedRange(smin, smax);
  const bounds = unbounded();
  bounds.max = LOW;
  bounds.smin32 = Number(smin);
  bounds.smax32 = Number(smax);
  return settle(bounds) as Scalar;
}

function shift(name: 'lsh' | 'rsh' | 'arsh', width: Width, a: Scalar, count: bigint): Scalar {
  const ones = width === HALF ? LOW : ALL;
  switch (name) {
    case 'lsh': {
      const value = (a.value << count) & ones;
      const mask = (a.mask << count) & ones;
      if (width === 64 && count === 32n) {
        // The first half of a sign extension: the result's signed bounds are those of the low half.
        const bounds = unbounded();
        bounds.smin = BigInt(a.smin32) << 32n;
        bounds.smax = BigInt(a.smax32) << 32n;
        if (a.max <= LOW) {
          bounds.min = a.min << 32n;
          bounds.max = a.max << 32n;
        }
        if (meetBits(bounds, value, mask)) return settle(bounds) as Scalar;
      }
      return a.max << count <= ones
        ? within(value, mask, a.min << count, a.max << count)
        : fromBits(value, mask);
    }
    case 'rsh':
      return within(a.value >> count, a.mask >> count, a.min >> count, a.max >> count);
    case 'arsh': {
      if (a.max <= ones >> 1n) return shift('rsh', width, a, count);
      // An unknown sign bit makes every bit that it is copied to unknown: the mask is shifted with its sign.
      const value = BigInt.asUintN(width, BigInt.asIntN(width, a.value) >> count);
      const mask = BigInt.asUintN(width, BigInt.asIntN(width, a.mask) >> count);
      const bounds = unbounded();
      bounds.value = value & ~mask & ones;
      bounds.mask = mask;
      if (width === 64) {
        bounds.smin = a.smin >> count;
        bounds.smax = a.smax >> count;
      } else {
        bounds.max = LOW;
        bounds.smin32 = a.smin32 >> Number(count);
        bounds.smax32 = a.smax32 >> Number(count);
      }
      return settle(bounds) as Scalar;
    }
  }
}

function shiftByUnknown(name: 'lsh' | 'rsh' | 'arsh', width: Width, a: Scalar): Scalar {
  const unknown = unknownOf(width);
  const ones = width === HALF ? LOW : ALL;
  const shrinks = name === 'rsh' || (name === 'arsh' && a.max <= ones >> 1n);
  return shrinks ? fromRange(0n, a.max) : unknown;
}

/** How many of the low bits are known to be zero. */
function trailingZeros(scalar: Scalar): bigint {
  const maybeOne = scalar.value | scalar.mask;
  if ((maybeOne & 1n) === 1n) return 0n;
  if (maybeOne === 0n) return 64n;
  const lowest = maybeOne & -maybeOne;
  return BigInt(lowest.toString(2).length - 1);
}

/** `-a` at `width` bits. */
export function scalarNegate(width: Width, a: Scalar): Scalar {
  return scalarBinary('sub', width, constant(0), a);
}

/** The low `bits` of `a`, sign-extended to `width` bits. */
export function scalarSignExtend(bits: 8 | 16 | 32, width: Width, a: Scalar): Scalar {
  if (isConstant(a)) return constant(signExtend(a.min, bits, width));
  if (bits === 32) return width === HALF ? lowHalf(a) : signedLowHalf(a);
  const most = (1n << BigInt(bits - 1)) - 1n;
  if (a.max <= most) return a;
  const low = scalarBinary('and', 64, a, constant(2n * most + 1n));
  if (low.max <= most) return low;
  if (low.min > most) return scalarBinary('sub', width, low, constant(1n << BigInt(bits)));
  const bounds = unbounded();
  if (width === HALF) {
    bounds.max = LOW;
    bounds.smin32 = -(2 ** (bits - 1));
    bounds.smax32 = Number(most);
    if (a.smin32 >= bounds.smin32 && a.smax32 <= bounds.smax32) {
      bounds.smin32 = a.smin32;
      bounds.smax32 = a.smax32;
    }
  } else {
    bounds.smin = -most - 1n;
    bounds.smax = most;
    if (a.smin >= bounds.smin && a.smax <= bounds.smax) {
      bounds.smin = a.smin;
      bounds.smax = a.smax;
    }
  }
  return settle(bounds) as Scalar;
}

/** The low `bits` of `a` in another byte order. */
export function scalarSwap(name: SwapName, bits: 16 | 32 | 64, a: Scalar): Scalar {
  if (isConstant(a)) return constant(swapBytes(name, bits, a.min));
  if (name !== 'le') return unknownOf(bits);
  const ones = unknownOf(bits).max;
  if (a.max <= ones) return a;
  return bits === 64 ? UNKNOWN : fromBits(a.value & ones, a.mask & ones);
}
