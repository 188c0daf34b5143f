/**
 * `multitrace bench`: rows count what was called, the JSON has its documented shape, and bad input is told in one
 * sentence. How fast things are is for the benchmark itself to say, not for a test.
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { goalsOf, isMet } from '../src/bench/goals.js';
import type { Result } from '../src/bench/row.js';
import { median, Random, spread } from '../src/bench/statistics.js';
import { describeRun, multitrace, startMultitrace } from './support/command.js';
import { missingCommand, SOAK, uprobesRefused } from './support/skip.js';

interface Row {
  readonly name: string;
  readonly mops: number | null;
  readonly nsPerOp: number | null;
  readonly spread: number | null;
  readonly unavailable: string | null;
  readonly [more: string]: unknown;
}

const TIMEOUT_MS = 110_000;
const noGcc = missingCommand('gcc');

async function benchJson(rows: readonly string[], folder: string): Promise<Row[]> {
  const done = await multitrace(['bench', ...rows, '--json', '--seconds', '0.02'], {
    timeoutMs: TIMEOUT_MS,
    env: { ...process.env, TMPDIR: folder },
  });
  expect(done.status, describeRun(done)).toBe(0);
  return JSON.parse(done.stdout) as Row[];
}

/** A folder for what a run makes, gone after the test. */
function ownFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'bench-test-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
}

function result(name: string, ...ns: number[]): Result {
  return { name, what: '', group: 'ours', samples: new Map(ns.map((value, round) => [round, value])) };
}

