/**
 * Return hooks that do not hurt: real programs that leave their functions in every way there is, each compiled by gcc and
 * clang, traced for one round and let go of for the next. The programs check themselves; every entry and every return
 * that really happened is counted, and no other.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ProgramBuilder, R0 } from '../src/bpf/builder.js';
import { SelectorSet, Session } from '../src/index.js';
import type { BpfProg, SkippedFunction } from '../src/kernel/kernel.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { Running } from './support/command.js';
import { compileTarget, type Recipe } from './support/compile.js';
import { Tallies, type Tally } from './support/exits.js';
import { expectClean, expectEveryReturn, parseRounds, runRounds, traceProcess } from './support/rounds.js';
import { missingCompiler, missingFile, SOAK } from './support/skip.js';

/** A program of tests/targets/returns by each compiler. */
function variants(source: string, flags: readonly string[] = []): (readonly [string, Recipe])[] {
  const cc = source.endsWith('.cc');
  const recipe = (compiler: NonNullable<Recipe['compiler']>, level: string): readonly [string, Recipe] => [
    `${compiler} ${level}`,
    { source: `returns/${source}`, compiler, flags: [level, ...(cc ? ['-std=c++20'] : []), ...flags] },
  ];
  const gcc = cc ? 'g++' : 'gcc';
  return [recipe(gcc, '-O0'), recipe(gcc, '-O2'), recipe(cc ? 'clang++-19' : 'clang-19', '-O2')];
}

/** One test for each compiler. */
function eachVariant(
  source: string,
  what: string,
  check: (recipe: Recipe) => Promise<void>,
  flags: readonly string[] = [],
): void {
  for (const [name, recipe] of variants(source, flags))
    test(`${name}: ${what}`, async ({ skip }) => {
      const missing = missingCompiler(recipe);
      skip(missing !== undefined, missing);
      await check(recipe);
    });
}

describe('calls that return once, or never', () => {
  for (const [source, what] of [
    ['exceptions.cc', 'C++ exceptions through traced frames'],
    ['jumps.c', 'longjmp out of traced frames'],
    ['cancels.c', 'threads that exit or are cancelled in traced frames'],
    ['switches.c', 'calls on stacks that are switched'],
    ['coroutines.cc', 'C++20 coroutines'],
    ['alternate.c', 'signals on an alternate stack'],
    ['children.c', 'children made in traced functions'],
    ['recursion.c', '100,000 frames deep'],
    ['twice.c', 'functions that call setjmp, getcontext and vfork'],
  ] as const)
    eachVariant(source, what, async recipe => expectEveryReturn(await runRounds(recipe)));
});

describe('signals and cancellation in the middle of a trampoline', () => {
  // One that is cut short there may have been counted by the one and not by the other.
  const MOST_CUT_SHORT = 3000;
  eachVariant(
    'moments.cc',
    'handlers that walk, throw and jump out of it, threads cancelled in it',
    async recipe => {
      const { round, seen } = await runRounds(recipe, { exact: false });
      expect(seen.missed).toEqual({ fexit: 0, fsession: 0 });
      for (const [name, { entered, returned }] of round.passes) {
        expect(Math.abs(seen.fentry.get(name)!.count - entered), name).toBeLessThan(MOST_CUT_SHORT);
        expect(Math.abs(seen.fexit.get(name)!.count - returned), name).toBeLessThan(MOST_CUT_SHORT);
      }
    },
  );
});

describe.skipIf(!SOAK)('more calls under way than the table has room for', () => {
  eachVariant(
    'recursion.c',
    '600,000 frames in each of four threads: those that found no room are counted as missed',
    async recipe => {
      const { round, seen } = await runRounds(recipe);
      const returned = [...round.passes.values()].reduce((sum, passes) => sum + passes.returned, 0);
      const counted = [...seen.fexit.values()].reduce((sum, { count }) => sum + count, 0);
      expect(seen.missed.fexit).toBeGreaterThan(0);
      expect(counted + seen.missed.fexit).toBe(returned);
      expect(seen.missed.fsession).toBe(seen.missed.fexit);
    },
    ['-DFRAMES=600000'],
  );
});

