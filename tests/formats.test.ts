/**
 * Programs in every format that Linux runs on x86-64: PIE or not, static or not, glibc or musl, stripped or not,
 * with a compiler's nop sleds or without; functions with several names, and functions chosen at start (IFUNC).
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { describeRun, multitrace, Running, run } from './support/command.js';
import { compileTarget, ownCounts, type Recipe } from './support/compile.js';
import { changedCode } from './support/process.js';
import { countCommand, countOf, skippedFor } from './support/report.js';
import { missingCommand, missingCompiler } from './support/skip.js';
import { libraryOf } from './support/symbols.js';

const COUNTS = 'counts.c';
const HEAVY = '3000';
/** What -pg needs beside it here: it is for programs at fixed addresses. */
const MCOUNT = ['-pg', '-mfentry', '-fno-pie', '-no-pie'];

const FORMATS: readonly (readonly [string, Recipe])[] = [
  ['PIE', { source: COUNTS, flags: ['-fPIE', '-pie'] }],
  ['non-PIE', { source: COUNTS, flags: ['-fno-pie', '-no-pie'] }],
  ['static', { source: COUNTS, flags: ['-static'] }],
  ['static-PIE', { source: COUNTS, flags: ['-static-pie'] }],
  ['PIE, bound at start', { source: COUNTS, flags: ['-Wl,-z,now,-z,relro', '-fno-plt'] }],
  ['PIE with control-flow protection', { source: COUNTS, flags: ['-fcf-protection=full'] }],
  [
    'each function in a section of its own',
    { source: COUNTS, flags: ['-ffunction-sections', '-Wl,--gc-sections'] },
  ],
  ['functions not aligned', { source: COUNTS, flags: ['-Os', '-falign-functions=1'] }],
  ['clang, non-PIE', { source: COUNTS, compiler: 'clang-19', flags: ['-fno-pie', '-no-pie'] }],
  ['clang, static', { source: COUNTS, compiler: 'clang-19', flags: ['-static'] }],
  ['musl', { source: COUNTS, compiler: 'musl-gcc' }],
  ['musl, static', { source: COUNTS, compiler: 'musl-gcc', flags: ['-static'] }],
  ['musl, static-PIE', { source: COUNTS, compiler: 'musl-gcc', flags: ['-static-pie'] }],
  ['nop sled of 5 bytes', { source: COUNTS, flags: ['-fpatchable-function-entry=5'] }],
  ['nop sled of 16 bytes', { source: COUNTS, flags: ['-fpatchable-function-entry=16'] }],
  [
    'nop sled of 5 bytes behind endbr64',
    { source: COUNTS, flags: ['-fpatchable-function-entry=5', '-fcf-protection=full'] },
  ],
  [
    'nop sled of 16 bytes, 11 of them before the entry',
    { source: COUNTS, flags: ['-fpatchable-function-entry=16,11'] },
  ],
  ['nop sled too short to patch (2 bytes)', { source: COUNTS, flags: ['-fpatchable-function-entry=2'] }],
  ['nop sled by clang', { source: COUNTS, compiler: 'clang-19', flags: ['-fpatchable-function-entry=5'] }],
  ['__fentry__ as a nop', { source: COUNTS, flags: [...MCOUNT, '-mnop-mcount'] }],
  [
    '__fentry__ as a nop, recorded',
    { source: COUNTS, flags: [...MCOUNT, '-mnop-mcount', '-mrecord-mcount'] },
  ],
];

/** Symbols stay in .dynsym where a program exports them; the static functions' are gone. */
const STRIPPED: readonly (readonly [string, Recipe])[] = [
  ['stripped PIE', { source: COUNTS, flags: ['-rdynamic'], strip: [] }],
  ['stripped non-PIE', { source: COUNTS, flags: ['-rdynamic', '-fno-pie', '-no-pie'], strip: [] }],
  ['stripped musl', { source: COUNTS, compiler: 'musl-gcc', flags: ['-rdynamic'], strip: [] }],
  [
    'stripped with nop sleds',
    { source: COUNTS, flags: ['-rdynamic', '-fpatchable-function-entry=5'], strip: [] },
  ],
];
const STATIC_FUNCTIONS = ['by_pointer', 'by_table_a', 'by_table_b'];

