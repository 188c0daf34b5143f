/** `multitrace latency` against what programs themselves know of their times. */

import { describe, expect, onTestFinished, test } from 'vitest';
import { describeRun, multitrace, type Run, Running } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { changedCode } from './support/process.js';
import { missingCommand } from './support/skip.js';

const lacking = missingCommand('gcc');
const trees = () => compileTarget({ source: 'trees.c', flags: ['-g'] });

interface Row {
  readonly module: string;
  readonly function: string;
  readonly calls: number;
  readonly totalNs: number;
  readonly meanNs: number;
  readonly p50Ns: number;
  readonly p99Ns: number;
  readonly maxNs: number;
  readonly histogram?: readonly { readonly fromNs: number; readonly toNs: number; readonly calls: number }[];
}

interface Report {
  readonly command: string;
  readonly exit: { readonly code: number | null };
  readonly matched: number;
  readonly attached: number;
  readonly missed: number;
  readonly overhead: { readonly perCallNs: number; readonly measuredNs: number } | null;
  readonly functions: readonly Row[];
  readonly histogram?: Row['histogram'];
  readonly interval?: number;
}

function parse(run: Run): Report[] {
  const reports = run.stdout
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as Report);
  for (const { command, functions } of reports) {
    expect(command, describeRun(run)).toBe('latency');
    const totals = functions.map(({ totalNs }) => totalNs);
    expect(totals).toEqual([...totals].sort((a, b) => b - a));
    for (const { calls, totalNs, meanNs, p50Ns, p99Ns, maxNs } of functions) {
      expect(Math.abs(meanNs - totalNs / calls)).toBeLessThan(0.02);
      expect(p50Ns).toBeLessThanOrEqual(p99Ns);
      expect(p99Ns).toBeLessThanOrEqual(maxNs);
    }
  }
  return reports;
}

async function latency(selectors: string[], command: string[], more: string[] = []): Promise<Report> {
  const run = await multitrace(['latency', ...selectors, '--json', ...more, '--', ...command]);
  return parse(run).at(-1)!;
}

