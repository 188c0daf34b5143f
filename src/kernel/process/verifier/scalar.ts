/**
 * What the verifier knows of a number in a register: the smallest and largest value it can have, as 64 and as 32 bits,
 * unsigned and signed, and which bits are certain (the kernel's tristate numbers, `tnum`). Each is kept as tight as the
 * others allow. A set of values is described, never one too few.
 */

const ALL = 0xffff_ffff_ffff_ffffn;
const LOW = 0xffff_ffffn;
const HIGH = ALL ^ LOW;
const SMIN = -(1n << 63n);
const SMAX = (1n << 63n) - 1n;
const SIGN = 1n << 63n;
const U32 = 0xffff_ffff;
const S32_MIN = -0x8000_0000;
const S32_MAX = 0x7fff_ffff;

/** A number: every value that is within all the bounds and has all the certain bits. */
export interface Scalar {
  readonly kind: 'scalar';
  /** unsigned */
  readonly min: bigint;
  readonly max: bigint;
  readonly smin: bigint;
  readonly smax: bigint;
  /** of the low half */
  readonly min32: number;
  readonly max32: number;
  readonly smin32: number;
  readonly smax32: number;
  /** the bits known to be one */
  readonly value: bigint;
  /** the bits that are not known */
  readonly mask: bigint;
  /** numbers with the same id, other than 0, are the same number, `delta` (31 bits and a sign) added to it */
  readonly id: number;
  readonly delta: number;
  /** the sum is one of 32 bits: cut, and zero above */
  readonly narrow: boolean;
}

/** The bounds while they are being worked out. */
export interface Bounds {
  min: bigint;
  max: bigint;
  smin: bigint;
  smax: bigint;
  min32: number;
  max32: number;
  smin32: number;
  smax32: number;
  value: bigint;
  mask: bigint;
}

/** Bounds that say nothing. */
export function unbounded(): Bounds {
  return {
    min: 0n,
    max: ALL,
    smin: SMIN,
    smax: SMAX,
    min32: 0,
    max32: U32,
    smin32: S32_MIN,
    smax32: S32_MAX,
    value: 0n,
    mask: ALL,
  };
}

/** The bounds of `scalar`, to be tightened. */
export function boundsOf(scalar: Scalar): Bounds {
  const { min, max, smin, smax, min32, max32, smin32, smax32, value, mask } = scalar;
  return { min, max, smin, smax, min32, max32, smin32, smax32, value, mask };
}

const smallConstants: (Scalar | undefined)[] = [];

/** One number, modulo 2^64. */
export function constant(value: bigint | number): Scalar {
  if (typeof value === 'number' && value >= 0 && value < 1024) {
    smallConstants[value] ??= makeConstant(BigInt(value));
    return smallConstants[value] as Scalar;
  }
  return makeConstant(BigInt.asUintN(64, BigInt(value)));
}

function makeConstant(v: bigint): Scalar {
  const signed = BigInt.asIntN(64, v);
  const low = Number(v & LOW);
  const slow = low | 0;
  return {
    kind: 'scalar',
    min: v,
    max: v,
    smin: signed,
    smax: signed,
    min32: low,
    max32: low,
    smin32: slow,
    smax32: slow,
    value: v,
    mask: 0n,
    id: 0,
    delta: 0,
    narrow: false,
  };
}

export function isConstant(scalar: Scalar): boolean {
  return scalar.mask === 0n;
}

export function smallest(a: bigint, b: bigint): bigint {
  return b < a ? b : a;
}

export function largest(a: bigint, b: bigint): bigint {
  return b > a ? b : a;
}

/** How many bits `x` has. */
function bitLength(x: bigint): number {
  if (x <= LOW) return 32 - Math.clz32(Number(x));
  const high = Number(x >> 32n);
  return 64 - Math.clz32(high);
}

/** The ones up to the highest one of `x`. */
function onesBelow(x: bigint): bigint {
  return x === 0n ? 0n : (1n << BigInt(bitLength(x))) - 1n;
}

/** Makes the certain bits say what both say; false where they contradict each other. */
export function meetBits(b: Bounds, value: bigint, mask: bigint): boolean {
  if (((b.value ^ value) & ~(b.mask | mask) & ALL) !== 0n) return false;
  const both = b.mask & mask;
  b.value = (b.value | value) & ~both & ALL;
  b.mask = both;
  return true;
}

