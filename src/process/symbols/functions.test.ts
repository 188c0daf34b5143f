import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findDebugFile } from '../../elf/debug_file.js';
import { ElfFile } from '../../elf/file.js';
import { functionsOf, type ModuleFunction } from './functions.js';

const LIBRARIES = '/usr/lib/x86_64-linux-gnu';
const LIBC = join(LIBRARIES, 'libc.so.6');
const REAL_FILES = [
  LIBC,
  join(LIBRARIES, 'libcrypto.so.3'),
  join(LIBRARIES, 'libstdc++.so.6'),
  join(LIBRARIES, 'ld-linux-x86-64.so.2'),
  '/usr/bin/python3',
  '/bin/bash',
].filter(path => existsSync(path));

const folder = mkdtempSync(join(tmpdir(), 'functions-'));
afterAll(() => rmSync(folder, { recursive: true }));

function missing(...commands: string[]): boolean {
  return commands.some(command => spawnSync(command, ['--version']).error !== undefined);
}

/** Names by address of the function symbols that readelf shows and that can be called. */
function functionsByReadelf(paths: string[]): Map<number, Set<string>> {
  const found = new Map<number, Set<string>>();
  for (const path of paths) {
    const text = spawnSync('readelf', ['-sW', path], { encoding: 'utf8', maxBuffer: 2 ** 30 }).stdout;
    const pattern = /^ +\d+: ([0-9a-f]+) +\S+ (?:FUNC|IFUNC) +\w+ +\w+ +(?:\[.*\] +)?\d+ (\S+)/gm;
    for (const [, value, name] of text.matchAll(pattern)) {
      const plain = name.split('@')[0];
      if (/\.cold(\.\d+)?$/.test(plain) || plain === '__restore_rt') continue;
      const address = parseInt(value, 16);
      found.set(address, (found.get(address) ?? new Set()).add(plain));
    }
  }
  return found;
}

function named(functions: ModuleFunction[], name: string): ModuleFunction {
  const found = functions.filter(({ aliases }) => aliases.includes(name));
  expect(found, name).toHaveLength(1);
  return found[0];
}

describe('functions of real files', () => {
  it('has files to read', () => expect(REAL_FILES.length).toBeGreaterThan(1));

  it.skipIf(missing('readelf')).each(REAL_FILES)('%s: every address and name that readelf shows', path => {
    const elf = ElfFile.open(path);
    const debugFile = findDebugFile(elf);
    const functions = functionsOf(elf);
    const expected = functionsByReadelf(debugFile ? [path, debugFile.path] : [path]);
    expect(functions.length).toBeGreaterThan(20);
    expect(functions.map(({ address }) => address)).toEqual([...expected.keys()].sort((a, b) => a - b));
    for (const { address, aliases } of functions) expect(new Set(aliases)).toEqual(expected.get(address));
  });

  it.each(REAL_FILES)('%s: sizes stay inside the code, and names are in order', path => {
    const elf = ElfFile.open(path);
    const sections = elf.executableSections();
    for (const { name, aliases, address, size } of functionsOf(elf)) {
      expect(aliases[0]).toBe(name);
      const home = sections.find(s => address >= s.address && address < s.address + s.bytes.length)!;
      expect(size).toBeGreaterThan(0);
      expect(address + size).toBeLessThanOrEqual(home.address + home.bytes.length);
      expect(home.name).not.toMatch(/plt/);
    }
  });

  it('calls functions of libc by the names in its manual', () => {
    const functions = functionsOf(ElfFile.open(LIBC));
    for (const name of ['read', 'malloc', 'printf', 'fork', 'open', 'pthread_create', 'getpid', 'qsort']) {
      const present = functions.filter(entry => entry.aliases.includes(name) && entry.name === name);
      expect(present, name).toHaveLength(1);
    }
    expect(functions.filter(({ name }) => name === 'strlen').map(({ ifunc }) => ifunc)).toEqual([true]);
  });

  it('gives no two functions of libcrypto one address, and far fewer names than symbols', () => {
    const functions = functionsOf(ElfFile.open(REAL_FILES[1]));
    expect(new Set(functions.map(({ address }) => address)).size).toBe(functions.length);
    expect(functions.every(({ sizeKnown }) => sizeKnown)).toBe(true);
  });
});

const PROGRAM = `
#include <stdlib.h>
int shared(int a) { return a + 1; }
int __shared_internal(int a) __attribute__((alias("shared")));
int weakly(int a) __attribute__((weak, alias("shared")));
static int impl(void) { return 7; }
static int (*resolve(void))(void) { return impl; }
int chosen(void) __attribute__((ifunc("resolve")));
__attribute__((cold, noinline)) static void fail(int a) { if (a > 3) exit(a); abort(); }
__attribute__((noinline)) int splits(int a) { if (a == 12345) { fail(a); } return a * 2; }
int data_not_code = 3;
__asm__(".text\\n.globl unsized\\n.type unsized,@function\\nunsized: .cfi_startproc\\nnop\\nnop\\nret\\n.cfi_endproc\\n"
        "nop\\nnop\\n.globl no_type\\nno_type: ret\\n"
        ".globl unsized_bare\\n.type unsized_bare,@function\\nunsized_bare: nop\\nret\\n"
        ".globl after\\n.type after,@function\\nafter: ret\\n.size after,1\\n");
int main(int n, char **v) { return shared(n) + chosen() + splits(n); }
`;

