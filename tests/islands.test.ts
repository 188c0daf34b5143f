/**
 * Functions with room for a jump of two bytes only, the C library's copying functions among them: counted exactly,
 * attached and detached while threads run through them, and put right where a thread stands between the two jumps.
 */

import { describe, expect, onTestFinished, test } from 'vitest';
import { stepBack } from '../src/kernel/process/step_back.js';
import { Stopper } from '../src/kernel/process/stopper.js';
import { openProcess } from '../src/process/process.js';
import { describeRun, multitrace, Running, startMultitrace } from './support/command.js';
import { compileTarget, ownCounts, type Recipe } from './support/compile.js';
import { changedCode, loadBias, mappings, until } from './support/process.js';
import { type CountReport, countCommand, countOf, parseReport } from './support/report.js';
import { missingCommand, missingCompiler, SOAK } from './support/skip.js';
import { fileFunctions } from './support/symbols.js';

const THREADS = 4;
const OWN = ['looped', 'middle', 'tiny', 'behind_tiny'];
const LIBC = ['memcpy', 'memmove', 'mempcpy', 'strlen'].map(name => `libc:${name}`);
const lacking = missingCommand('gcc');
/** Attaching, detaching, and letting a signal come at every moment of it. */
const CYCLES = SOAK ? 400 : 10;

const RECIPES: readonly (readonly [string, Recipe])[] = [
  ['gcc', { source: 'islands.c' }],
  ['gcc -static', { source: 'islands.c', flags: ['-static'] }],
  ['gcc -no-pie -fcf-protection=full', { source: 'islands.c', flags: ['-no-pie', '-fcf-protection=full'] }],
  ['clang-19', { source: 'islands.c', compiler: 'clang-19' }],
  ['musl-gcc -static', { source: 'islands.c', compiler: 'musl-gcc', flags: ['-static'] }],
];

describe('counts', () => {
  test.for(RECIPES)('%s: the program’s own', async ([, recipe], { skip }) => {
    const missing = missingCompiler(recipe);
    skip(missing !== undefined, missing);
    const program = compileTarget(recipe);
    for (const more of [[], ['tick']]) {
      const { report, run: traced } = await countCommand(OWN, [program, '20000', ...more]);
      expect(traced.stderr, describeRun(traced)).toMatch(/^checksum ok$/m);
      expect(report.skipped).toEqual([]);
      const own = ownCounts(traced.stderr);
      expect(own).toEqual(new Map(OWN.map(name => [name, 20_000 * THREADS])));
      expect(new Map(OWN.map(name => [name, countOf(report, name)]))).toEqual(own);
    }
  });

  test.for(RECIPES)('%s: the sites are islands', async ([, recipe], { skip }) => {
    const missing = missingCompiler(recipe);
    skip(missing !== undefined, missing);
    const done = await multitrace(['list', ...OWN, '--json', '--file', compileTarget(recipe)]);
    const { functions } = JSON.parse(done.stdout) as {
      functions: { function: string; site: { kind: string } }[];
    };
    expect(Object.fromEntries(functions.map(f => [f.function, f.site.kind]))).toEqual({
      looped: 'island',
      middle: 'moved',
      tiny: 'island',
      behind_tiny: 'moved',
    });
  });

  test('of the C library’s copying functions: each round adds its calls', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'islands.c' });
    // The library calls them itself as well, equally often in both runs.
    const runs: CountReport[] = [];
    for (const rounds of [10_000, 20_000]) {
      const { report, run: traced } = await countCommand(LIBC, [program, `${rounds}`]);
      expect(traced.stderr, describeRun(traced)).toMatch(/^checksum ok$/m);
      expect(report.skipped).toEqual([]);
      runs.push(report);
    }
    const added = (name: string): number => countOf(runs[1], name) - countOf(runs[0], name);
    const calls = 10_000 * THREADS;
    // memcpy and memmove are one function there.
    expect(added('memcpy') + added('memmove')).toBe(2 * calls);
    expect(added('mempcpy')).toBe(calls);
    expect(added('strlen')).toBe(calls);
  });

  test('of a static musl program’s copying functions', async ({ skip }) => {
    const recipe: Recipe = { source: 'islands.c', compiler: 'musl-gcc', flags: ['-static', '-fno-builtin'] };
    const missing = missingCompiler(recipe);
    skip(missing !== undefined, missing);
    const program = compileTarget(recipe);
    const runs: CountReport[] = [];
    for (const rounds of [10_000, 20_000]) {
      const { report, run: traced } = await countCommand(
        ['memcpy', 'memmove', 'strlen'],
        [program, `${rounds}`],
      );
      expect(traced.stderr, describeRun(traced)).toMatch(/^checksum ok$/m);
      expect(report.attached).toBe(3);
      runs.push(report);
    }
    const added = (name: string): number => countOf(runs[1], name) - countOf(runs[0], name);
    for (const name of ['memmove', 'strlen']) expect(added(name), name).toBe(10_000 * THREADS);
    // musl's memmove goes on in memcpy where the areas don't overlap: here for lengths 0 and 1, of i % 511.
    const apart = (rounds: number): number =>
      Array.from({ length: rounds }).filter((_, i) => i % 511 <= 1).length;
    expect(added('memcpy')).toBe((10_000 + apart(20_000) - apart(10_000)) * THREADS);
  });
});