describe.skipIf(lacking)('latency', () => {
  test('counts every call exactly, on several threads, and none takes less than it slept', async () => {
    const report = await latency(['job', 'sleeper', 'leaf'], [trees(), 'threads'], ['--histogram', 'each']);
    const rows = new Map(report.functions.map(row => [row.function, row]));
    for (const name of ['job', 'sleeper', 'leaf']) expect(rows.get(name)?.calls, name).toBe(80);
    const sleeper = rows.get('sleeper')!;
    // 20 times 200, 400, 600, 800 us.
    expect(sleeper.totalNs).toBeGreaterThanOrEqual(20 * 2_000_000);
    expect(sleeper.p50Ns).toBeGreaterThanOrEqual(400_000 * 0.968);
    expect(rows.get('job')!.totalNs).toBeGreaterThanOrEqual(sleeper.totalNs);
    for (const { histogram, calls, function: name } of report.functions) {
      expect(
        histogram!.reduce((sum, bucket) => sum + bucket.calls, 0),
        name,
      ).toBe(calls);
      for (const { fromNs, toNs } of histogram!) expect(toNs).toBe(fromNs === 0 ? 1 : 2 * fromNs - 1);
    }
    expect([report.missed, report.exit.code]).toEqual([0, 0]);
  });

  test('counts every call of 200 threads', async () => {
    const report = await latency(['top', 'middle', 'leaf'], [trees(), 'crowd', '200']);
    const calls = Object.fromEntries(report.functions.map(row => [row.function, row.calls]));
    expect(calls).toEqual({ top: 10_000, middle: 10_000, leaf: 30_000 });
    expect(report.missed).toBe(0);
  });

  test('a recursive call counts each time, with all that is within it', async () => {
    const { functions } = await latency(['fib'], [trees(), 'fib', '15']);
    expect(functions.map(({ function: name, calls }) => [name, calls])).toEqual([['fib', 1973]]);
    expect(functions[0].totalNs).toBeGreaterThan(functions[0].maxNs);
  });

  test('what a call costs is measured: more than nothing, and more than the part within the duration', async () => {
    const ratios: number[] = [];
    for (let i = 0; i < 3; i++) {
      const { functions, overhead } = await latency(['leaf'], [trees(), 'calls', '200000']);
      expect(functions[0].calls).toBe(200_000);
      expect(overhead).not.toBe(null);
      const { perCallNs, measuredNs } = overhead!;
      expect(measuredNs).toBeGreaterThan(3);
      expect(measuredNs).toBeLessThan(perCallNs);
      expect(perCallNs).toBeLessThan(5000);
      ratios.push(functions[0].p50Ns / measuredNs);
    }
    // leaf does next to nothing: what is measured of it is what tracing adds. Both are measured, a second apart.
    const [, median] = ratios.sort((a, b) => a - b);
    expect(median, `${ratios}`).toBeGreaterThan(0.4);
    expect(median, `${ratios}`).toBeLessThan(2.5);
  });

  test('as a table, with histograms as bcc prints them', async () => {
    const run = await multitrace([
      'latency',
      'job',
      'sleeper',
      'leaf',
      '--top',
      '2',
      '--histogram',
      '--',
      trees(),
      'sleep',
      '10',
    ]);
    expect(run.stdout, describeRun(run)).toMatch(
      /CALLS +TOTAL +MEAN +P50 +P99 +MAX +FUNCTION +MODULE\n +10 +[\d.]+ ms +[\d.]+ ms .* job +trees\n +10 .* sleeper +trees\n\n/,
    );
    expect(run.stdout).not.toMatch(/leaf +trees/);
    expect(run.stdout).toContain('     nsecs               : count     distribution\n');
    expect(run.stdout).toMatch(/\n {3}4194304 -> 8388607 {4}: \d+ +\|\*/);
    expect(run.stderr).toMatch(
      /each traced call costs about [\d.]+ (ns|us), of which [\d.]+ (ns|us) are inside the measured time/,
    );
    const each = await multitrace([
      'latency',
      'job',
      'leaf',
      '--histogram',
      'each',
      '--',
      trees(),
      'sleep',
      '2',
    ]);
    expect(each.stdout).toMatch(/\ntrees:job\n +nsecs [\s\S]*\ntrees:leaf\n +nsecs /);
  });

  test('filters: --min-duration, --retval, --tid', async () => {
    const slow = await latency(['job', 'leaf'], [trees(), 'sleep', '10'], ['--min-duration', '4ms']);
    expect(slow.functions.map(({ function: name }) => name)).toEqual(['job']);
    expect(slow.functions[0].calls).toBeGreaterThanOrEqual(5);
    const calls = async (condition: string) => {
      const selectors = ['negative', 'odd', 'mixed', 'nothing'];
      const { functions } = await latency(selectors, [trees(), 'results'], ['--retval', condition]);
      return Object.fromEntries(functions.map(row => [row.function, row.calls]));
    };
    expect(await calls('<0')).toEqual({ negative: 1 });
    expect(await calls('!=0')).toEqual({ negative: 2, odd: 1, mixed: 1 });
    const other = await latency(['leaf'], [trees(), 'tree', '5'], ['--tid', '1']);
    expect(other.functions).toEqual([]);
  });

  test('a running process, every interval; every byte is as it was', async () => {
    const busy = new Running(trees(), ['loop', '1000']);
    onTestFinished(() => busy.stop());
    const run = await multitrace(['latency', '*', '--json', '-i', '0.4', '-d', '1.5', '-p', `${busy.pid}`]);
    const reports = parse(run);
    const intervals = reports.slice(0, -1);
    expect(intervals.length).toBeGreaterThanOrEqual(2);
    const callsOf = ({ functions }: Report) => functions.find(row => row.function === 'job')?.calls ?? 0;
    const sum = intervals.reduce((all, report) => all + callsOf(report), 0);
    expect(sum).toBeGreaterThan(10);
    expect(sum).toBeLessThanOrEqual(callsOf(reports.at(-1)!));
    expect(changedCode(busy.pid).changed).toEqual([]);
  });

  test.each([
    [['--histogram', 'some'], /all, each/],
    [['--min-duration', 'soon'], /'soon' is no duration/],
  ])('bad usage %j is status 2', async (more, sentence) => {
    const run = await multitrace(['latency', 'leaf', ...more, '--', trees(), 'tree', '1']);
    expect(run.status).toBe(2);
    expect(run.stderr).toMatch(sentence);
  });
});

test.skipIf(missingCommand('openssl'))('agrees within 5 % with the clock of openssl speed', async () => {
  // Blocks of 1 MiB take most of a millisecond each, beside which what tracing adds is nothing; the clock is elapsed time.
  const command = ['openssl', 'speed', '-elapsed', '-seconds', '2', '-bytes', '1048576', 'sha256'];
  const run = await multitrace(['latency', 'libcrypto:EVP_Digest', '--json', '--', ...command]);
  const own = /: (\d+) sha256's in ([\d.]+)s/.exec(run.stderr);
  expect(own, describeRun(run)).not.toBe(null);
  const [operations, elapsed] = [Number(own![1]), Number(own![2])];
  const report = JSON.parse(run.stdout.slice(run.stdout.indexOf('{"command"'))) as Report;
  const [digest] = report.functions;
  expect(digest.calls).toBe(operations);
  const ratio = (digest.meanNs * operations) / (elapsed * 1e9);
  expect(ratio, describeRun(run)).toBeGreaterThan(0.95);
  expect(ratio, describeRun(run)).toBeLessThan(1.05);
});
