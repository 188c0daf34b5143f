import { describe, expect, it } from 'vitest';
import { timed } from '../../../tests/support/cpu_time.js';
import { Glob } from './glob.js';

function matches(pattern: string, name: string): boolean {
  return Glob.compile(pattern).matches(name);
}

describe('globs', () => {
  it.each([
    ['*', 'anything', true],
    ['*', '', true],
    ['foo', 'foo', true],
    ['foo', 'foobar', false],
    ['foo', 'afoo', false],
    ['foo*', 'foo', true],
    ['*foo', 'barfoo', true],
    ['*foo', 'foobar', false],
    ['a*b*c', 'a-b-b-c', true],
    ['a*b*c', 'a-c-b', false],
    ['ab*ba', 'aba', false],
    ['ab*ba', 'abba', true],
    ['a**b', 'ab', true],
    ['?', 'a', true],
    ['?', '', false],
    ['f?o', 'fao', true],
    ['*?', '', false],
    ['?*?', 'ab', true],
    ['?*?', 'a', false],
    ['[a-c]x', 'bx', true],
    ['[a-c]x', 'dx', false],
    ['[!a-c]x', 'dx', true],
    ['[^a-c]x', 'bx', false],
    ['[]x]', ']', true],
    ['[!]x]', ']', false],
    ['[a-]', '-', true],
    ['[\\]', '\\', true],
    ['[.]', 'a', false],
    ['*[0-9][0-9]*', 'AES128', true],
    ['*[0-9][0-9]*', 'AES1x2', false],
    ['{foo,bar}_*', 'bar_x', true],
    ['{foo,bar}_*', 'baz_x', false],
    ['x{,y{1,2}}', 'x', true],
    ['x{,y{1,2}}', 'xy2', true],
    ['x{,y{1,2}}', 'xy', false],
    ['{*,a}', 'zzz', true],
    ['a,b}', 'a,b}', true],
    ['\\*', '*', true],
    ['\\*', 'a', false],
    ['a.c', 'abc', false],
    ['operator()*', 'operator()(int)', true],
    ['$f+(x)|^', '$f+(x)|^', true],
    ['a[b].c', 'abxc', false],
    ['a[b].c', 'ab.c', true],
  ])('%s against %s: %s', (pattern, name, expected) => expect(matches(pattern, name)).toBe(expected));

  it('agrees with a backtracking matcher on every short pattern and name', () => {
    const slow = (pattern: string, name: string): boolean => {
      if (pattern === '') return name === '';
      if (pattern[0] === '*')
        return slow(pattern.slice(1), name) || (name !== '' && slow(pattern, name.slice(1)));
      return (
        name !== '' && (pattern[0] === '?' || pattern[0] === name[0]) && slow(pattern.slice(1), name.slice(1))
      );
    };
    const words = (letters: string, length: number): string[] =>
      length === 0
        ? ['']
        : [...words(letters, length - 1)].flatMap(w => [w, ...[...letters].map(l => w + l)]);
    const names = [...new Set(words('ab', 5))];
    for (const pattern of new Set(words('ab*?', 5))) {
      const glob = Glob.compile(pattern);
      for (const name of names)
        if (glob.matches(name) !== slow(pattern, name)) throw new Error(`${pattern} ${name}`);
    }
  });

  it('knows what matches everything', () => {
    expect(['*', '**', '{a,*}'].map(pattern => Glob.compile(pattern).matchesAll)).toEqual([true, true, true]);
    expect(['', '?*', 'a*', '[!x]'].map(pattern => Glob.compile(pattern).matchesAll)).toEqual(
      Array(4).fill(false),
    );
  });

  it('takes no time to fail on a long name, however many stars', () => {
    const ms = timed(() => {
      expect(matches(`${'*a'.repeat(50)}*b`, 'a'.repeat(20_000))).toBe(false);
      expect(matches(`${'*?a'.repeat(50)}*b*c`, 'a'.repeat(20_000))).toBe(false);
    });
    expect(ms).toBeLessThan(1000);
  });

  it('limits what braces make', () => {
    expect(() => Glob.compile('{a,b}'.repeat(8))).not.toThrow();
    expect(() => Glob.compile('{a,b}'.repeat(9))).toThrow(/more than 256 patterns/);
  });
});