describe('tail calls between traced functions', () => {
  eachVariant(
    'tails.c',
    'chains of three and more return once for each function; of a million in a row on one frame eight do, and the others are counted as missed',
    async recipe => {
      const { round, seen } = await runRounds(recipe);
      const turning = ['even', 'odd'];
      for (const [name, { returned }] of round.passes)
        if (!turning.includes(name)) expect(seen.fexit.get(name)!.count, name).toBe(returned);
      const counted = turning.reduce((sum, name) => sum + seen.fexit.get(name)!.count, 0);
      const returned = turning.reduce((sum, name) => sum + round.passes.get(name)!.returned, 0);
      expect(counted + seen.missed.fexit).toBe(returned);
      expect(returned).toBe(recipe.flags?.includes('-O0') ? 10_001 : 1_000_001);
      expect(counted).toBe(recipe.flags?.includes('-O0') ? 10_001 : 8);
    },
    ['-foptimize-sibling-calls'],
  );
});

const ENDS = ['uncaught', 'noexcept', 'nothing', 'thread', 'destructor', 'handler'];

describe('exceptions that end the program', () => {
  for (const [name, recipe] of variants('terminate.cc'))
    test(`${name}: it ends as it does untraced, with the same words`, async ({ skip }) => {
      const missing = missingCompiler(recipe);
      skip(missing !== undefined, missing);
      const program = compileTarget(recipe);
      for (const how of ENDS) {
        const alone = spawnSync(program, [how], { encoding: 'utf8', input: '\n' });
        const running = new Running(program, [how], { keepInput: true });
        onTestFinished(() => running.stop());
        await running.expectOutput(/^pid \d+\n/);
        let counts: Map<string, Tally> | undefined;
        let links: Tallies | undefined;
        const letGo = await traceProcess(
          running.pid,
          kernel => {
            links = new Tallies(kernel, ['bottom', 'promises', 'nothing', 'main'], 'fexit');
          },
          () => {
            counts = links?.read();
          },
        );
        running.say('');
        const ended = await running.ended;
        await letGo();
        const withoutPid = (text: string): string => text.replace(/^pid \d+\n/, '');
        expect(ended.stderr, how).toBe(alone.stderr);
        expect(withoutPid(ended.stdout), how).toBe(withoutPid(alone.stdout));
        expect(ended.signal, how).toBe(alone.signal);
        if (how !== 'handler') expect(ended.signal, how).toBe('SIGABRT');
        expect(
          [...counts!.values()].map(({ count }) => count),
          how,
        ).toEqual([0, 0, 0, 0]);
      }
    });
});

describe('the program’s own view of its stacks', () => {
  eachVariant(
    'stacks.c',
    'backtrace and _Unwind_Backtrace name the same functions as untraced',
    async recipe => {
      expectEveryReturn(await runRounds(recipe));
    },
    ['-rdynamic'],
  );
});

describe('unwinders', () => {
  const THROWS = 'throws.cc';
  for (const [what, recipe, works] of [
    ['libgcc’s, in the program', { source: THROWS, flags: ['-static-libgcc', '-static-libstdc++'] }, true],
    ['libgcc’s, in a static program', { source: THROWS, flags: ['-static'] }, true],
    [
      'libgcc’s, in a stripped program',
      { source: THROWS, flags: ['-static-libgcc', '-static-libstdc++'], strip: ['--strip-all'] },
      false,
    ],
    [
      'libgcc’s, in a stripped program beside that of libstdc++',
      { source: THROWS, flags: ['-static-libgcc'], strip: ['--strip-all'] },
      false,
    ],
    [
      'libgcc’s, in a static program without symbols',
      { source: THROWS, flags: ['-static'], strip: ['--strip-all'] },
      false,
    ],
    [
      'LLVM’s',
      {
        source: THROWS,
        compiler: 'clang++-19',
        flags: ['-stdlib=libc++'],
      },
      false,
    ],
    [
      'nongnu.org’s libunwind, in front of libgcc’s',
      { source: THROWS, flags: ['-Wl,--no-as-needed,/usr/lib/x86_64-linux-gnu/libunwind.so.8'] },
      false,
    ],
  ] as const satisfies readonly (readonly [string, Recipe, boolean])[])
    test(`${what}: ${works ? 'exceptions pass traced functions' : 'return programs are refused, the others work'}`, async ({
      skip,
    }) => {
      const missing =
        missingCompiler(recipe) ??
        (what.startsWith('LLVM') ? missingFile('/usr/lib/llvm-19/lib/libc++.so') : undefined) ??
        (what.startsWith('nongnu') ? missingFile('/usr/lib/x86_64-linux-gnu/libunwind.so.8') : undefined);
      skip(missing !== undefined, missing);
      const program = compileTarget(recipe);
      const alone = spawnSync(program, { encoding: 'utf8' });
      let refused: unknown;
      let counted = 0;
      const session = Session.start(['/bin/sh', '-c', 'exec "$0" >"$1"', program, `${program}.out`], {
        opened(kernel) {
          const targets = kernel.functions(SelectorSet.parse(['*'])).map(target => ({ target, cookie: 0n }));
          if (!targets.some(({ target }) => target.module.startsWith('throws'))) return;
          const b = new ProgramBuilder();
          b.mov(R0, 0);
          b.exit();
          const load = (attachType: 'fentry' | 'fexit'): BpfProg =>
            kernel.progLoad({ name: 'nothing', attachType, insns: b.build(), maps: [] });
          kernel.linkCreate({ prog: load('fentry'), targets, skipInvalid: true });
          const { targets: attached, skipped } = kernel.linkCreate({
            prog: load('fexit'),
            targets,
            skipInvalid: true,
          });
          counted = attached.length;
          refused = skipped.find(({ reason }) => reason === 'unwinder')?.detail;
        },
        modulesChanged() {},
        closed() {},
        refused(error) {
          throw error;
        },
      });
      const end = await session.end;
      expect(end.kind === 'ended' && end.exit).toEqual({ code: alone.status });
      expect(readFileSync(`${program}.out`, 'utf8')).toBe(alone.stdout);
      if (works) expect(counted).toBeGreaterThan(5);
      else {
        expect(counted).toBe(0);
        expect(refused).toMatch(/unwinder/);
      }
    });
});

