/**
 * Attaching to and detaching from a running process, over and over, with 16 threads inside the functions attached:
 * nothing crashes, no call is lost while attached, and afterwards every byte of code is the file's.
 */

import { describe, expect, onTestFinished, test } from 'vitest';
import { Counter, SelectorSet, Session } from '../src/index.js';
import { describeRun, multitrace, Running, startMultitrace } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { changedCode, loadBias, mappings, readMemory, tracerOf, until } from './support/process.js';
import { type CountReport, countOf, parseReport } from './support/report.js';
import { missingCommand, SOAK } from './support/skip.js';
import { fileFunctions } from './support/symbols.js';

const THREADS = 16;
const FUNCTIONS = 200;
const CYCLES = SOAK ? 2000 : 40;
/** 201 functions: the 200 of a round, and the one that 40 of them call. */
const SELECTORS = ['work_*', 'inner'];
/** Mappings that may come and go by themselves (thread stacks, malloc arenas). */
const MAPPINGS_BESIDE = 40;

/** Starts tests/targets/load.c and waits till its threads are there. */
async function startLoad(): Promise<{ load: Running; program: string }> {
  const program = compileTarget({ source: 'load.c' });
  // At the lowest priority: sixteen threads that never wait would leave the command next to no processor.
  const load = new Running('nice', ['-n', '19', program], { keepInput: true, timeoutMs: 600_000 });
  onTestFinished(() => load.stop());
  await load.expectOutput(/^pid \d+\n/);
  return { load, program };
}

/** Tells the load to end and checks that nothing it computed was wrong. */
async function endLoad(load: Running): Promise<void> {
  load.child.stdin!.end();
  const ended = await load.ended;
  expect(ended.stdout, describeRun(ended)).toMatch(/^checksum ok$/m);
  expect(ended.status, describeRun(ended)).toBe(0);
}

/** One attachment of `seconds` to a process that runs on; its report. */
async function attachFor(pid: number, seconds: number): Promise<CountReport> {
  const done = await multitrace(
    ['count', ...SELECTORS, '-p', `${pid}`, '--duration', `${seconds}`, '--json', '--all'],
    {
      timeoutMs: 30_000,
    },
  );
  expect(done.status, describeRun(done)).toBe(0);
  return parseReport(done);
}

/** What one attachment counted. */
interface Cycle {
  readonly attached: number;
  readonly missed: number;
  readonly pauseMs: number;
  readonly functions: readonly { readonly function: string; readonly count: number | bigint }[];
}

/** The same by the package's own interface, in this process: no start of a command between two attachments. */
async function attachHereFor(pid: number, seconds: number): Promise<Cycle> {
  let counter: Counter | undefined;
  let cycle: Cycle | undefined;
  const session = Session.attach(pid, {
    opened(kernel) {
      counter = new Counter(kernel, SelectorSet.parse(SELECTORS));
      expect(counter.attached, 'every function is attached').toBe(FUNCTIONS + 1);
    },
    modulesChanged() {
      throw new Error('the load loads nothing');
    },
    closed() {
      const { missed, pauseMs } = counter!;
      cycle = { attached: FUNCTIONS + 1, missed: Number(missed), pauseMs, functions: counter!.read() };
    },
    refused(error) {
      throw error;
    },
  });
  await new Promise(resolve => setTimeout(resolve, seconds * 1000));
  session.stop();
  await session.end;
  return cycle!;
}

/** The counts of the 200 functions of a round. */
function roundCounts(report: Pick<CountReport, 'functions'> | Cycle): number[] {
  return report.functions.filter(one => one.function.startsWith('work_')).map(one => Number(one.count));
}

/**
 * All entries change in one stop, and a thread makes its calls in order: its counts of two functions differ by at
 * most one, if none is lost.
 */
function expectNothingLost(counts: readonly number[], when: string): void {
  expect(counts.length, when).toBe(FUNCTIONS);
  expect(Math.max(...counts), `${when}: something was counted`).toBeGreaterThan(0);
  const spread = Math.max(...counts) - Math.min(...counts);
  expect(spread, `${when}: no call of a thread is lost (${counts.join(' ')})`).toBeLessThanOrEqual(THREADS);
}

/** Waits till the entry of a function of the process is not what the file has. */
async function untilAttached(pid: number, program: string): Promise<void> {
  const { address } = fileFunctions(program).find(one => one.name === 'work_199')!;
  const entry = loadBias(pid, program) + address;
  const before = readMemory(pid, entry, 16);
  await until('the function is patched', () => !readMemory(pid, entry, 16).equals(before));
}