describe.skipIf(noGcc)(`bench${noGcc === undefined ? '' : `, which needs gcc: ${noGcc}`}`, () => {
  test('rows of every kind are measured, and their JSON has the documented shape', {
    timeout: 120_000,
  }, async () => {
    const folder = ownFolder();
    const names = ['target-count', 'fentry-multi', 'fexit-multi', 'fmodret-multi', 'fsession-multi', 'limit'];
    const more = [
      'fentry-multi-sled',
      'limit-thread',
      'fentry-multi-thread@2-same',
      'hash-lookup',
      'ringbuf-output',
    ];
    const rows = await benchJson(
      [...names, ...more, 'uprobe', 'attach-multi-10', 'jit-count-fentry'],
      folder,
    );
    expect(rows.map(row => row.name).sort()).toEqual(
      [...names, ...more, 'uprobe', 'attach-multi-10', 'jit-count-fentry'].sort(),
    );
    for (const row of rows) {
      expect(Object.keys(row).slice(0, 5)).toEqual(['name', 'mops', 'nsPerOp', 'spread', 'unavailable']);
      if (row.unavailable !== null) {
        // What is ours must run everywhere.
        expect(row.name).toBe('uprobe');
        expect(uprobesRefused()).toBeDefined();
        expect([row.mops, row.nsPerOp, row.spread]).toEqual([null, null, null]);
        continue;
      }
      expect(row.mops, row.name).toBeGreaterThan(0);
      expect(row.nsPerOp! * row.mops!, row.name).toBeCloseTo(1000, 0);
      expect(row.spread, row.name).toBeGreaterThanOrEqual(0);
    }
    const ns = (name: string): number => rows.find(row => row.name === name)!.nsPerOp!;
    // A traced call takes longer than the same call untraced: what is timed is there.
    expect(ns('fentry-multi')).toBeGreaterThan(ns('target-count'));
    expect(rows.find(row => row.name === 'attach-multi-10')).toMatchObject({ functions: 10 });
    expect(rows.find(row => row.name === 'jit-count-fentry')!.bytes).toBeGreaterThan(10);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('as text, with the ratio of the rows and a plot', { timeout: 120_000 }, async () => {
    const svg = join(ownFolder(), 'plot.svg');
    const rows = ['fentry', 'fentry-multi', 'target-count'];
    const done = await multitrace(['bench', ...rows, '--seconds', '0.02', '--seed', '7', '--svg', svg], {
      timeoutMs: TIMEOUT_MS,
    });
    expect(done.status, describeRun(done)).toBe(0);
    expect(done.stdout).toContain('(seed 7)');
    expect(done.stdout).toMatch(/^fentry-multi +[\d.]+ +±[\d.]+% +[\d.]+ +[\d.]+ /m);
    expect(done.stdout).toMatch(
      /^fentry-multi \/ fentry +0\.925 +1 or more +[\d.]+ +±[\d.]+% +(met|missed)$/m,
    );
    expect(readFileSync(svg, 'utf8')).toMatch(/^<svg [\s\S]*fentry-multi[\s\S]*<\/svg>\n$/);
  });

  test('Ctrl-C ends it with what it has, and nothing of it goes on', { timeout: 120_000 }, async () => {
    const folder = ownFolder();
    const running = startMultitrace(['bench', 'target-count*', '--seconds', '6', '--json'], {
      env: { ...process.env, TMPDIR: folder },
    });
    onTestFinished(() => running.stop());
    await running.expectOutput(/round 1/, 'stderr');
    running.child.kill('SIGINT');
    const done = await running.ended;
    expect(done.status, describeRun(done)).toBe(0);
    expect(JSON.parse(done.stdout)).toHaveLength(6);
    expect(readdirSync(folder)).toEqual([]);
  });

  test.skipIf(!SOAK)('every row runs, or says why it is not here', { timeout: 1_200_000 }, async () => {
    const done = await multitrace(['bench', '--json', '--seconds', '0.05'], { timeoutMs: 1_190_000 });
    expect(done.status, describeRun(done)).toBe(0);
    const rows = JSON.parse(done.stdout) as Row[];
    expect(rows.length).toBeGreaterThan(90);
    for (const row of rows) expect(row.mops === null, row.name).toBe(row.unavailable !== null);
  });
});

test('without gcc it says so in one sentence', async () => {
  const done = await multitrace(['bench', 'target-count'], { env: { ...process.env, PATH: '/nowhere' } });
  expect(done.status).toBe(1);
  expect(done.stderr).toMatch(
    /^multitrace: the benchmark compiles its traced program with gcc, which is not installed; .*\n$/,
  );
});

test('bad usage is told in one sentence', async () => {
  for (const [args, sentence] of [
    [['nosuch'], /^multitrace: the benchmark has no row 'nosuch'; `multitrace bench --list` shows .*\n$/],
    [['fentry', '--producers', '65'], /^multitrace: --producers is 65; at most 64 threads are run\n$/],
    [['--seconds', '0'], /Give a positive number of seconds/],
  ] as const) {
    const done = await multitrace(['bench', ...args]);
    expect(done.status).toBe(2);
    expect(done.stderr).toMatch(sentence);
    expect(done.stdout).toBe('');
  }
});

test('--list names every row once', async () => {
  const { stdout, status } = await multitrace(['bench', '--list']);
  expect(status).toBe(0);
  const names = stdout
    .trim()
    .split('\n')
    .map(line => line.split(' ', 1)[0]);
  expect(new Set(names).size).toBe(names.length);
  const page = readFileSync(new URL('../docs/benchmarks.md', import.meta.url), 'utf8');
  for (const name of names) {
    const family = name.replace(/^(attach-.*)-\d+$/, '$1-N').replace(/^jit-.*/, 'jit-…');
    expect(page, `docs/benchmarks.md on ${family}`).toContain(`\`${family}\``);
  }
});

test('a ratio is the median of the ratios of the rounds that both rows took part in', () => {
  const goals = goalsOf([result('fentry', 8, 9, 30), result('fentry-multi', 4, 9)], []);
  const ratio = goals.find(goal => goal.what === 'fentry-multi / fentry')!;
  expect(ratio).toMatchObject({ measured: 1.5, rounds: 2, atLeast: 1 });
  expect(isMet(ratio)).toBe(true);
  expect(isMet(goals.find(goal => goal.what === 'fexit-multi / fexit')!)).toBeUndefined();
});

test('medians, spreads, and an order that its seed repeats', () => {
  expect(median([9, 1, 5])).toBe(5);
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(spread([10, 10, 10, 10])).toBe(0);
  expect(spread([8, 9, 10, 11, 12])).toBeCloseTo(0.1);
  const numbers = Array.from({ length: 50 }, (_, i) => i);
  const once = new Random(3).shuffled(numbers);
  expect(new Random(3).shuffled(numbers)).toEqual(once);
  expect(new Random(4).shuffled(numbers)).not.toEqual(once);
  expect([...once].sort((a, b) => a - b)).toEqual(numbers);
});
