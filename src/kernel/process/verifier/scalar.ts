/**
 * What the verifier knows of a number in a register: the smallest and largest value it can have as unsigned 64
 * bits, and which bits are certain (the kernel's tristate numbers, `tnum`). Both are kept as tight as each
 * other allows. A set of values is described, never one too few.
 */

const ALL = 0xffff_ffff_ffff_ffffn;
const ALL32 = 0xffff_ffffn;

/** A number: every value v with min <= v <= max and (v & ~mask) === value. */
export interface Scalar {
  readonly kind: 'scalar';
  readonly min: bigint;
  readonly max: bigint;
  /** the bits known to be one */
  readonly value: bigint;
  /** the bits that are not known */
  readonly mask: bigint;
}

/** Any 64-bit number. */
export const UNKNOWN: Scalar = { kind: 'scalar', min: 0n, max: ALL, value: 0n, mask: ALL };

/** Any number of `bits` bits. */
export function unknownOf(bits: number): Scalar {
  const max = (1n << BigInt(bits)) - 1n;
  return { kind: 'scalar', min: 0n, max, value: 0n, mask: max };
}

/** One number, modulo 2^64. */
export function constant(value: bigint | number): Scalar {
  const v = BigInt.asUintN(64, BigInt(value));
  return { kind: 'scalar', min: v, max: v, value: v, mask: 0n };
}

export function isConstant(scalar: Scalar): boolean {
  return scalar.min === scalar.max;
}

export function smallest(a: bigint, b: bigint): bigint {
  return b < a ? b : a;
}

export function largest(a: bigint, b: bigint): bigint {
  return b > a ? b : a;
}

/** The ones up to the highest one of `x`. */
function onesBelow(x: bigint): bigint {
  let ones = x;
  for (let shift = 1n; shift < 64n; shift <<= 1n) ones |= ones >> shift;
  return ones;
}

/**
 * The scalar with these bounds and bits, each tightened by the other; `undefined` where no number fits both.
 */
export function scalarOf(min: bigint, max: bigint, value: bigint, mask: bigint): Scalar | undefined {
  let low = largest(value, min);
  let high = smallest(value | mask, max);
  if (low > high) return undefined;
  // Bits above the first one that the bounds differ in are the same for every value between them.
  const differing = onesBelow(low ^ high);
  const common = low & ~differing;
  if ((common ^ value) & ~mask & ~differing) return undefined;
  const newMask = mask & differing;
  const newValue = (value | common) & ~newMask;
  low = largest(newValue, low);
  high = smallest(newValue | newMask, high);
  return low > high ? undefined : { kind: 'scalar', min: low, max: high, value: newValue, mask: newMask };
}

/** The scalar with these bits. */
export function fromBits(value: bigint, mask: bigint): Scalar {
  return { kind: 'scalar', min: value, max: value | mask, value, mask };
}

/** The scalar between these bounds. */
export function fromRange(min: bigint, max: bigint): Scalar {
  return scalarOf(min, max, 0n, ALL) as Scalar;
}

/** The scalar's low 32 bits, zero-extended. */
export function lowHalf(scalar: Scalar): Scalar {
  if (scalar.max <= ALL32) return scalar;
  return fromBits(scalar.value & ALL32, scalar.mask & ALL32);
}

/** What both scalars allow; `undefined` if that is nothing. */
export function intersect(a: Scalar, b: Scalar): Scalar | undefined {
  const known = ~(a.mask | b.mask) & ALL;
  if ((a.value ^ b.value) & known) return undefined;
  const mask = a.mask & b.mask;
  const min = largest(a.min, b.min);
  const max = smallest(a.max, b.max);
  return min > max ? undefined : scalarOf(min, max, (a.value | b.value) & ~mask, mask);
}

/** Whether `v` is one of the scalar's values. */
export function contains(scalar: Scalar, v: bigint): boolean {
  return v >= scalar.min && v <= scalar.max && (v & ~scalar.mask & ALL) === scalar.value;
}

/** Whether every value of `inner` is one of `outer`. */
export function coversScalar(outer: Scalar, inner: Scalar): boolean {
  return (
    outer.min <= inner.min &&
    outer.max >= inner.max &&
    (inner.mask & ~outer.mask) === 0n &&
    (inner.value & ~outer.mask) === outer.value
  );
}

/** For messages: `7`, `scalar()`, `scalar(umin=1,umax=8)`, as the kernel prints them. */
export function describeScalar(scalar: Scalar): string {
  if (isConstant(scalar)) return `${BigInt.asIntN(64, scalar.min)}`;
  const parts: string[] = [];
  if (scalar.min > 0n) parts.push(`umin=${scalar.min}`);
  if (scalar.max < ALL) parts.push(`umax=${scalar.max}`);
  if (scalar.mask !== onesBelow(scalar.max)) {
    parts.push(`var_off=(0x${scalar.value.toString(16)}; 0x${scalar.mask.toString(16)})`);
  }
  return `scalar(${parts.join(',')})`;
}
