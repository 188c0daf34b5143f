/**
 * Programs at the return of functions, on real programs: every result seen right, nothing that the program does broken
 * (exceptions, longjmp, cancellation, coroutines, deep recursion, fork, signal stacks, backtrace), and the process given
 * back as it was, even while threads sit in traced functions.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { basename } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ProgramBuilder, R0 } from '../src/bpf/builder.js';
import { munmap } from '../src/ffi/libc.js';
import { SelectorSet, Session } from '../src/index.js';
import type { AttachType } from '../src/kernel/kernel.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { Running } from './support/command.js';
import { compileTarget, ownCounts, type Recipe } from './support/compile.js';
import { Tallies, type Tally } from './support/exits.js';
import { changedCode, type Mapping, mappings } from './support/process.js';
import { missingCommand, SOAK } from './support/skip.js';

const lacking = missingCommand('gcc', 'g++');
const traced = test.skipIf(lacking !== undefined);

interface Outcome {
  readonly stdout: string;
  readonly code: number | undefined;
  readonly tallies: Map<string, Tally>;
  readonly targets: number;
  readonly missed: bigint;
}

/** Runs a command traced from its first instruction; its output goes through a shell into a string. */
async function trace(
  argv: readonly string[],
  selectors: readonly string[],
  options: { readonly skip?: boolean; readonly types?: readonly AttachType[] } = {},
): Promise<Outcome> {
  const links: Tallies[] = [];
  let result: Omit<Outcome, 'stdout' | 'code'> | undefined;
  const out = `/tmp/multitrace-exits-${process.pid}-${Math.random().toString(36).slice(2)}`;
  const session = Session.start(['/bin/sh', '-c', 'exec "$@" > "$0"', out, ...argv], {
    opened(kernel) {
      links.length = 0;
      if (kernel.functions(SelectorSet.parse([...selectors])).length === 0) return;
      for (const type of options.types ?? ['fexit'])
        links.push(new Tallies(kernel, selectors, type as AttachType, options.skip ?? false));
    },
    modulesChanged() {},
    closed() {
      const [first] = links;
      if (first === undefined) return;
      result = { tallies: first.read(), targets: first.link.targets.length, missed: first.link.missed };
    },
    refused(error) {
      throw error;
    },
  });
  const end = await session.end;
  const stdout = readFileSync(out, 'utf8');
  rmSync(out);
  const code =
    end.kind === 'ended' && end.exit !== undefined && 'code' in end.exit ? end.exit.code : undefined;
  return { ...result!, stdout, code };
}

const RETURNS = [
  'mix',
  'many',
  'vary',
  'big',
  'real',
  'plus',
  'deep',
  'tail',
  'tail_end',
  'jumps',
  'exits',
  'waits',
];
const MORE = ['yields', 'handler_work', 'forks', 'traces'];
/** What the forked child adds to the shared map, besides what the parent prints. */
const CHILD: Readonly<Record<string, number>> = { mix: 1, deep: 11, forks: 6 };

const VARIANTS: readonly (readonly [string, Recipe])[] = [
  ['gcc -O2', { source: 'returns.c' }],
  ['gcc -O0', { source: 'returns.c', flags: ['-O0'] }],
  ['clang -O2', { source: 'returns.c', compiler: 'clang-19' }],
  ['clang -O0', { source: 'returns.c', compiler: 'clang-19', flags: ['-O0'] }],
  ['nop sleds', { source: 'returns.c', flags: ['-fpatchable-function-entry=5'] }],
  ['static', { source: 'returns.c', flags: ['-static'] }],
];

describe('functions that return, and do not, in every way', () => {
  for (const [what, recipe] of VARIANTS)
    traced(
      `${what}: every return is counted, every result seen, and the output is the same`,
      async ({ skip }) => {
        skip(missingCommand(recipe.compiler ?? 'gcc') !== undefined, 'no such compiler');
        const program = compileTarget(recipe);
        const alone = spawnSync(program, { encoding: 'utf8' });
        const { stdout, code, tallies, missed } = await trace([program], [...RETURNS, ...MORE]);
        expect(code).toBe(0);
        expect(stdout).toBe(alone.stdout);
        expect(missed).toBe(0n);
        const own = ownCounts(stdout);
        for (const name of [...RETURNS, ...MORE])
          expect(tallies.get(name)!.count, name).toBe(own.get(name)! + (CHILD[name] ?? 0));
        expect(tallies.get('many')).toEqual({ count: 1, sum: 285n, first: 1n });
        expect(tallies.get('vary')).toEqual({ count: 1, sum: 32n, first: 3n });
        expect(tallies.get('handler_work')).toEqual({ count: 100, sum: 3400n, first: 100n });
        expect(tallies.get('plus')!.sum).toBe(4n);
        // A tail call's result is its caller's, too.
        expect(tallies.get('tail')!.sum).toBe(tallies.get('tail_end')!.sum);
      },
    );

  traced('with every function of the C library traced as well', async () => {
    const program = compileTarget({ source: 'returns.c' });
    const alone = spawnSync(program, ['2000'], { encoding: 'utf8' });
    const { stdout, code, targets } = await trace(
      [program, '2000'],
      ['*', 'libc.so*:*', 'libgcc_s*:*', 'ld-*:*'],
      { skip: true },
    );
    expect(code).toBe(0);
    expect(stdout).toBe(alone.stdout);
    expect(targets).toBeGreaterThan(1500);
  });
});