const VERSIONED = `
int old_open(void) { return 1; }
int new_open(void) { return 2; }
static int inner(void) { return 3; }
int (*outer)(void) = inner;
__asm__(".symver old_open,open_thing@OLD");
__asm__(".symver new_open,open_thing@@NEW");
`;

describe.skipIf(missing('gcc', 'strip'))('functions of a compiled program', () => {
  const source = join(folder, 'program.c');
  beforeAll(() => writeFileSync(source, PROGRAM));
  const build = (name: string, ...flags: string[]): ModuleFunction[] => {
    const path = join(folder, name);
    execFileSync('gcc', ['-O2', ...flags, '-o', path, source]);
    return functionsOf(ElfFile.open(path));
  };

  it.each([
    ['PIE', ['-pie', '-fPIE']],
    ['non-PIE', ['-no-pie']],
    ['static', ['-static']],
    ['static-PIE', ['-static-pie', '-fPIE']],
    ['library', ['-shared', '-fPIC']],
  ])('%s', (kind, flags) => {
    const functions = build(kind, ...flags);
    expect(named(functions, 'shared').aliases).toEqual(['shared', 'weakly', '__shared_internal']);
    expect(named(functions, 'chosen')).toMatchObject({ ifunc: true, name: 'chosen' });
    expect(named(functions, 'impl').ifunc).toBe(false);
    expect(named(functions, 'main').sizeKnown).toBe(true);
    const names = new Set(functions.flatMap(({ aliases }) => aliases));
    for (const absent of ['data_not_code', 'no_type', 'splits.cold', ''])
      expect(names.has(absent)).toBe(false);
    expect([...names].some(name => /@|\.cold/.test(name))).toBe(false);
  });

  it('ends a function without a size at its frame, else where the next one starts', () => {
    const functions = build('sizes');
    expect(named(functions, 'unsized')).toMatchObject({ size: 3, sizeKnown: false });
    expect(named(functions, 'unsized_bare')).toMatchObject({ size: 2, sizeKnown: false });
    expect(named(functions, 'after')).toMatchObject({ size: 1, sizeKnown: true });
  });

  it('knows versions apart, and a stripped library by its debug file', () => {
    const path = join(folder, 'versioned.so');
    const stripped = join(folder, 'stripped.so');
    writeFileSync(join(folder, 'versioned.c'), VERSIONED);
    writeFileSync(
      join(folder, 'versions'),
      'OLD { global: open_thing; local: *; }; NEW { global: open_thing; } OLD;',
    );
    const flags = [
      '-O2',
      '-nostdlib',
      '-shared',
      '-fPIC',
      `-Wl,--version-script=${join(folder, 'versions')}`,
    ];
    execFileSync('gcc', [...flags, '-o', path, join(folder, 'versioned.c')]);
    const whole = functionsOf(ElfFile.open(path));
    expect(whole.map(({ aliases }) => aliases).sort()).toEqual([
      ['inner'],
      ['old_open', 'open_thing'],
      ['open_thing', 'new_open'],
    ]);
    execFileSync('objcopy', ['--only-keep-debug', path, `${path}.debug`]);
    execFileSync('strip', ['-o', stripped, path]);
    const elf = ElfFile.open(stripped);
    expect(functionsOf(elf, null).map(({ aliases }) => aliases)).toEqual([['open_thing'], ['open_thing']]);
    expect(functionsOf(elf, ElfFile.open(`${path}.debug`))).toEqual(whole);
  });

  it('refuses object files', () => {
    execFileSync('gcc', ['-c', '-o', join(folder, 'object.o'), source]);
    expect(() => functionsOf(ElfFile.open(join(folder, 'object.o')))).toThrow(/is an object file/);
  });

  it.skipIf(missing('musl-gcc'))('reads a static musl program', () => {
    const muslSource = join(folder, 'musl.c');
    writeFileSync(
      muslSource,
      '#include <stdio.h>\nint add(int a) { return a + 1; }\nint main(int n, char **v) { printf("%d", add(n)); }\n',
    );
    execFileSync('musl-gcc', ['-static', '-o', join(folder, 'musl'), muslSource]);
    const functions = functionsOf(ElfFile.open(join(folder, 'musl')));
    expect(named(functions, 'add').sizeKnown).toBe(true);
    expect(named(functions, 'printf').name).toBe('printf');
    const expected = functionsByReadelf([join(folder, 'musl')]);
    expect(functions.map(({ address }) => address)).toEqual([...expected.keys()].sort((a, b) => a - b));
  });
});