test('functions that return twice, or that unwind, are refused by name, each with its reason', async () => {
  const running = new Running(compileTarget({ source: 'returns/twice.c' }), [], { keepInput: true });
  onTestFinished(() => running.stop());
  await running.expectOutput(/^pid \d+\n/);
  let skipped: readonly SkippedFunction[] = [];
  const letGo = await traceProcess(running.pid, kernel => {
    const selectors = [
      'setjmp',
      '_setjmp',
      '__sigsetjmp',
      'getcontext',
      'setcontext',
      'swapcontext',
      'vfork',
    ];
    const links = new Tallies(
      kernel,
      selectors.map(name => `libc.so*:${name}`),
      'fexit',
      true,
    );
    expect(links.link.targets.length).toBe(0);
    skipped = links.link.skipped;
    expect(() => new Tallies(kernel, ['libc.so*:vfork'], 'fsession')).toThrow(/two processes/);
    expect(() => new Tallies(kernel, ['keep_place'], 'fexit')).toThrow(/reads its return address/);
  });
  await letGo();
  const why = (name: string): string | undefined => skipped.find(one => one.function === name)?.detail;
  for (const name of ['setjmp', '_setjmp', '__sigsetjmp'])
    expect(why(name), name).toMatch(/it returns twice/);
  for (const name of ['getcontext', 'setcontext', 'swapcontext'])
    expect(why(name), name).toMatch(/saves its return address/);
  expect(why('vfork')).toMatch(/may return in two processes/);
  running.child.stdin!.end('\n\n');
  expect((await running.ended).status).toBe(0);
});

test('where nobody watches for libraries, a thread that loads one is not held; threads that exit run their clean-up', async () => {
  const program = compileTarget({ source: 'returns/cancels.c' });
  const [expected] = parseRounds(spawnSync(program, { encoding: 'utf8', input: '\n\n' }).stdout);
  const running = new Running(program, [], { keepInput: true });
  onTestFinished(() => running.stop());
  await running.expectOutput(/^pid \d+\n/);
  const kernel = new ProcessKernel(openProcess(running.pid));
  onTestFinished(() => kernel.close());
  const tallies = new Tallies(kernel, [...expected.passes.keys()], 'fexit');
  // The first thread to exit loads libgcc_s.
  running.say('');
  await running.expectOutput(/^round over\n/m);
  for (const [name, { returned }] of parseRounds(running.stdoutSoFar)[0].passes)
    expect(tallies.read().get(name)!.count, name).toBe(returned);
  kernel.close();
  expectClean(running.pid);
  running.say('');
  const ended = await running.ended;
  expect(ended.status).toBe(0);
  for (const { text } of parseRounds(ended.stdout)) expect(text).toBe(expected.text);
});