describe('C++ exceptions through traced functions', () => {
  for (const flags of [['-O2'], ['-O0'], ['-O2', '-static']])
    traced(`g++ ${flags.join(' ')}: the same is thrown and caught, and what returns is counted`, async () => {
      const program = compileTarget({ source: 'throws.cc', flags });
      const alone = spawnSync(program, { encoding: 'utf8' });
      const selectors = flags.includes('-static') ? ['*'] : ['*', 'libstdc++*:*', 'libgcc_s*:*'];
      const { stdout, code, tallies } = await trace([program], selectors, { skip: true });
      expect(code).toBe(0);
      expect(stdout).toBe(alone.stdout);
      const own = ownCounts(stdout);
      // Those two never throw; the others never return.
      for (const name of ['nested', 'quiet']) expect(tallies.get(name)!.count, name).toBe(own.get(name));
      for (const name of ['rethrow', 'standard']) expect(tallies.get(name)!.count, name).toBe(0);
    });
});

describe('programs of the system, every function of every library traced at its return', () => {
  for (const argv of [
    ['/bin/ls', '-la', '/usr/lib'],
    [
      '/usr/bin/sqlite3',
      ':memory:',
      'create table t(a,b); insert into t values(1,2),(3,4); select sum(a*b), upper(hex(b)) from t;',
    ],
    [
      '/usr/bin/python3',
      '-c',
      'import json,threading,re\ntry:\n  json.loads("{")\nexcept ValueError as e: print(e)\nprint(len(json.dumps(list(range(1000)))), re.findall("b+", "abbbab"))',
    ],
    [
      '/usr/bin/perl',
      '-e',
      'print join(",", map { sprintf "%.3f", sqrt } 1..100); eval { die "x" }; print $@',
    ],
    ['/usr/bin/openssl', 'dgst', '-sha256', '/bin/ls'],
  ])
    test(argv.slice(0, 2).join(' '), async ({ skip }) => {
      const lacksIt = missingCommand(basename(argv[0]));
      skip(lacksIt !== undefined, lacksIt);
      const alone = spawnSync(argv[0], argv.slice(1), { encoding: 'utf8' });
      const { stdout, code, targets } = await trace(argv, ['*:*'], { skip: true });
      expect(stdout).toBe(alone.stdout);
      expect(code).toBe(alone.status);
      expect(targets).toBeGreaterThan(2000);
    });
});

/** A program whose threads sit in traced functions. */
async function sitting(): Promise<Running> {
  const sits = new Running(compileTarget({ source: 'sits.c' }), [], { keepInput: true });
  onTestFinished(() => sits.stop());
  await sits.expectOutput(/^pid \d+\n/);
  return sits;
}

const isOurs = ({ path }: Mapping): boolean => path.startsWith('/memfd:multitrace');

const SITS = ['sit', 'first', 'middle', 'last'];
const SITS_ALONE = /sum (\d+)\nagain (\d+)\n/;

async function endSitting(sits: Running): Promise<void> {
  sits.say('go on');
  const { stdout, status } = await sits.ended;
  expect(status).toBe(0);
  const [, sum, again] = SITS_ALONE.exec(stdout)!;
  expect(sum).toBe(again);
}

describe('detaching while threads sit in traced functions', () => {
  traced('gives them their return addresses, and takes everything of ours out of the process', async () => {
    const sits = await sitting();
    const kernel = new ProcessKernel(openProcess(sits.pid));
    const tallies = new Tallies(kernel, SITS, 'fexit');
    sits.say('start');
    await sits.expectOutput(/^sitting\n/m);
    tallies.link.detach();
    kernel.close();
    expect(changedCode(sits.pid).changed).toEqual([]);
    expect(mappings(sits.pid).filter(isOurs)).toEqual([]);
    for (const { count } of tallies.read().values()) expect(count).toBe(0);
    await endSitting(sits);
  });

  traced(
    'of two links on a function the one that stays sees every return, the one that left none',
    async () => {
      const sits = await sitting();
      const kernel = new ProcessKernel(openProcess(sits.pid));
      const leaves = new Tallies(kernel, SITS, 'fexit');
      const stays = new Tallies(kernel, ['sit', 'middle'], 'fexit');
      sits.say('start');
      await sits.expectOutput(/^sitting\n/m);
      leaves.link.detach();
      // It joins while the calls are under way: it sees those that begin from now on.
      const joins = new Tallies(kernel, SITS, 'fexit');
      await endSitting(sits);
      for (const [name, { count }] of leaves.read()) expect(count, name).toBe(0);
      const calls = { sit: stays.read().get('sit')!.count, middle: stays.read().get('middle')!.count };
      expect(calls.middle).toBe(2 * 5);
      expect(joins.read().get('middle')!.count).toBe(5);
      expect(joins.read().get('first')!.count).toBe(5);
      expect(joins.read().get('sit')!.count * 2).toBe(calls.sit);
    },
  );
});

