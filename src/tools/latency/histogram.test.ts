/** Buckets: exact edges, the error that is promised, and the BPF program's own computation of them. */

import { describe, expect, test } from 'vitest';
import { ProgramBuilder, R0, R1, R7 } from '../../bpf/builder.js';
import { interpret } from '../../bpf/interpreter.js';
import {
  BUCKETS,
  bucketOf,
  bucketRange,
  byPowersOfTwo,
  formatPowers,
  longest,
  percentile,
} from './histogram.js';
import { emitBucket } from './program.js';

const MOST = 2 ** 40 - 1;

function durations(): number[] {
  const values = [0, 1, 15, 16, 17, 31, 32, 33, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, MOST - 1, MOST];
  for (let bits = 1; bits < 40; bits++) values.push(2 ** bits - 1, 2 ** bits, 2 ** bits + 1);
  let seed = 12345;
  for (let i = 0; i < 3000; i++) {
    seed = (seed * 1103515245 + 12345) % 2 ** 31;
    values.push(Math.floor((seed / 2 ** 31) * 2 ** (1 + (i % 39))));
  }
  return values;
}

describe('buckets', () => {
  test('follow each other without a gap', () => {
    let next = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const { low, width } = bucketRange(bucket);
      expect(low).toBe(next);
      next = low + width;
    }
    expect(next).toBe(2 ** 40);
  });

  test('hold the durations that belong to them, and are at most a sixteenth of them wide', () => {
    for (const ns of durations()) {
      const { low, width } = bucketRange(bucketOf(ns));
      expect(ns, `${ns}`).toBeGreaterThanOrEqual(low);
      expect(ns, `${ns}`).toBeLessThan(low + width);
      expect(width).toBeLessThanOrEqual(Math.max(1, low / 16));
    }
  });

  test('longer durations count as the longest', () => {
    expect(bucketOf(2 ** 41)).toBe(BUCKETS - 1);
    expect(bucketOf(2 ** 52)).toBe(BUCKETS - 1);
  });

  test('the BPF program finds the same', () => {
    const b = new ProgramBuilder();
    b.mov(R7, R1);
    emitBucket(b);
    b.mov(R0, R1);
    b.exit();
    const insns = b.build();
    for (const ns of [...durations(), 2 ** 41, 2 ** 50]) {
      const context = BigInt(ns);
      const memory = { load: () => 0n, store: () => {} };
      expect(Number(interpret(insns, { memory, context, framePointer: 0n })), `${ns}`).toBe(bucketOf(ns));
    }
  });
});

describe('percentiles', () => {
  test('are within 3.2 % of the exact ones', () => {
    const sorted = durations()
      .filter(ns => ns >= 100)
      .sort((a, b) => a - b);
    const histogram = new Float64Array(BUCKETS);
    for (const ns of sorted) histogram[bucketOf(ns)]++;
    const max = sorted[sorted.length - 1];
    for (const share of [0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1]) {
      const exact = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
      expect(Math.abs(percentile(histogram, share, max) - exact) / exact).toBeLessThan(0.032);
    }
  });

  test('never exceed the maximum', () => {
    const histogram = new Float64Array(BUCKETS);
    histogram[bucketOf(1025)] = 1;
    expect(percentile(histogram, 0.5, 1025)).toBe(1025);
    expect(percentile(new Float64Array(BUCKETS), 0.5, 0)).toBe(0);
  });
});

test('powers of two have the calls of their buckets, printed as bcc does', () => {
  const histogram = new Float64Array(BUCKETS);
  for (const ns of [0, 1, 2, 3, 5, 700, 1023, 1024]) histogram[bucketOf(ns)]++;
  expect(byPowersOfTwo(histogram)).toEqual([2, 2, 1, 0, 0, 0, 0, 0, 0, 2, 1]);
  expect(longest(histogram)).toBeGreaterThanOrEqual(1024);
  const lines = formatPowers(byPowersOfTwo(histogram)).split('\n');
  expect(lines[0]).toBe('     nsecs               : count     distribution');
  expect(lines[1]).toBe(`         0 -> 1          : 2        |${'*'.repeat(40)}|`);
  expect(lines[10]).toBe(`       512 -> 1023       : 2        |${'*'.repeat(40)}|`);
});
