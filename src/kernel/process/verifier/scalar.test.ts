/** Soundness of what is known of numbers: whatever the operands are, the real result is among those described. */

import { expect, test } from 'vitest';
import { compute, holds, signExtend, swapBytes } from '../../../bpf/arithmetic.js';
import type { BinaryName, Condition, Width } from '../../../bpf/operation.js';
import {
  constant,
  contains,
  coversScalar,
  describeScalar,
  fromRange,
  fromSignedRange,
  intersect,
  lowHalf,
  type Scalar,
  scalarOf,
  UNKNOWN,
} from './scalar.js';
import { scalarBinary, scalarNegate, scalarSignExtend, scalarSwap } from './scalar_alu.js';
import { refineBranch } from './scalar_branch.js';

const SEED = Number(process.env.MULTITRACE_SEED ?? Date.now() % 2 ** 31);
const ROUNDS = 20_000;
const ALL = UNKNOWN.max;

let state = SEED;
function next(): number {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  return state >>> 8;
}
function below(n: number): number {
  return next() % n;
}
function pick<T>(items: readonly T[]): T {
  return items[below(items.length)] as T;
}
function number(): bigint {
  const edges = [
    0n,
    1n,
    2n,
    7n,
    0x7fffffffn,
    0x80000000n,
    0xffffffffn,
    0x100000000n,
    ALL >> 1n,
    (ALL >> 1n) + 1n,
    ALL,
  ];
  if (below(3) === 0) return pick(edges);
  const value = (BigInt(next()) << 48n) ^ (BigInt(next()) << 24n) ^ BigInt(next());
  return BigInt.asUintN(64, value) >> BigInt(below(64));
}

/** A description, and a number that it describes. */
function described(): { scalar: Scalar; value: bigint } {
  const value = number();
  switch (below(4)) {
    case 0:
      return { scalar: constant(value), value };
    case 1: {
      const other = number();
      return { scalar: other < value ? fromRange(other, value) : fromRange(value, other), value };
    }
    case 2: {
      const mask = number();
      return { scalar: scalarOf(0n, ALL, value & ~mask & ALL, mask) as Scalar, value };
    }
    default: {
      const mask = number() | number();
      const low = number() % (value + 1n);
      const high = value + (number() % (ALL - value + 1n));
      return { scalar: scalarOf(low, high, value & ~mask & ALL, mask) as Scalar, value };
    }
  }
}

/** A cheap `expect`, for loops. */
function must(holds: boolean, what: () => string): void {
  if (!holds) expect.fail(what());
}

const BINARY: BinaryName[] = [
  'add',
  'sub',
  'mul',
  'div',
  'sdiv',
  'mod',
  'smod',
  'or',
  'and',
  'xor',
  'lsh',
  'rsh',
  'arsh',
];
const CONDITIONS: Condition[] = ['eq', 'ne', 'gt', 'ge', 'lt', 'le', 'sgt', 'sge', 'slt', 'sle', 'set'];

test(`arithmetic, seed ${SEED}`, () => {
  for (let i = 0; i < ROUNDS; i++) {
    const a = described();
    const b = described();
    const width = pick<Width>([32, 64]);
    const name = pick(BINARY);
    const real = compute(name, width, a.value, b.value);
    const known = scalarBinary(name, width, a.scalar, b.scalar);
    if (!contains(known, real)) {
      const what = `${describeScalar(a.scalar)} ${name}${width} ${describeScalar(b.scalar)}`;
      expect.fail(`${what} is ${describeScalar(known)}, but ${a.value} and ${b.value} give ${real}`);
    }
    must(contains(lowHalf(a.scalar), a.value & 0xffffffffn), () => `low half of ${describeScalar(a.scalar)}`);
    const negated = scalarNegate(width, a.scalar);
    must(contains(negated, BigInt.asUintN(width, -a.value)), () => `negated ${describeScalar(a.scalar)}`);
    const from = width === 32 ? pick([8, 16] as const) : pick([8, 16, 32] as const);
    const extended = scalarSignExtend(from, width, a.scalar);
    must(
      contains(extended, signExtend(a.value, from, width)),
      () => `s${from} of ${describeScalar(a.scalar)}`,
    );
    const bits = pick([16, 32, 64] as const);
    const swap = pick(['le', 'be', 'bswap'] as const);
    const swapped = scalarSwap(swap, bits, a.scalar);
    must(
      contains(swapped, swapBytes(swap, bits, a.value)),
      () => `${swap}${bits} of ${describeScalar(a.scalar)}`,
    );
  }
});