traced(
  `links come and go ${SOAK ? 500 : 8} times while 16 threads call 200 functions: every result right, nothing left`,
  async () => {
    const load = new Running(compileTarget({ source: 'load.c' }), [], {
      keepInput: true,
      timeoutMs: 600_000,
    });
    onTestFinished(() => load.stop());
    await load.expectOutput(/^pid \d+\n/);
    const kernel = new ProcessKernel(openProcess(load.pid));
    onTestFinished(() => kernel.close());
    load.say('go');
    await load.expectOutput(/^going/m);
    const steady = new Tallies(kernel, ['work_1*', 'inner'], 'fexit');
    for (let i = 0; i < (SOAK ? 500 : 8); i++) {
      const one = new Tallies(kernel, ['work_*'], i % 3 === 0 ? 'fentry' : 'fexit');
      await new Promise(resolve => setTimeout(resolve, 5));
      one.link.detach();
    }
    load.say('hold');
    await load.expectOutput(/^held/m);
    expect(steady.link.missed).toBe(0n);
    const counts = [...steady.read()].filter(([name]) => name !== 'inner').map(([, { count }]) => count);
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(16);
    kernel.close();
    expect(changedCode(load.pid).changed).toEqual([]);
    load.child.stdin!.end();
    const { stdout, status } = await load.ended;
    expect(stdout).toMatch(/^checksum ok$/m);
    expect(status).toBe(0);
  },
);

traced('what a dead multitrace left on the stacks is put right by the next one', async () => {
  const sits = await sitting();
  const dead = new ProcessKernel(openProcess(sits.pid));
  const tallies = new Tallies(dead, SITS, 'fexit');
  expect(tallies.link.targets.length).toBe(SITS.length);
  sits.say('start');
  await sits.expectOutput(/^sitting\n/m);
  // To the process it is as if we had died: nobody has its regions mapped any more. `dead` is not touched again.
  const theirs = new Set(
    mappings(sits.pid)
      .filter(isOurs)
      .map(m => m.inode),
  );
  for (const { start, end } of mappings(process.pid).filter(m => isOurs(m) && theirs.has(m.inode)))
    munmap(BigInt(start), end - start);
  const next = new ProcessKernel(openProcess(sits.pid));
  next.close();
  expect(changedCode(sits.pid).changed).toEqual([]);
  expect(mappings(sits.pid).filter(isOurs)).toEqual([]);
  await endSitting(sits);
});

traced('a modify-return program is refused on a function that was not allowed', async () => {
  const sits = await sitting();
  const kernel = new ProcessKernel(openProcess(sits.pid));
  onTestFinished(() => kernel.close());
  expect(() => new Tallies(kernel, ['sit'], 'fmod_ret')).toThrow(/its result may not be changed/);
  expect(() => new Tallies(kernel, ['libc.so*:setjmp', 'libc.so*:_setjmp'], 'fexit')).toThrow(
    /it returns twice/,
  );
});

traced(
  'a modify-return program gives a function another result where that was allowed, and fexit sees it',
  async () => {
    const program = compileTarget({ source: 'returns.c' });
    const out = `/tmp/multitrace-exits-${process.pid}-modified`;
    let seen: Tallies | undefined;
    let results: Map<string, Tally> | undefined;
    const session = Session.start(['/bin/sh', '-c', 'exec "$@" > "$0"', out, program, '100'], {
      opened(kernel) {
        const targets = kernel.functions(SelectorSet.parse(['many'])).map(target => ({ target, cookie: 0n }));
        if (targets.length === 0) return;
        kernel.allowModifyReturn = SelectorSet.parse(['many']);
        const b = new ProgramBuilder();
        b.mov(R0, -5);
        b.exit();
        const prog = kernel.progLoad({ name: 'modify', attachType: 'fmod_ret', insns: b.build(), maps: [] });
        seen = new Tallies(kernel, ['many'], 'fexit');
        kernel.linkCreate({ prog, targets });
      },
      modulesChanged() {},
      closed() {
        results = seen?.read();
      },
      refused(error) {
        throw error;
      },
    });
    await session.end;
    const stdout = readFileSync(out, 'utf8');
    rmSync(out);
    expect(stdout).toMatch(/^mix 97 many -5 vary 32$/m);
    // The original did not run.
    expect(stdout).toMatch(/^many\t0$/m);
    expect(results!.get('many')).toEqual({ count: 1, sum: -5n, first: 1n });
  },
);
