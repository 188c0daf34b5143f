/** Filters as they are written, and what they let pass. */

import { describe, expect, test } from 'vitest';
import { compares, parseDuration, parseResultFilter, parseTids, resultPasses } from './filters.js';

describe('durations', () => {
  test.each([
    ['10us', 10_000],
    ['1.5ms', 1_500_000],
    ['2s', 2e9],
    ['0ns', 0],
    ['7µs', 7000],
  ])('%s', (text, ns) => expect(parseDuration(text)).toBe(ns));

  test.each(['', '10', 'us', '-1us', '1 us', '1e3us', '10m', '99999999999999s'])('refuses %s', text => {
    expect(() => parseDuration(text)).toThrow(/no duration/);
  });
});

describe('conditions on results', () => {
  test.each([
    ['<0', '<', 0n],
    ['<=-1', '<=', -1n],
    ['>= 0x10', '>=', 16n],
    ['==null', '==', 0n],
    ['!=NULL', '!=', 0n],
    ['==18446744073709551615', '==', 2n ** 64n - 1n],
  ])('%s', (text, operator, value) => {
    expect(parseResultFilter(text)).toEqual({ operator, value });
  });

  test.each(['', '0', '=0', '<', '<x', '<>1', '==18446744073709551616', '<-9223372036854775809'])(
    'refuses %s',
    text => {
      expect(() => parseResultFilter(text)).toThrow(/condition|64 bits/);
    },
  );

  test('every operator', () => {
    const passing = (text: string) => [-1n, 0n, 1n].filter(value => compares(value, parseResultFilter(text)));
    expect(passing('<0')).toEqual([-1n]);
    expect(passing('<=0')).toEqual([-1n, 0n]);
    expect(passing('>0')).toEqual([1n]);
    expect(passing('>=0')).toEqual([0n, 1n]);
    expect(passing('==0')).toEqual([0n]);
    expect(passing('!=0')).toEqual([-1n, 1n]);
  });

  test('the result has the size and the sign of its type', () => {
    const negative = parseResultFilter('<0');
    expect(resultPasses(0xffff_ffffn, { bytes: 4, signed: true }, negative)).toBe(true);
    expect(resultPasses(0xdead_0000_0001n, { bytes: 4, signed: true }, negative)).toBe(false);
    expect(resultPasses(0xffn, { bytes: 1, signed: true }, negative)).toBe(true);
    expect(resultPasses(2n ** 64n - 1n, { bytes: 8, signed: false }, negative)).toBe(false);
    // Of a function without types: an int, most likely.
    expect(resultPasses(0xffff_ffffn, undefined, negative)).toBe(true);
    expect(resultPasses(0x7fff_1234_5678n, undefined, negative)).toBe(false);
  });
});

test('thread ids', () => {
  expect(parseTids('12,34')).toEqual([12, 34]);
  for (const bad of ['', '12,', 'x', '0', '-1', '2147483648', '1 2'])
    expect(() => parseTids(bad), bad).toThrow(/thread ids/);
  expect(() => parseTids(Array.from({ length: 65 }, (_, i) => i + 1).join())).toThrow(/at most 64/);
});