/** What the certain bits say of the bounds. */
function boundsFromBits(b: Bounds): void {
  const { value, mask } = b;
  const top = value | mask;
  if (value > b.min) b.min = value;
  if (top < b.max) b.max = top;
  const low = BigInt.asIntN(64, value | (mask & SIGN));
  const high = BigInt.asIntN(64, value | (mask & SMAX));
  if (low > b.smin) b.smin = low;
  if (high < b.smax) b.smax = high;
  const v = Number(value & LOW);
  const m = Number(mask & LOW);
  const t = (v | m) >>> 0;
  if (v > b.min32) b.min32 = v;
  if (t < b.max32) b.max32 = t;
  const l = v | (m & S32_MIN);
  const h = v | (m & S32_MAX);
  if (l > b.smin32) b.smin32 = l;
  if (h < b.smax32) b.smax32 = h;
}

/** What each pair of bounds says of the others. */
function boundsFromBounds(b: Bounds): void {
  // 64 bits: the unsigned order is the signed one within one half of the numbers.
  const smin = BigInt.asIntN(64, b.min);
  const smax = BigInt.asIntN(64, b.max);
  if (smin <= smax) {
    if (smin > b.smin) b.smin = smin;
    if (smax < b.smax) b.smax = smax;
  }
  // Signed bounds on both sides of zero are two ranges of the unsigned order, of which only one may be left.
  if (b.smin < 0n && b.smax >= 0n && (b.min !== 0n || b.max !== ALL)) {
    if (b.max < BigInt.asUintN(64, b.smin)) b.smin = 0n;
    else if (b.min > b.smax) b.smax = -1n;
  }
  if (b.smin >= 0n || b.smax < 0n) {
    const min = BigInt.asUintN(64, b.smin);
    const max = BigInt.asUintN(64, b.smax);
    if (min > b.min) b.min = min;
    if (max < b.max) b.max = max;
  }
  // The low half follows the whole where the upper half does not change.
  if ((b.min ^ b.max) <= LOW) {
    const low = Number(b.min & LOW);
    const high = Number(b.max & LOW);
    if (low > b.min32) b.min32 = low;
    if (high < b.max32) b.max32 = high;
  }
  if (b.smin >= -0x8000_0000n && b.smax <= 0x7fff_ffffn) {
    const low = Number(b.smin);
    const high = Number(b.smax);
    if (low > b.smin32) b.smin32 = low;
    if (high < b.smax32) b.smax32 = high;
  }
  const low = b.min32 | 0;
  const high = b.max32 | 0;
  if (low <= high) {
    if (low > b.smin32) b.smin32 = low;
    if (high < b.smax32) b.smax32 = high;
  }
  if (b.smin32 < 0 && b.smax32 >= 0) {
    if (b.max32 < b.smin32 >>> 0) b.smin32 = 0;
    else if (b.min32 > b.smax32) b.smax32 = -1;
  }
  if (b.smin32 >= 0 || b.smax32 < 0) {
    const min = b.smin32 >>> 0;
    const max = b.smax32 >>> 0;
    if (min > b.min32) b.min32 = min;
    if (max < b.max32) b.max32 = max;
  }
  // And the whole follows the low half.
  if (b.min32 > 0) {
    const min = (b.min & HIGH) | BigInt(b.min32);
    if (min > b.min) b.min = min;
    const s = BigInt.asIntN(64, (BigInt.asUintN(64, b.smin) & HIGH) | BigInt(b.min32));
    if (s > b.smin) b.smin = s;
  }
  if (b.max32 < U32) {
    const max = (b.max & HIGH) | BigInt(b.max32);
    if (max < b.max) b.max = max;
    const s = BigInt.asIntN(64, (BigInt.asUintN(64, b.smax) & HIGH) | BigInt(b.max32));
    if (s < b.smax) b.smax = s;
  }
}

function isEmpty(b: Bounds): boolean {
  return b.min > b.max || b.smin > b.smax || b.min32 > b.max32 || b.smin32 > b.smax32;
}

