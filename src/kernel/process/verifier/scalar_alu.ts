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
  intersect,
  isConstant,
  largest,
  lowHalf,
  type Scalar,
  smallest,
  UNKNOWN,
  unknownOf,
} from './scalar.js';

const HALF_WIDTH = 32;

/** Both descriptions hold, so their intersection does: it can not be empty. */
function both(bits: Scalar, range: Scalar): Scalar {
  return intersect(bits, range) ?? range;
}

/** `dst NAME src` at `width` bits. */
export function scalarBinary(name: BinaryName, width: Width, dst: Scalar, src: Scalar): Scalar {
  const a = width === HALF_WIDTH ? lowHalf(dst) : dst;
  const b = width === HALF_WIDTH ? lowHalf(src) : src;
  if (isConstant(a) && isConstant(b)) return constant(compute(name, width, a.min, b.min));
  const unknown = width === HALF_WIDTH ? unknownOf(HALF_WIDTH) : UNKNOWN;
  const ones = unknown.max;
  const positive = a.max <= ones >> 1n && b.max <= ones >> 1n;

  switch (name) {
    case 'add': {
      // Carries can reach every bit where the smallest and the largest sum differ.
      const smallest = a.value + b.value;
      const differs = (smallest ^ (smallest + a.mask + b.mask)) | a.mask | b.mask;
      const bits = fromBits(smallest & ~differs & ones, differs & ones);
      return a.max + b.max <= ones ? both(bits, fromRange(a.min + b.min, a.max + b.max)) : bits;
    }
    case 'sub': {
      const difference = a.value - b.value;
      const differs = ((difference + a.mask) ^ (difference - b.mask)) | a.mask | b.mask;
      const bits = fromBits(difference & ~differs & ones, differs & ones);
      return a.min >= b.max ? both(bits, fromRange(a.min - b.max, a.max - b.min)) : bits;
    }
    case 'mul': {
      const zeros = trailingZeros(a) + trailingZeros(b);
      const bits = fromBits(0n, (ones << zeros) & ones);
      return a.max * b.max <= ones ? both(bits, fromRange(a.min * b.min, a.max * b.max)) : bits;
    }
    case 'div':
      return b.min > 0n ? fromRange(a.min / b.max, a.max / b.min) : fromRange(0n, a.max);
    case 'mod':
      return b.min > 0n ? fromRange(0n, smallest(a.max, b.max - 1n)) : fromRange(0n, a.max);
    case 'sdiv':
      return positive ? scalarBinary('div', width, a, b) : unknown;
    case 'smod':
      return positive ? scalarBinary('mod', width, a, b) : unknown;
    case 'and': {
      const value = a.value & b.value;
      const mask = (a.value | a.mask) & (b.value | b.mask) & ~value;
      return both(fromBits(value, mask), fromRange(0n, smallest(a.max, b.max)));
    }
    case 'or': {
      const value = a.value | b.value;
      const mask = (a.mask | b.mask) & ~value;
      return both(fromBits(value, mask), fromRange(largest(a.min, b.min), ones));
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

function shift(name: 'lsh' | 'rsh' | 'arsh', width: Width, a: Scalar, count: bigint): Scalar {
  const ones = width === HALF_WIDTH ? unknownOf(HALF_WIDTH).max : UNKNOWN.max;
  switch (name) {
    case 'lsh': {
      const bits = fromBits((a.value << count) & ones, (a.mask << count) & ones);
      return a.max << count <= ones ? both(bits, fromRange(a.min << count, a.max << count)) : bits;
    }
    case 'rsh':
      return both(fromBits(a.value >> count, a.mask >> count), fromRange(a.min >> count, a.max >> count));
    case 'arsh': {
      if (a.max <= ones >> 1n) return shift('rsh', width, a, count);
      // An unknown sign bit makes every bit that it is copied to unknown: the mask is shifted with its sign.
      const value = BigInt.asUintN(width, BigInt.asIntN(width, a.value) >> count);
      const mask = BigInt.asUintN(width, BigInt.asIntN(width, a.mask) >> count);
      return fromBits(value & ~mask, mask);
    }
  }
}

function shiftByUnknown(name: 'lsh' | 'rsh' | 'arsh', width: Width, a: Scalar): Scalar {
  const unknown = width === HALF_WIDTH ? unknownOf(HALF_WIDTH) : UNKNOWN;
  const shrinks = name === 'rsh' || (name === 'arsh' && a.max <= unknown.max >> 1n);
  return shrinks ? fromRange(0n, a.max) : unknown;
}

/** How many of the low bits are known to be zero. */
function trailingZeros(scalar: Scalar): bigint {
  const maybeOne = scalar.value | scalar.mask;
  let zeros = 0n;
  while (zeros < 64n && ((maybeOne >> zeros) & 1n) === 0n) zeros++;
  return zeros;
}

/** `-a` at `width` bits. */
export function scalarNegate(width: Width, a: Scalar): Scalar {
  return scalarBinary('sub', width, constant(0), a);
}

/** The low `bits` of `a`, sign-extended to `width` bits. */
export function scalarSignExtend(bits: 8 | 16 | 32, width: Width, a: Scalar): Scalar {
  if (isConstant(a)) return constant(signExtend(a.min, bits, width));
  const largestPositive = (1n << BigInt(bits - 1)) - 1n;
  if (a.max <= largestPositive) return a;
  return width === HALF_WIDTH ? unknownOf(HALF_WIDTH) : UNKNOWN;
}

/** The low `bits` of `a` in another byte order. */
export function scalarSwap(name: SwapName, bits: 16 | 32 | 64, a: Scalar): Scalar {
  if (isConstant(a)) return constant(swapBytes(name, bits, a.min));
  const ones = unknownOf(bits).max;
  return name === 'le' && a.max <= ones ? a : unknownOf(bits);
}
