import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { errnoNumber } from '../../errno.js';
import { randomNumbers } from '../maps/fixture.js';
import { PlacedCode, TestMemory } from '../maps/ringbuf_fixture.js';
import { emitStrtol } from './strtol.js';

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const EINVAL = -errnoNumber('EINVAL');
const ERANGE = -errnoNumber('ERANGE');

let code: PlacedCode;
let memory: TestMemory;
let block: ReturnType<TestMemory['alloc']>;

beforeAll(() => {
  memory = new TestMemory(8192);
  block = memory.alloc(4096);
  code = new PlacedCode(emitStrtol);
});
afterAll(() => code[Symbol.dispose]());

/** What the helper returns, and what it leaves. */
function parse(helper: 105 | 106, text: string, flags = 0): [number, bigint] {
  block.bytes.fill(0x31);
  block.bytes.set(Buffer.from(text, 'latin1'), 64);
  const result = code.call(`helper_${helper}`, block.address + 64n, text.length, flags, block.address);
  const words = new DataView(block.bytes.buffer, block.bytes.byteOffset, 8);
  return [
    Number(BigInt.asIntN(64, result)),
    helper === 105 ? words.getBigInt64(0, true) : words.getBigUint64(0, true),
  ];
}

/** The kernel's rules, in another language. */
function model(helper: 105 | 106, text: string, base: number): [number, bigint] {
  const failed = (error: number): [number, bigint] => [error, 0n];
  const [lead = '', sign = ''] = /^[\t-\r \xa0]*(-?)/.exec(text) ?? [];
  let rest = text.slice(lead.length, lead.length + 63);
  let used = lead.length;
  if (base === 0) base = /^0x[0-9a-f]/i.test(rest) ? 16 : rest.startsWith('0') ? 8 : 10;
  if (base === 16 && /^0x/i.test(rest)) {
    rest = rest.slice(2);
    used += 2;
  }
  let value = 0n;
  let digits = 0;
  for (const c of rest) {
    const digit = '0123456789abcdef'.indexOf(c.toLowerCase());
    if (digit < 0 || digit >= base) break;
    value = value * BigInt(base) + BigInt(digit);
    digits++;
  }
  if (digits === 0) return failed(EINVAL);
  if (value >= 1n << 64n) return failed(ERANGE);
  used += digits;
  if (helper === 106) return sign === '-' ? failed(EINVAL) : [used, value];
  if (sign === '-') value = -value;
  return value < -(1n << 63n) || value >= 1n << 63n ? failed(ERANGE) : [used, value];
}

describe(`strtol and strtoul (seed ${seed})`, () => {
  it('read what the kernel reads', () => {
    expect(parse(105, '42')).toEqual([2, 42n]);
    expect(parse(105, ' \t-42abc')).toEqual([5, -42n]);
    expect(parse(105, '0x1F')).toEqual([4, 31n]);
    expect(parse(105, '017')).toEqual([3, 15n]);
    expect(parse(105, '08')).toEqual([1, 0n]);
    expect(parse(105, '0x', 0)).toEqual([1, 0n]);
    expect(parse(105, '0x', 16)).toEqual([EINVAL, 0n]);
    expect(parse(105, '0x10', 10)).toEqual([1, 0n]);
    expect(parse(105, '9223372036854775807')).toEqual([19, 2n ** 63n - 1n]);
    expect(parse(105, '9223372036854775808')).toEqual([ERANGE, 0n]);
    expect(parse(105, '-9223372036854775808')).toEqual([20, -(2n ** 63n)]);
    expect(parse(106, '18446744073709551615')).toEqual([20, 2n ** 64n - 1n]);
    expect(parse(106, '18446744073709551616')).toEqual([ERANGE, 0n]);
    expect(parse(106, '-1')).toEqual([EINVAL, 0n]);
    for (const text of ['', ' ', '-', 'x', '- 1', '+1']) expect(parse(105, text)).toEqual([EINVAL, 0n]);
    for (const flags of [1, 2, 7, 11, 17, 31, 32, 42, 1 << 20])
      expect(parse(105, '1', flags)).toEqual([EINVAL, 0n]);
  });

  it('agree with a model on random text', () => {
    const random = randomNumbers(seed);
    for (let round = 0; round < 8_000; round++) {
      const lead = ['', '', ' ', '\t\n ', '\xa0', '-', ' -', '--'][random(8)]!;
      const prefix = ['', '', '0', '0x', '0X'][random(5)]!;
      const alphabet = ['01', '01234567', '0123456789', '0123456789abcdefABCDEF', '0189afgxz -'][random(5)]!;
      const length = random(4) === 0 ? random(80) : random(24);
      const text = lead + prefix + Array.from({ length }, () => alphabet[random(alphabet.length)]).join('');
      const base = [0, 8, 10, 16][random(4)]!;
      const helper = random(2) === 0 ? 105 : 106;
      expect(parse(helper, text, base), JSON.stringify([helper, text, base])).toEqual(
        model(helper, text, base),
      );
    }
  });
});