/** At most so many of the 32 functions of counts.c may be out of reach in any format. */
const MOST_SKIPPED = 6;

/** Where these programs run: what -pg links in writes a profile into the folder that it stands in. */
const cwd = mkdtempSync(join(tmpdir(), 'multitrace-formats-'));
afterAll(() => rmSync(cwd, { recursive: true }));

async function countsAsItself(recipe: Recipe, without: readonly string[] = []): Promise<void> {
  const program = compileTarget(recipe);
  const plain = await run(program, [HEAVY], { cwd });
  const { report, run: traced } = await countCommand(['*'], [program, HEAVY], { cwd });
  expect(traced.stderr, describeRun(traced)).toBe(plain.stdout);
  expect(traced.status).toBe(plain.status);
  const own = ownCounts(plain.stdout);
  for (const name of without) own.delete(name);
  for (const name of own.keys()) if (skippedFor(report, name) !== undefined) own.delete(name);
  expect(new Map([...own.keys()].map(name => [name, countOf(report, name)]))).toEqual(own);
  expect(own.size, `skipped: ${JSON.stringify(report.skipped)}`).toBeGreaterThanOrEqual(
    32 - without.length - MOST_SKIPPED,
  );
}

describe('programs', () => {
  for (const [title, recipe] of FORMATS) {
    test(title, async ({ skip }) => {
      const lacking = missingCompiler(recipe);
      skip(lacking !== undefined, lacking);
      await countsAsItself(recipe);
    });
  }
  for (const [title, recipe] of STRIPPED) {
    test(title, async ({ skip }) => {
      const lacking = missingCompiler(recipe);
      skip(lacking !== undefined, lacking);
      await countsAsItself(recipe, STATIC_FUNCTIONS);
    });
  }

  test('debug symbols in a separate file, found beside the program', async ({ skip }) => {
    const lacking = missingCommand('gcc', 'objcopy', 'strip');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: COUNTS, flags: ['-g', '-DSEPARATE'] });
    // A stripped program with a link to its debug file beside it, made once.
    const bare = `${program}.bare`;
    const debug = `${program}.debug`;
    for (const [command, args] of [
      ['objcopy', ['--only-keep-debug', program, debug]],
      ['strip', ['-o', bare, program]],
      ['objcopy', ['--remove-section=.gnu_debuglink', `--add-gnu-debuglink=${debug}`, bare]],
    ] as const) {
      const done = await run(command, args);
      expect(done.status, describeRun(done)).toBe(0);
    }
    const { report, run: traced } = await countCommand(['by_*', 'heavy'], [bare, HEAVY]);
    const own = ownCounts(traced.stderr);
    for (const name of STATIC_FUNCTIONS) expect(countOf(report, name), name).toBe(own.get(name));
    expect(countOf(report, 'heavy')).toBe(Number(HEAVY));
  });

  test('nop sleds are the sites chosen', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: COUNTS, flags: ['-fpatchable-function-entry=5'] });
    const listed = await multitrace(['list', 'six_args', '--file', program]);
    expect(listed.status, describeRun(listed)).toBe(0);
    expect(listed.stdout, describeRun(listed)).toMatch(/six_args/);
    expect(listed.stdout).toMatch(/nop/i);
  });
});