test(`comparisons, seed ${SEED}`, () => {
  for (let i = 0; i < ROUNDS; i++) {
    const a = described();
    const b = below(4) === 0 ? a : described();
    const width = pick<Width>([32, 64]);
    const condition = pick(CONDITIONS);
    const { taken, fallen } = refineBranch(condition, width, a.scalar, b.scalar);
    const way = holds(condition, width, a.value, b.value) ? taken : fallen;
    if (way === undefined || !contains(way.dst, a.value) || !contains(way.src, b.value)) {
      const what = `${describeScalar(a.scalar)} ${condition}${width} ${describeScalar(b.scalar)}`;
      expect.fail(`${what} excludes ${a.value} and ${b.value}`);
    }
    for (const other of [taken, fallen]) {
      if (other === undefined) continue;
      const narrower = coversScalar(a.scalar, other.dst) && coversScalar(b.scalar, other.src);
      must(
        narrower,
        () => `${condition}${width} widens ${describeScalar(a.scalar)} or ${describeScalar(b.scalar)}`,
      );
    }
  }
});

test(`intersections keep what is in both, seed ${SEED}`, () => {
  for (let i = 0; i < ROUNDS; i++) {
    const a = described();
    const b = described();
    const both = intersect(a.scalar, b.scalar);
    for (const value of [a.value, b.value, number()]) {
      const inBoth = contains(a.scalar, value) && contains(b.scalar, value);
      const kept = both !== undefined && contains(both, value);
      must(
        !inBoth || kept,
        () => `${describeScalar(a.scalar)} and ${describeScalar(b.scalar)} lose ${value}`,
      );
    }
  }
});

test('small cases, all of them: every range and mask of 4 bits', () => {
  const scalars: Scalar[] = [];
  for (let min = 0n; min < 16n; min += 3n) {
    for (let max = min; max < 16n; max += 2n) {
      for (const mask of [15n, 12n, 5n]) {
        const scalar = scalarOf(min, max, 0n, mask);
        if (scalar !== undefined) scalars.push(scalar);
      }
    }
  }
  const values = (scalar: Scalar): bigint[] => {
    const inside: bigint[] = [];
    for (let v = 0n; v < 16n; v++) if (contains(scalar, v)) inside.push(v);
    return inside;
  };
  let checked = 0;
  for (const a of scalars) {
    for (const b of scalars) {
      for (const name of BINARY) {
        const known = scalarBinary(name, 64, a, b);
        for (const x of values(a)) {
          for (const y of values(b)) {
            checked++;
            if (!contains(known, compute(name, 64, x, y)))
              expect.fail(`${x} ${name} ${y} in ${describeScalar(known)}`);
          }
        }
      }
    }
  }
  expect(checked).toBeGreaterThan(100_000);
});

test('what is worth knowing is known', () => {
  const unknown = UNKNOWN;
  expect(describeScalar(scalarBinary('and', 64, unknown, constant(7)))).toBe('scalar(umax=7)');
  const masked = scalarBinary('lsh', 64, scalarBinary('and', 64, unknown, constant(3)), constant(3));
  expect(masked).toMatchObject({ min: 0n, max: 24n, value: 0n, mask: 24n });
  expect(describeScalar(scalarBinary('rsh', 64, unknown, constant(60)))).toBe('scalar(umax=15)');
  expect(describeScalar(scalarBinary('mod', 64, unknown, constant(10)))).toBe('scalar(umax=9)');
  // Of two ranges beside zero only one is left where the unsigned bounds rule out the other.
  const small = intersect(fromSignedRange(-3n, 5n), fromRange(0n, 0x8000_0003n));
  expect(small).toMatchObject({ min: 0n, max: 5n, smin: 0n, smax: 5n });
  const negative = intersect(fromSignedRange(-128n, 127n), fromRange(128n, (1n << 64n) - 2n));
  expect(negative).toMatchObject({ smin: -128n, smax: -2n });
  const low = scalarBinary('or', 64, scalarBinary('and', 64, unknown, constant(15)), constant(0x80));
  expect(scalarSignExtend(8, 64, low)).toMatchObject({ smin: -128n, smax: -113n });
});
