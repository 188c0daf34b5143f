import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { timed } from '../../../tests/support/cpu_time.js';
import { ElfFile } from '../../elf/file.js';
import { BpfError } from '../../kernel/errno.js';
import { functionsOf } from './functions.js';
import { moduleNames, parseSelector, SelectorSet } from './selector.js';

const main = { path: '/usr/bin/python3.11', isMain: true };
const libcrypto = { path: '/usr/lib/x86_64-linux-gnu/libcrypto.so.3', isMain: false };
const libc = { path: '/usr/lib/x86_64-linux-gnu/libc.so.6', isMain: false };
const libpython = { path: '/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0', isMain: false };
const vdso = { path: '[vdso]', isMain: false };

function failureOf(action: () => unknown): BpfError {
  try {
    action();
  } catch (error) {
    if (error instanceof BpfError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('names of a module', () => {
  it.each([
    ['/usr/lib/x86_64-linux-gnu/libcrypto.so.3', ['libcrypto.so.3', 'libcrypto.so', 'libcrypto']],
    [
      '/x/libpython3.11.so.1.0',
      ['libpython3.11.so.1.0', 'libpython3.11.so.1', 'libpython3.11.so', 'libpython3.11'],
    ],
    ['/x/libm-2.31.so', ['libm-2.31.so', 'libm-2.31', 'libm']],
    ['/x/ld-linux-x86-64.so.2', ['ld-linux-x86-64.so.2', 'ld-linux-x86-64.so', 'ld-linux-x86-64']],
    ['/usr/bin/python3.11', ['python3.11']],
    ['/usr/bin/old (deleted)', ['old']],
    ['[vdso]', ['[vdso]']],
  ])('%s', (path, names) => expect(moduleNames(path)).toEqual(names));
});

describe('MODULE', () => {
  const matches = (selector: string, module: { path: string; isMain: boolean }) =>
    SelectorSet.parse([selector]).matchesModule(module);

  it('matches a library with or without .so and version', () => {
    for (const module of ['libcrypto', 'libcrypto.so', 'libcrypto.so.3', 'libcrypto*', 'lib[a-c]rypto', '*'])
      expect(matches(`${module}:f`, libcrypto), module).toBe(true);
    for (const module of ['libcrypt', 'crypto', 'libcrypto.so.1', 'libssl', 'LIBCRYPTO'])
      expect(matches(`${module}:f`, libcrypto), module).toBe(false);
    expect(matches('libpython3.11:f', libpython)).toBe(true);
    expect(matches('libpython3:f', libpython)).toBe(false);
  });

  it('matches the main program by name, and is the main program when left out', () => {
    expect(matches('python3.11:f', main)).toBe(true);
    expect(matches('f', main)).toBe(true);
    expect(matches('f', libc)).toBe(false);
    expect(matches('f', { ...main, isMain: false })).toBe(false);
  });

  it('matches [vdso] as a name, not as a character class', () => {
    expect(matches('[vdso]:*', vdso)).toBe(true);
    expect(matches('[vdso]:*', { path: '/lib/v', isMain: false })).toBe(false);
    expect(matches('*:*', vdso)).toBe(true);
  });

  it('matches the whole path when it has a slash', () => {
    expect(matches('/usr/lib/*:f', libc)).toBe(true);
    expect(matches('/opt/*:f', libc)).toBe(false);
  });

  it('ends at the first single colon', () => {
    const names = (selector: string, name: string) => parseSelector(selector).functions.matches(name);
    expect(names('std::string::size', 'std::string::size')).toBe(true);
    expect(names('libstdc++:std::string::size', 'std::string::size')).toBe(true);
    expect(matches('std::string::size', main)).toBe(true);
    expect(matches('std::*', libc)).toBe(false);
    expect(names('libc:::f', '::f')).toBe(false);
  });
});

describe('a set of selectors', () => {
  const picks = (texts: string[], module: { path: string; isMain: boolean }, ...aliases: string[]) =>
    SelectorSet.parse(texts).matchesFunction(module, aliases);

  it('includes by any name, excludes by any name', () => {
    expect(picks(['libc:read'], libc, '__read', 'read')).toBe(true);
    expect(picks(['libc:*', '!libc:read'], libc, '__read', 'read')).toBe(false);
    expect(picks(['libc:*', '!libc:read'], libc, 'write')).toBe(true);
    expect(picks(['libc:read'], libcrypto, 'read')).toBe(false);
  });

  it('excludes from the main program only, unless a module says more', () => {
    expect(picks(['*:*', '!foo'], main, 'foo')).toBe(false);
    expect(picks(['*:*', '!foo'], libc, 'foo')).toBe(true);
    expect(picks(['*:*', '!*:foo'], libc, 'foo')).toBe(false);
  });

  it('does not depend on the order', () => {
    expect(picks(['!libc:read', 'libc:*'], libc, 'read')).toBe(false);
  });

  it('knows modules that can not have a match', () => {
    const set = SelectorSet.parse(['libc:*', 'libcrypto:EVP_*', '!libc:*']);
    expect([libc, libcrypto, main].map(module => set.matchesModule(module))).toEqual([false, true, false]);
  });

  it.skipIf(!existsSync(libcrypto.path))('picks what a shell pattern picks from libcrypto, fast', () => {
    const functions = functionsOf(ElfFile.open(libcrypto.path), null);
    const set = SelectorSet.parse(['libcrypto:EVP_*_[a-d]*', 'libcrypto:{SHA,MD}?_*', '!libcrypto:*_free']);
    const picked = functions.filter(({ aliases }) => set.matchesFunction(libcrypto, aliases));
    const pattern = /^(EVP_.*_[a-d].*|(SHA|MD)._.*)$/;
    const expected = functions.filter(
      ({ aliases }) =>
        aliases.some(name => pattern.test(name)) && !aliases.some(name => name.endsWith('_free')),
    );
    expect(picked.length).toBeGreaterThan(50);
    expect(picked).toEqual(expected);
    const ms = timed(() => {
      for (let i = 0; i < 20; i++)
        for (const { aliases } of functions) set.matchesFunction(libcrypto, aliases);
    });
    expect(ms).toBeLessThan(1000);
  });
});

describe('bad selectors', () => {
  it.each([
    ['libc:', "selector 'libc:' names no function; write [MODULE:]FUNCTION, for example libc:malloc or '*'"],
    ['', "selector '' names no function; write [MODULE:]FUNCTION, for example libc:malloc or '*'"],
    ['!', "selector '!' names no function; write [MODULE:]FUNCTION, for example libc:malloc or '*'"],
    [
      ':foo',
      "selector ':foo' has an empty module before ':'; leave out the ':' to mean the main program, or write '*:'",
    ],
    [
      'libc:EVP_[a',
      "bad selector 'libc:EVP_[a' at character 10: this '[' is never closed; close it with ']', or write '\\[' for the character",
    ],
    [
      '!lib[c:f',
      "bad selector '!lib[c:f' at character 5: this '[' is never closed; close it with ']', or write '\\[' for the character",
    ],
    [
      'f{a,b',
      "bad selector 'f{a,b' at character 2: this '{' is never closed; close it with '}', or write '\\{' for the character",
    ],
    ['[z-a]', "bad selector '[z-a]' at character 1: the range 'z-a' runs backwards; write 'a-z'"],
    ['f\\', "bad selector 'f\\' at character 2: nothing follows this '\\'; write '\\\\' for the character"],
    [
      '[[:alpha:]]x',
      "bad selector '[[:alpha:]]x' at character 1: classes such as '[:alpha:]' are not known here; write a range, such as [A-Za-z]",
    ],
  ])('%s', (text, message) => {
    const failure = failureOf(() => SelectorSet.parse(['ok', text]));
    expect([failure.code, failure.message]).toEqual(['EINVAL', message]);
  });

  it('needs something to include', () => {
    expect(failureOf(() => SelectorSet.parse(['!a', '!libc:*'])).message).toBe(
      "only exclusions given (!a !libc:*); add a selector of what to include, for example '*'",
    );
    expect(failureOf(() => SelectorSet.parse([])).code).toBe('EINVAL');
  });
});
