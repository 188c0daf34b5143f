/** Arguments and results as text. */

import { expect, test } from 'vitest';
import { Btf } from '../../btf/btf.js';
import { BtfBuilder } from '../../btf/builder.js';
import { resultText } from './call_text.js';
import type { Call } from './call_tree.js';

const b = new BtfBuilder();
const int = b.addInt('int', 4, { signed: true });
const unsigned = b.addInt('unsigned int', 4);
const long = b.addInt('long', 8, { signed: true });
const size = b.addInt('unsigned long', 8);
const short = b.addInt('short', 2, { signed: true });
const pointer = b.addPtr(0);
const btf = Btf.parse(b.build());

/** What is shown of a call of a function that returns this type, with this in its register. */
function shown(returns: number, word: bigint, ofKernel: boolean): string {
  const signature = {
    ...{ btf, args: [], words: 0, variadic: false, returns, returnsText: false, seesResult: true },
  };
  const fn = { module: 'kernel', name: 'f', address: 0n, signature, texts: [], ofKernel };
  const call: Partial<Call> = { fn, result: BigUint64Array.of(word, 0n), resultText: undefined };
  return resultText(call as Call);
}

test('of the kernel, results that are errors have their name', () => {
  const minus = (n: number): bigint => BigInt.asUintN(64, BigInt(-n));
  expect(shown(int, minus(2) & 0xffff_ffffn, true)).toBe('-2 (ENOENT)');
  expect(shown(int, minus(11), true)).toBe('-11 (EAGAIN)');
  expect(shown(long, minus(4), true)).toBe('-4 (EINTR)');
  expect(shown(pointer, minus(13), true)).toBe('0xfffffffffffffff3 (EACCES)');
  expect(shown(size, minus(12), true)).toBe('18446744073709551604 (ENOMEM)');
  // Numbers that no errno has, results that are too small for one or have no sign, and good ones.
  expect(shown(int, minus(512), true)).toBe('-512');
  expect(shown(int, minus(5000), true)).toBe('-5000');
  expect(shown(short, minus(2) & 0xffffn, true)).toBe('-2');
  expect(shown(unsigned, minus(2) & 0xffff_ffffn, true)).toBe('4294967294');
  expect(shown(int, 2n, true)).toBe('2');
  expect(shown(pointer, 0n, true)).toBe('NULL');
});

test('of a process they have none: what a negative number means there is the function’s affair', () => {
  expect(shown(int, 0xffff_fffen, false)).toBe('-2');
});
