/**
 * Counts are exact: what multitrace counted equals the program's own counters, gdb's breakpoints and the kernel's
 * uprobes, for one thread and for eight.
 */

import { describe, expect, test } from 'vitest';
import { describeRun, run } from './support/command.js';
import { compileTarget, ownCounts, type Recipe } from './support/compile.js';
import { countWithGdb, countWithUprobes } from './support/independent.js';
import { ROOT } from './support/paths.js';
import { countCommand, countOf, skippedFor } from './support/report.js';
import { missingCommand, missingCompiler, SOAK, uprobesRefused } from './support/skip.js';
import { fileFunctions, libraryOf } from './support/symbols.js';

const COUNTS: readonly (readonly [string, Recipe])[] = [
  ['gcc -O2', { source: 'counts.c' }],
  ['gcc -O0', { source: 'counts.c', flags: ['-O0'] }],
  ['gcc -O3 -march=native', { source: 'counts.c', flags: ['-O3', '-march=native'] }],
  ['gcc -Os', { source: 'counts.c', flags: ['-Os'] }],
  ['gcc -O2 -fcf-protection=full', { source: 'counts.c', flags: ['-fcf-protection=full'] }],
  [
    'gcc -O2 -fstack-protector-all -fno-omit-frame-pointer',
    { source: 'counts.c', flags: ['-fstack-protector-all', '-fno-omit-frame-pointer'] },
  ],
  ['clang-19 -O2', { source: 'counts.c', compiler: 'clang-19' }],
  ['clang-19 -O0', { source: 'counts.c', compiler: 'clang-19', flags: ['-O0'] }],
];

/** Of the 32 functions of counts.c, at most these few may be out of reach (a loop's head in the patched bytes). */
const MOST_SKIPPED = 4;

describe('one thread', () => {
  for (const [title, recipe] of COUNTS) {
    test(`${title}: every function attached has the program's own count`, async ({ skip }) => {
      const lacking = missingCompiler(recipe);
      skip(lacking !== undefined, lacking);
      const program = compileTarget(recipe);
      const plain = await run(program, []);
      const { report, run: traced } = await countCommand(['*'], [program]);
      expect(traced.status, describeRun(traced)).toBe(0);
      expect(traced.stderr, 'the program prints what it prints untraced').toContain(plain.stdout);
      const own = ownCounts(plain.stdout);
      expect(own.get('heavy')).toBeGreaterThan(100_000);
      const wanted = new Map([...own].filter(([name]) => skippedFor(report, name) === undefined));
      const counted = new Map([...wanted.keys()].map(name => [name, countOf(report, name)]));
      expect(counted).toEqual(wanted);
      expect(counted.size).toBeGreaterThanOrEqual(own.size - MOST_SKIPPED);
      expect(counted.has('heavy')).toBe(true);
      expect(report.missed).toBe(0);
    });
  }

  // gdb takes 0.7 ms for each hit: the 110,000 calls are compared with it where the kernel's count can't be had.
  test('gdb counts the same for 32 functions', async ({ skip }) => {
    const lacking = missingCommand('gcc', 'gdb', 'nm');
    skip(lacking !== undefined, lacking);
    const heavyCalls = SOAK || uprobesRefused() !== undefined ? '110000' : '300';
    const program = compileTarget({ source: 'counts.c' });
    const { report, run: traced } = await countCommand(['*'], [program, heavyCalls]);
    expect(traced.status, describeRun(traced)).toBe(0);
    const names = [...ownCounts(traced.stderr).keys()].filter(name => skippedFor(report, name) === undefined);
    expect(names.length).toBeGreaterThanOrEqual(20);
    expect(new Map(names.map(name => [name, countOf(report, name)]))).toEqual(
      await countWithGdb(program, [heavyCalls], names),
    );
  }, 300_000);

  test('the kernel counts the same for 32 functions, one called 110,000 times', async ({ skip }) => {
    const lacking = missingCommand('gcc', 'nm') ?? uprobesRefused();
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'counts.c' });
    const { report, run: traced } = await countCommand(['*'], [program]);
    const names = [...ownCounts(traced.stderr).keys()].filter(name => skippedFor(report, name) === undefined);
    const kernel = await countWithUprobes(program, names, [program]);
    expect(kernel.get('heavy')).toBeGreaterThan(100_000);
    expect(names.length).toBeGreaterThanOrEqual(20);
    expect(new Map(names.map(name => [name, countOf(report, name)]))).toEqual(kernel);
  }, 120_000);

  test('the kernel counts the same for functions of a stripped library', async ({ skip }) => {
    const lacking = missingCommand('openssl', 'gcc', 'nm', 'ldd') ?? uprobesRefused();
    skip(lacking !== undefined, lacking);
    const command = ['openssl', 'dgst', '-sha256', 'package.json'];
    const { report, run: traced } = await countCommand(['libcrypto:*'], command, { cwd: ROOT });
    expect(traced.status, describeRun(traced)).toBe(0);
    const library = libraryOf('/usr/bin/openssl', 'libcrypto.so');
    const counts = new Map<string, number>();
    // Aliases share an address: the name that was reported is the one to ask for.
    const known = new Set(fileFunctions(library, true).map(({ name }) => name));
    for (const one of report.functions) if (known.has(one.function)) counts.set(one.function, one.count);
    const names = [...counts.keys()].slice(0, SOAK ? 1000 : 60);
    expect(names.length).toBeGreaterThanOrEqual(20);
    const kernel = await countWithUprobes(library, names, ['openssl', 'dgst', '-sha256', 'package.json'], {
      dynamic: true,
    });
    const differing = names
      .filter(name => counts.get(name) !== kernel.get(name))
      .map(name => `${name}: ${counts.get(name)}, the kernel says ${kernel.get(name)}`);
    expect(differing).toEqual([]);
  }, 120_000);
});