describe('a process with 16 threads', () => {
  test(`attached and detached ${CYCLES} times while its threads call the functions`, async ({ skip }) => {
    const lacking = missingCommand('gcc', 'nm');
    skip(lacking !== undefined, lacking);
    const { load } = await startLoad();
    expect(changedCode(load.pid).changed, 'before').toEqual([]);
    const mappedBefore = mappings(load.pid).length;
    load.say('go');
    await load.expectOutput(/^going/m);
    let events = 0;
    let pauses = 0;
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const when = `cycle ${cycle}`;
      const report = cycle % 20 === 0 ? await attachFor(load.pid, 0.05) : await attachHereFor(load.pid, 0.05);
      const counts = roundCounts(report);
      expect(report.attached, `${when}: every function is attached`).toBe(FUNCTIONS + 1);
      expectNothingLost(counts, when);
      expect(report.missed, when).toBe(0);
      events += counts.reduce((a, b) => a + b, 0);
      pauses = Math.max(pauses, report.pauseMs);
    }
    load.say('hold');
    await load.expectOutput(/^held/m);
    const { compared, changed } = changedCode(load.pid);
    expect(changed, 'every byte of code is the file’s').toEqual([]);
    expect(tracerOf(load.pid)).toBe(0);
    expect(mappings(load.pid).length, 'memory is given back').toBeLessThanOrEqual(
      mappedBefore + MAPPINGS_BESIDE,
    );
    await endLoad(load);
    console.log(
      `${CYCLES} cycles, ${events} calls counted, longest pause ${pauses} ms, ${compared} bytes of code compared`,
    );
  }, 600_000);

  test('counts exactly what its threads call between attaching and detaching', async ({ skip }) => {
    const lacking = missingCommand('gcc', 'nm');
    skip(lacking !== undefined, lacking);
    const { load, program } = await startLoad();
    for (const rounds of SOAK ? [1, 10_000, 200_000] : [1, 10_000]) {
      const tracer = startMultitrace(['count', ...SELECTORS, '-p', `${load.pid}`, '--json', '--all'], {
        timeoutMs: 60_000,
      });
      onTestFinished(() => tracer.stop());
      await untilAttached(load.pid, program);
      const ran = load.stdoutSoFar.length;
      load.say(`run ${rounds}`);
      await until('the rounds are over', () => /^ran \d+\n/m.test(load.stdoutSoFar.slice(ran)), 60_000);
      tracer.child.kill('SIGINT');
      const ended = await tracer.ended;
      const report = parseReport(ended);
      expect(new Set(roundCounts(report)), describeRun(ended)).toEqual(new Set([THREADS * rounds]));
      expect(countOf(report, 'inner')).toBe((THREADS * rounds * FUNCTIONS) / 5);
      expect(report.missed).toBe(0);
      expect(changedCode(load.pid).changed).toEqual([]);
    }
    await endLoad(load);
  }, 180_000);

  test('attached by two at once: the second is served or refused, and the process is whole afterwards', async ({
    skip,
  }) => {
    const lacking = missingCommand('gcc', 'nm');
    skip(lacking !== undefined, lacking);
    const { load, program } = await startLoad();
    load.say('go');
    await load.expectOutput(/^going/m);
    const first = startMultitrace(['count', ...SELECTORS, '-p', `${load.pid}`, '--json', '--all'], {
      timeoutMs: 60_000,
    });
    onTestFinished(() => first.stop());
    await untilAttached(load.pid, program);
    const second = await multitrace(
      ['count', ...SELECTORS, '-p', `${load.pid}`, '--duration', '0.2', '--json'],
      {
        timeoutMs: 30_000,
      },
    );
    if (second.status !== 0) expect(second.stderr.trim().split('\n'), describeRun(second)).toHaveLength(1);
    first.child.kill('SIGINT');
    const report = parseReport(await first.ended);
    expectNothingLost(roundCounts(report), 'the first');
    load.say('hold');
    await load.expectOutput(/^held/m);
    expect(changedCode(load.pid).changed).toEqual([]);
    await endLoad(load);
  }, 120_000);

  test('every function of every library, attached and detached under load', async ({ skip }) => {
    const lacking = missingCommand('gcc', 'nm');
    skip(lacking !== undefined, lacking);
    const { load } = await startLoad();
    load.say('go');
    await load.expectOutput(/^going/m);
    for (let cycle = 0; cycle < (SOAK ? 10 : 3); cycle++) {
      const done = await multitrace(['count', '*:*', '-p', `${load.pid}`, '--duration', '0.2', '--json'], {
        timeoutMs: 60_000,
      });
      expect(done.status, describeRun(done)).toBe(0);
      const report = parseReport(done);
      expect(report.attached).toBeGreaterThan(2000);
    }
    load.say('hold');
    await load.expectOutput(/^held/m);
    expect(changedCode(load.pid).changed).toEqual([]);
    await endLoad(load);
  }, 180_000);
});