/** What the bounds say of the bits; false where they contradict each other. */
function bitsFromBounds(b: Bounds): boolean {
  const differing = onesBelow(b.min ^ b.max);
  if (differing !== ALL && !meetBits(b, b.min & ~differing, differing)) return false;
  const low = (b.min32 ^ b.max32) >>> 0;
  if (low === U32) return true;
  const ones = low === 0 ? 0 : U32 >>> Math.clz32(low);
  return meetBits(b, BigInt((b.min32 & ~ones) >>> 0), HIGH | BigInt(ones));
}

/** The scalar with these bounds, each tightened by the others; `undefined` where no number fits all. */
export function settle(b: Bounds): Scalar | undefined {
  for (let round = 0; ; round++) {
    boundsFromBits(b);
    boundsFromBounds(b);
    if (isEmpty(b)) return undefined;
    const { value, mask } = b;
    if (!bitsFromBounds(b)) return undefined;
    if (b.mask === 0n) {
      const v = b.value;
      const known = constant(v);
      return contained(b, known) ? known : undefined;
    }
    if (round >= 1 && b.value === value && b.mask === mask) break;
    if (round >= 2) break;
  }
  boundsFromBits(b);
  if (isEmpty(b)) return undefined;
  return scalarFrom(b, 0, 0, false);
}

/** One shape for all scalars, written out: this is where the verifier spends its time. */
function scalarFrom(b: Bounds, id: number, delta: number, narrow: boolean): Scalar {
  return {
    kind: 'scalar',
    min: b.min,
    max: b.max,
    smin: b.smin,
    smax: b.smax,
    min32: b.min32,
    max32: b.max32,
    smin32: b.smin32,
    smax32: b.smax32,
    value: b.value,
    mask: b.mask,
    id,
    delta,
    narrow,
  };
}

function contained(b: Bounds, c: Scalar): boolean {
  return (
    c.min >= b.min &&
    c.min <= b.max &&
    c.smin >= b.smin &&
    c.smin <= b.smax &&
    c.min32 >= b.min32 &&
    c.min32 <= b.max32 &&
    c.smin32 >= b.smin32 &&
    c.smin32 <= b.smax32
  );
}

/** Any 64-bit number. */
export const UNKNOWN: Scalar = scalarFrom(unbounded(), 0, 0, false);

const UNKNOWN_BITS = new Map<number, Scalar>(
  [8, 16, 32].map(bits => [bits, fromBits(0n, (1n << BigInt(bits)) - 1n)]),
);

/** Any number of `bits` bits. */
export function unknownOf(bits: number): Scalar {
  if (bits >= 64) return UNKNOWN;
  return UNKNOWN_BITS.get(bits) ?? fromBits(0n, (1n << BigInt(bits)) - 1n);
}

/** The scalar between these unsigned bounds with these bits; `undefined` where no number fits both. */
export function scalarOf(min: bigint, max: bigint, value: bigint, mask: bigint): Scalar | undefined {
  const b = unbounded();
  b.min = min;
  b.max = max;
  b.value = value;
  b.mask = mask;
  return settle(b);
}

/** The scalar with these bits. */
export function fromBits(value: bigint, mask: bigint): Scalar {
  if (mask === 0n) return constant(value);
  const b = unbounded();
  b.value = value;
  b.mask = mask;
  return settle(b) as Scalar;
}

/** The scalar between these unsigned bounds. */
export function fromRange(min: bigint, max: bigint): Scalar {
  return scalarOf(min, max, 0n, ALL) as Scalar;
}

/** The scalar between these signed bounds. */
export function fromSignedRange(smin: bigint, smax: bigint): Scalar {
  const b = unbounded();
  b.smin = smin;
  b.smax = smax;
  return settle(b) as Scalar;
}

/** The number as `delta` more than that which `id` stands for; no relation to any with an id of 0. */
export function withId(scalar: Scalar, id: number, delta = 0, narrow = false): Scalar {
  const same = scalar.id === id && scalar.delta === delta && scalar.narrow === narrow;
  return same ? scalar : scalarFrom(scalar, id, delta, narrow);
}

/** The scalar's low 32 bits, zero-extended. */
export function lowHalf(scalar: Scalar): Scalar {
  if (scalar.max <= LOW) return scalar;
  if (scalar.mask === 0n) return constant(scalar.min & LOW);
  const b = unbounded();
  b.max = LOW;
  b.min32 = scalar.min32;
  b.max32 = scalar.max32;
  b.smin32 = scalar.smin32;
  b.smax32 = scalar.smax32;
  b.value = scalar.value & LOW;
  b.mask = scalar.mask & LOW;
  return settle(b) as Scalar;
}