describe('eight threads at once', () => {
  test('every function has the sum of the threads’ own counters', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'threads.c' });
    const rounds = SOAK ? '3000000' : '300000';
    const plain = await run(program, [rounds]);
    const { report, run: traced } = await countCommand(['*'], [program, rounds]);
    expect(traced.stderr, describeRun(traced)).toContain(plain.stdout);
    const own = ownCounts(plain.stdout);
    expect(own.size).toBe(20);
    expect(new Map([...own.keys()].map(name => [name, countOf(report, name)]))).toEqual(own);
    expect(report.missed).toBe(0);
  }, 120_000);

  test('gdb counts the same', async ({ skip }) => {
    const lacking = missingCommand('gcc', 'gdb');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'threads.c' });
    const { report, run: traced } = await countCommand(['*'], [program, '60']);
    const names = [...ownCounts(traced.stderr).keys()];
    expect(new Map(names.map(name => [name, countOf(report, name)]))).toEqual(
      await countWithGdb(program, ['60'], names),
    );
  }, 300_000);

  test('the kernel counts the same', async ({ skip }) => {
    const lacking = missingCommand('gcc') ?? uprobesRefused();
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'threads.c' });
    const { report, run: traced } = await countCommand(['*'], [program, '3000']);
    const names = [...ownCounts(traced.stderr).keys()];
    const kernel = await countWithUprobes(program, names, [program, '3000'], { allThreads: true });
    expect(new Map(names.map(name => [name, countOf(report, name)]))).toEqual(kernel);
  }, 120_000);
});

describe('interrupted by signals', () => {
  test('handlers that call traced functions lose nothing: counted and missed make the program’s own count', async ({
    skip,
  }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'signals.c' });
    const { report, run: traced } = await countCommand(
      ['shared', 'only_*', 'jumper'],
      [program, SOAK ? '20000' : '500'],
    );
    expect(traced.status, describeRun(traced)).toBe(0);
    expect(traced.stderr).toMatch(/^ok\njumps 200$/m);
    const own = ownCounts(traced.stderr);
    const sum = (counts: Iterable<number>) => [...counts].reduce((a, b) => a + b, 0);
    const counted = new Map([...own.keys()].map(name => [name, countOf(report, name)]));
    for (const [name, calls] of own) expect(counted.get(name), name).toBeLessThanOrEqual(calls);
    expect(sum(counted.values()) + report.missed).toBe(sum(own.values()));
    // Nothing that only the main flow calls outside of handlers can be missed by a handler's interruption.
    expect(counted.get('only_main')).toBe(own.get('only_main'));
  }, 120_000);
});

describe.skipIf(!SOAK)('independent counts agree with each other', () => {
  test('gdb, the kernel and the program’s own counters, without multitrace', async ({ skip }) => {
    const lacking = missingCommand('gcc', 'gdb') ?? uprobesRefused();
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'counts.c', flags: ['-O3'] });
    const own = ownCounts((await run(program, ['300'])).stdout);
    const names = [...own.keys()];
    expect(await countWithGdb(program, ['300'], names)).toEqual(own);
    expect(await countWithUprobes(program, names, [program, '300'])).toEqual(own);
  }, 120_000);
});