describe('names', () => {
  const NAMES = ['real_name', 'first_alias', 'second_alias'];

  for (const [title, recipe] of [
    ['with symbols', { source: 'names.c' }],
    ['stripped', { source: 'names.c', flags: ['-rdynamic'], strip: [] }],
    ['static', { source: 'names.c', flags: ['-static'] }],
  ] as const satisfies readonly (readonly [string, Recipe])[]) {
    test(`several names at one address are one function (${title})`, async ({ skip }) => {
      const lacking = missingCompiler(recipe);
      skip(lacking !== undefined, lacking);
      const { report, run: traced } = await countCommand(['*_name', '*_alias'], [compileTarget(recipe)]);
      expect(traced.status, describeRun(traced)).toBe(0);
      const named = report.functions.filter(one => NAMES.includes(one.function));
      expect(
        named.map(one => one.count),
        JSON.stringify(named),
      ).toEqual([41]);
    });

    test(`any of its names selects it (${title})`, async ({ skip }) => {
      const lacking = missingCompiler(recipe);
      skip(lacking !== undefined, lacking);
      for (const name of NAMES) {
        const { report } = await countCommand([name], [compileTarget(recipe)]);
        expect(
          report.functions.map(one => one.count),
          name,
        ).toEqual([41]);
        expect(report.matched).toBe(1);
      }
    });
  }

  for (const [title, recipe, module] of [
    ['glibc', { source: 'names.c' }, 'libc:'],
    ['static glibc', { source: 'names.c', flags: ['-static'] }, ''],
    ['static-PIE glibc', { source: 'names.c', flags: ['-static-pie'] }, ''],
    // One file is library and loader, and goes by either name.
    ['musl', { source: 'names.c', compiler: 'musl-gcc' }, '*:'],
  ] as const satisfies readonly (readonly [string, Recipe, string])[]) {
    test(`functions chosen at start are counted under their names (${title})`, async ({ skip }) => {
      const lacking = missingCompiler(recipe);
      skip(lacking !== undefined, lacking);
      const program = compileTarget(recipe);
      const plain = await run(program, []);
      const selectors = ['strlen', 'strchr', 'memcpy'].map(name => `${module}${name}`);
      const { report, run: traced } = await countCommand(selectors, [program]);
      expect(traced.stderr, describeRun(traced)).toBe(plain.stdout);
      for (const [name, calls] of [
        ['strlen', 5000],
        ['strchr', 6000],
        ['memcpy', 7000],
      ] as const) {
        // glibc's memmove family jumps into memcpy's first bytes on most processors: then it is refused, and said.
        if (name === 'memcpy' && skippedFor(report, name) === 'branch-into-entry') continue;
        const counted = countOf(report, name);
        expect(counted, `${name}: ${JSON.stringify(report)}`).toBeGreaterThanOrEqual(calls);
        // The library itself calls them a few times.
        expect(counted, name).toBeLessThan(calls + 200);
      }
    });
  }
});

describe('list', () => {
  test('shows every function of a file, and whether it can be attached', async ({ skip }) => {
    const lacking = missingCommand('openssl', 'ldd');
    skip(lacking !== undefined, lacking);
    const library = libraryOf('/usr/bin/openssl', 'libcrypto.so');
    const listed = await multitrace(['list', '*', '--file', library]);
    expect(listed.status, describeRun(listed)).toBe(0);
    expect(listed.stdout.split('\n').length).toBeGreaterThan(5000);
    expect(listed.stdout).toMatch(/\bEVP_DigestUpdate\b/);
  });

  test('agrees with what count attaches and refuses', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: COUNTS, flags: ['-Os', '-falign-functions=1'] });
    const { report } = await countCommand(['*'], [program, HEAVY]);
    const listed = await multitrace(['list', '*', '--', program, HEAVY]);
    expect(listed.status, describeRun(listed)).toBe(0);
    expect(listed.stdout, 'the program did not run').not.toContain('checksum\t');
    for (const skipped of report.skipped) {
      const line = listed.stdout.split('\n').find(text => text.includes(skipped.function));
      expect(line, `${skipped.function} is listed`).toBeDefined();
      expect(line).toContain(skipped.reason);
    }
    for (const { function: name } of report.functions) expect(listed.stdout).toContain(name);
  });

  test('of a running process leaves it as it was', async ({ skip }) => {
    const lacking = missingCommand('gcc');
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'behaves.c' });
    const waiting = new Running(program, ['wait']);
    try {
      await waiting.expectOutput(/^ready/);
      const listed = await multitrace(['list', '*:*', '-p', `${waiting.pid}`]);
      expect(listed.status, describeRun(listed)).toBe(0);
      expect(listed.stdout).toMatch(/\btick\b/);
      expect(listed.stdout.split('\n').length).toBeGreaterThan(2000);
      expect(changedCode(waiting.pid).changed).toEqual([]);
    } finally {
      await waiting.stop();
    }
  });
});