/** The scalar whose low half is that of `scalar` and whose upper half is the sign of it, at 64 bits. */
export function signedLowHalf(scalar: Scalar): Scalar {
  if (scalar.mask === 0n) return constant(BigInt.asIntN(32, scalar.min));
  const b = unbounded();
  b.smin = BigInt(scalar.smin32);
  b.smax = BigInt(scalar.smax32);
  b.min32 = scalar.min32;
  b.max32 = scalar.max32;
  b.smin32 = scalar.smin32;
  b.smax32 = scalar.smax32;
  b.value = scalar.value & LOW;
  b.mask = HIGH | (scalar.mask & LOW);
  return settle(b) as Scalar;
}

/** What both scalars allow; `undefined` if that is nothing. */
export function intersect(a: Scalar, c: Scalar): Scalar | undefined {
  if (a === c) return a;
  const b = boundsOf(a);
  if (c.min > b.min) b.min = c.min;
  if (c.max < b.max) b.max = c.max;
  if (c.smin > b.smin) b.smin = c.smin;
  if (c.smax < b.smax) b.smax = c.smax;
  b.min32 = Math.max(b.min32, c.min32);
  b.max32 = Math.min(b.max32, c.max32);
  b.smin32 = Math.max(b.smin32, c.smin32);
  b.smax32 = Math.min(b.smax32, c.smax32);
  if (!meetBits(b, c.value, c.mask)) return undefined;
  return settle(b);
}

/** Whether `v` is one of the scalar's values. */
export function contains(s: Scalar, v: bigint): boolean {
  const c = constant(v);
  return contained(s, c) && (v & ~s.mask & ALL) === s.value;
}

/** Whether every value of `inner` is one of `outer`. */
export function coversScalar(outer: Scalar, inner: Scalar): boolean {
  if (outer === inner || (outer.mask === ALL && isUnbounded(outer))) return true;
  return (
    outer.min <= inner.min &&
    outer.max >= inner.max &&
    outer.smin <= inner.smin &&
    outer.smax >= inner.smax &&
    outer.min32 <= inner.min32 &&
    outer.max32 >= inner.max32 &&
    outer.smin32 <= inner.smin32 &&
    outer.smax32 >= inner.smax32 &&
    (inner.mask & ~outer.mask) === 0n &&
    (inner.value & ~outer.mask) === outer.value
  );
}

/** Whether no bound says anything. */
export function isUnbounded(s: Scalar): boolean {
  return (
    s.min === 0n &&
    s.max === ALL &&
    s.smin === SMIN &&
    s.smax === SMAX &&
    s.min32 === 0 &&
    s.max32 === U32 &&
    s.smin32 === S32_MIN &&
    s.smax32 === S32_MAX
  );
}

/** For messages: `7`, `scalar()`, `scalar(smin=-1,umax=8,var_off=(0x0; 0xf))`, as the kernel prints them. */
export function describeScalar(s: Scalar): string {
  if (isConstant(s)) return `${s.smin}`;
  const parts: string[] = [];
  const positive = s.min === BigInt.asUintN(64, s.smin) && s.max === BigInt.asUintN(64, s.smax);
  if (!positive) {
    if (s.smin > SMIN) parts.push(`smin=${s.smin}`);
    if (s.smax < SMAX) parts.push(`smax=${s.smax}`);
  }
  if (s.min > 0n) parts.push(`umin=${s.min}`);
  if (s.max < ALL) parts.push(`umax=${s.max}`);
  const low = s.max <= LOW && s.smin >= 0n;
  if (!low) {
    if (s.smin32 > S32_MIN) parts.push(`smin32=${s.smin32}`);
    if (s.smax32 < S32_MAX) parts.push(`smax32=${s.smax32}`);
    if (s.min32 > 0) parts.push(`umin32=${s.min32}`);
    if (s.max32 < U32) parts.push(`umax32=${s.max32}`);
  }
  if (s.mask !== onesBelow(s.max)) {
    parts.push(`var_off=(0x${s.value.toString(16)}; 0x${s.mask.toString(16)})`);
  }
  return `scalar(${parts.join(',')})`;
}