/** A process whose threads call everything, under a timer's signals. */
async function startServing(): Promise<Running> {
  const target = new Running('nice', ['-n', '19', compileTarget({ source: 'islands.c' }), 'serve'], {
    keepInput: true,
    timeoutMs: 300_000,
  });
  onTestFinished(() => target.stop());
  await target.expectOutput(/^ready$/m);
  return target;
}

async function endServing(target: Running): Promise<void> {
  target.child.stdin!.end();
  const ended = await target.ended;
  expect(ended.stdout, describeRun(ended)).toMatch(/^checksum ok$/m);
}

describe('a process with four threads in these functions', () => {
  test(`attached and detached ${CYCLES} times`, async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const target = await startServing();
    let calls = 0;
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const done = await multitrace(
        ['count', ...OWN, ...LIBC, '-p', `${target.pid}`, '--duration', '0.03', '--json'],
        { timeoutMs: 30_000 },
      );
      expect(done.status, describeRun(done)).toBe(0);
      const report = parseReport(done);
      const counts = OWN.map(name => countOf(report, name));
      // All entries change in one stop, and a thread makes its calls in order: its counts differ by at most one.
      expect(Math.max(...counts) - Math.min(...counts), `cycle ${cycle}: ${counts}`).toBeLessThanOrEqual(
        THREADS,
      );
      calls += Math.max(...counts);
      expect(report.skipped).toEqual([]);
      expect(changedCode(target.pid).changed, `cycle ${cycle}`).toEqual([]);
    }
    expect(calls).toBeGreaterThan(0);
    await endServing(target);
  }, 300_000);

  test('whose tracer is killed: the next one puts every byte back', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const target = await startServing();
    const selectors = [...OWN, ...LIBC];
    for (let i = 0; i < 3; i++) {
      const first = startMultitrace(['count', ...selectors, '-p', `${target.pid}`, '--json']);
      onTestFinished(() => first.stop());
      await until('it is patched', () => changedCode(target.pid).changed.length > 30);
      first.child.kill('SIGKILL');
      await first.ended;
    }
    expect(changedCode(target.pid).changed.length).toBeGreaterThan(30);
    const done = await multitrace(['count', 'middle', '-p', `${target.pid}`, '--duration', '0.05', '--json']);
    expect(parseReport(done).attached, describeRun(done)).toBe(1);
    expect(changedCode(target.pid).changed).toEqual([]);
    await endServing(target);
  }, 120_000);
});

describe('a signal handler that will return to where a thread is between the two jumps', () => {
  test.for([
    ['detached', 'SIGINT'],
    ['killed, and repaired by the next', 'SIGKILL'],
  ] as const)('%s: the thread starts again at the entry', async ([, signal], { skip }) => {
    skip(lacking !== undefined, lacking);
    const target = new Running(compileTarget({ source: 'islands.c' }), ['redirect'], { keepInput: true });
    onTestFinished(() => target.stop());
    await target.expectOutput(/^ready$/m);
    const tracer = startMultitrace(['count', 'looped', '-p', `${target.pid}`, '--json']);
    onTestFinished(() => tracer.stop());
    // The jump, the island, and the notice in the dynamic linker.
    await until('it is patched', () =>
      changedCode(target.pid).changed.some(line => line.includes('/islands+')),
    );
    target.say('');
    await target.expectOutput(/^island$/m);
    tracer.child.kill(signal);
    const ended = await tracer.ended;
    if (signal === 'SIGINT') expect(parseReport(ended).attached, describeRun(ended)).toBe(1);
    else await multitrace(['count', 'middle', '-p', `${target.pid}`, '--duration', '0.05', '--json']);
    expect(changedCode(target.pid).changed).toEqual([]);
    expect(mappings(target.pid).filter(m => m.path.includes('memfd:multitrace'))).toEqual([]);
    target.say('');
    const done = await target.ended;
    expect(done.stdout, describeRun(done)).toMatch(/^checksum ok$/m);
    expect(done.status).toBe(0);
  });
});

test('a thread between the two jumps is put back', async ({ skip }) => {
  skip(lacking !== undefined || missingCommand('nm') !== undefined, lacking);
  const program = compileTarget({ source: 'islands.c' });
  const target = new Running(program, ['spin']);
  onTestFinished(() => target.stop());
  await target.expectOutput(/^ready$/m);
  const bias = loadBias(target.pid, program);
  const addresses = new Map(fileFunctions(program).map(f => [f.name, bias + f.address]));
  const traced = openProcess(target.pid);
  new Stopper(traced).during(stop => {
    expect(stop.threads.length).toBe(1);
    // The thread stands at `spin` as it would at an island whose site is `spun`.
    stepBack(traced, stop, new Map([[addresses.get('spin')! + 1, 0n]]));
    stepBack(traced, stop, new Map([[addresses.get('spin')!, BigInt(addresses.get('spun')!)]]));
  });
  traced.release();
  const done = await target.ended;
  expect(done.stdout, describeRun(done)).toBe('ready\nspun\n');
});
