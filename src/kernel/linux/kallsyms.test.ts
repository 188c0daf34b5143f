/** Symbols of the kernel by address. */

import { expect, test } from 'vitest';
import { kallsyms } from './fixture.js';
import { KernelSymbols } from './kallsyms.js';

const FIRST = 0xffffffff81000010n;
const symbols = (hidden = false): KernelSymbols =>
  new KernelSymbols(
    Buffer.from(kallsyms(['one', 'data_between', 'two', '=alias', 'last nf_tables'], hidden)),
  );

test('the symbol before an address is the one that it is in, or behind', () => {
  const all = symbols();
  const name = (address: bigint): string | undefined => {
    const index = all.before(address);
    return index === undefined ? undefined : all.name(index);
  };
  expect(name(FIRST - 1n)).toBeUndefined();
  expect(name(FIRST)).toBe('one');
  expect(name(FIRST + 31n)).toBe('one');
  // Of two names at one place the first.
  expect(name(FIRST + 32n)).toBe('two');
  expect(name(FIRST + 47n)).toBe('two');
  expect(name(FIRST + 48n)).toBe('last');
  expect(name(0xffffffffffffffffn)).toBe('last');
  expect(all.modules[all.owner(all.before(FIRST + 48n)!)]).toBe('nf_tables');
});

test('a symbol at an address is at exactly that one', () => {
  const all = symbols();
  expect(all.at(FIRST + 1n)).toBeUndefined();
  expect(all.name(all.at(FIRST)!)).toBe('one');
  expect(all.aliases(all.at(FIRST + 32n)!).map(index => all.name(index))).toEqual(['two', 'alias']);
});

test('where the kernel hides addresses there is none', () => {
  expect(symbols(true).before(FIRST)).toBeUndefined();
  expect(symbols(true).at(FIRST)).toBeUndefined();
  expect(symbols(true).count).toBe(4);
});
