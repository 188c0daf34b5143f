/**
 * Programs in C that cover map types and helpers (tests/bpf), compiled by clang for cpu v2, v3 and v4, each run on a
 * live process (tests/bpf/target.c) by `multitrace run --json`, its maps and variables checked.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  BPF_PROGRAMS,
  bpfPrograms,
  CPU_VERSIONS,
  type CpuVersion,
  compileBpf,
  compileBpfFile,
  compileBpfTarget,
  missingBpfCompiler,
} from './support/bpf.js';
import { describeRun, multitrace, type Run, Running } from './support/command.js';
import { changedCode, tracerOf } from './support/process.js';
import { missingCommand, missingFile, SOAK } from './support/skip.js';

type Value = number | string | boolean | null | Value[] | { [member: string]: Value };
interface Report {
  programs: { name: string; section: string; attached: number; skipped: unknown[]; missed: number }[];
  maps: Record<string, { key: Value; value: Value }[]>;
  globals: Record<string, Record<string, Value>>;
  exit: { code: number | null; signal: string | null };
}

/** What a program is given, and what it must leave behind. */
interface Case {
  /** Arguments of the target. */
  readonly args?: readonly string[];
  readonly options?: readonly string[];
  readonly needs?: () => string | undefined;
  check(report: Report, run: Run, cpu: CpuVersion): void;
}

const lacking = missingBpfCompiler() ?? missingCommand('gcc');
const THREADS = ['threads'];

/** Programs that a test of their own runs: core-layouts.test.ts. */
const ELSEWHERE = ['three_levels'];

/** Every variable of the program by its name. */
function globals(report: Report): Record<string, Value> {
  return Object.assign({}, ...Object.values(report.globals));
}

/** Values by key, where keys are numbers or text. */
function byKey(report: Report, map: string): Record<string, Value> {
  return Object.fromEntries(report.maps[map].map(({ key, value }) => [String(key), value]));
}

function sum(value: Value): number {
  return (value as number[]).reduce((total, one) => total + one, 0);
}

const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
/** What a JSON reader makes of an integer of 64 bits. */
const json = (value: bigint): number => Number(value);
const BIG = 0x1122334455667788n;

const CASES: Record<string, Case> = {
  array: {
    check(report) {
      const expected = upTo(8).map(k =>
        sum(
          upTo(100)
            .filter(i => i % 8 === k)
            .map(i => 2 * i),
        ),
      );
      expected[7] = 1000;
      expect(report.maps.sums).toEqual(expected.map((value, key) => ({ key, value })));
      expect(globals(report)).toMatchObject({ outside: 100, updated: 0, refused: -17 });
    },
  },
  hash: {
    check(report) {
      const expected = upTo(9).map(k => ({
        key: { a: k, b: 7 },
        value: { count: 10, last: { a: 90 + k, b: 2 * (90 + k) } },
      }));
      expect(report.maps.hits).toHaveLength(9);
      expect(report.maps.hits).toEqual(expect.arrayContaining(expected));
      expect(globals(report)).toMatchObject({ noexist: -17, exist: -2, deleted: 0, again: -2 });
    },
  },
  percpu_array: {
    args: THREADS,
    check(report) {
      const values = byKey(report, 'counts');
      expect([sum(values[0]), sum(values[1])]).toEqual([20_000, 20_000]);
    },
  },
  percpu_hash: {
    args: THREADS,
    check(report) {
      const values = byKey(report, 'counts');
      expect(Object.keys(values).sort()).toEqual(['0', '1', '2', '3']);
      for (const value of Object.values(values)) expect(sum(value)).toBe(10_000);
      expect(globals(report).others).toBe(0);
    },
  },
  lru_hash: {
    check(report) {
      expect(globals(report)).toMatchObject({ inserted: 100, failed: 0 });
      expect(report.maps.recent.length).toBeGreaterThan(0);
      expect(report.maps.recent.length).toBeLessThanOrEqual(16);
      expect(byKey(report, 'recent')[99]).toBe(198);
    },
  },
  lru_percpu_hash: {
    check(report) {
      expect(globals(report)).toMatchObject({ inserted: 100, failed: 0 });
      expect(report.maps.recent.length).toBeLessThanOrEqual(8);
      expect(sum(byKey(report, 'recent')[99])).toBe(198);
    },
  },
  array_of_maps: {
    check(report) {
      expect(report.maps.even.map(({ value }) => value)).toEqual([25, 0, 25, 0]);
      expect(report.maps.odd.map(({ value }) => value)).toEqual([0, 25, 0, 25]);
      expect(globals(report).empty).toBe(100);
    },
  },
  hash_of_maps: {
    check(report) {
      expect(byKey(report, 'first')).toEqual({ 0: 0, 3: 3, 6: 6, 9: 9 });
      expect(byKey(report, 'second')).toEqual({ 1: 1, 4: 4, 7: 7 });
      expect(globals(report).absent).toBe(3);
    },
  },
  prog_array: {
    check(report) {
      expect(globals(report)).toMatchObject({ evens: 50, odds: 50, rounds: 33, fell_through: 1 });
    },
  },
  stack_trace: {
    check(report) {
      expect(globals(report).failed).toBe(0);
      const counts = report.maps.counts.map(({ value }) => value as number);
      expect(counts.sort((a, b) => b - a)).toEqual([5, 3]);
      const stacks = byKey(report, 'stacks');
      const [one, two] = report.maps.counts.map(({ key }) => stacks[String(key)] as number[]);
      expect(one.length).toBeGreaterThanOrEqual(2);
      expect(two.length).toBeGreaterThanOrEqual(2);
      expect(one).not.toEqual(two);
    },
  },
  get_stack: {
    check(report) {
      const { bytes, ip, frames } = globals(report) as { bytes: number; ip: number; frames: number[] };
      expect(bytes).toBeGreaterThanOrEqual(16);
      expect(frames[0] - ip).toBeGreaterThanOrEqual(0);
      expect(frames[0] - ip).toBeLessThan(64);
      // Its caller is in the same program.
      expect(Math.abs(frames[1] - ip)).toBeLessThan(0x10000);
    },
  },
  ringbuf: {
    check(report) {
      const values = report.maps.events.map(({ value }) => value);
      const reserved = upTo(50).map(i => ({ kind: 1, a: 2 * i, sum: 6 * i, text: 'add2' }));
      const copied = upTo(10).map(n => ({ kind: 2, a: n, sum: -n || 0, text: 'neg' }));
      expect(values).toEqual([...reserved, ...copied]);
      expect(globals(report)).toMatchObject({ full: 0, size: 65536 });
    },
  },
  globals: {
    options: ['--set', 'step=2', '--set', 'limits={"low":20,"high":40,"label":"set"}'],
    check(report) {
      expect(globals(report)).toMatchObject({
        calls: 205,
        total: 3540,
        lowest: 20,
        highest: 39,
        mode: 'LOUD',
        seen: true,
        table: [51, 52, 53, 54],
        limits: { low: 20, high: 40, label: 'set' },
        factor: 3,
      });
      expect(report.globals['.data.extremes']).toEqual({ lowest: 20, highest: 39 });
      expect(report.globals['.rodata.settings']).toEqual({ factor: 3 });
    },
  },
  bloom: {
    check(report) {
      expect(globals(report).known).toBe(50);
      // A filter may take a stranger for one it knows, but seldom.
      expect(globals(report).unknown).toBeGreaterThan(45);
    },
  },
  queue: {
    check(report) {
      expect(globals(report)).toMatchObject({ full: 2, first: 0, popped: 0, top: 9 });
    },
  },
  lpm_trie: {
    check(report) {
      expect(globals(report)).toMatchObject({ short_match: 8, long_match: 24, none: 1 });
      expect(report.maps.routes).toHaveLength(2);
    },
  },
  perf_event: {
    check(report) {
      expect(globals(report).failed).toBe(0);
      const records = report.maps.events.map(({ value }) => (value as string).slice(0, 16));
      const word = (n: number): string => {
        const bytes = Buffer.alloc(4);
        bytes.writeInt32LE(n);
        return bytes.toString('hex');
      };
      expect(records).toEqual(upTo(100).map(i => word(i) + word(2 * i)));
    },
  },
  task_storage: {
    args: THREADS,
    check(report) {
      expect(globals(report)).toMatchObject({ total: 40_000, wrong: 0 });
    },
  },
  spin_lock: {
    args: THREADS,
    check(report) {
      expect(report.maps.locked[0].value).toMatchObject({ one: 40_000, two: 40_000 });
      expect(globals(report).torn).toBe(0);
    },
  },
  probe_read: {
    check(report) {
      expect(globals(report)).toMatchObject({ good: 1, bad: 4, cleared: 4, kernel_good: 1 });
      expect(globals(report).lengths).toEqual([6, 11, 32, 0]);
      expect((globals(report).names as Value[]).slice(0, 3)).toEqual([
        'world',
        'multitrace',
        'a name that is longer than thir',
      ]);
    },
  },
  func_args: {
    check(report) {
      const all = globals(report);
      expect(all).toMatchObject({ args: [1, 2, 3, 4, 5, 6], count: 6, beyond: -22, cookie: 0, result: 91 });
      expect(all.ip).not.toBe(0);
      expect(all.ip_in_exit).toBe(all.ip);
    },
  },
  time: {
    check(report) {
      const all = globals(report) as Record<string, number>;
      expect(all.calls).toBe(100);
      expect(all.backwards).toBe(0);
      expect(all.last).toBeGreaterThanOrEqual(all.first);
      expect(all.boot).toBeGreaterThanOrEqual(all.first - 1e6);
      // Coarse time is at most a tick behind, and the thread may have to wait between the two.
      expect(Math.abs(all.coarse - all.last)).toBeLessThan(500e6);
      expect(Math.abs(all.tai / 1e6 - Date.now())).toBeLessThan(120_000);
      expect(all.jiffies).toBeGreaterThan(0);
    },
  },
  identity: {
    check(report, run) {
      const all = globals(report) as Record<string, number> & { comm: string };
      const tgid = Math.floor(all.pid_tgid / 2 ** 32);
      expect(all.pid_tgid % 2 ** 32, describeRun(run)).toBe(tgid);
      expect(tgid).toBeGreaterThan(1);
      expect(all.comm).toBe('target');
      expect(all.comm_result).toBe(0);
      expect(all.uid_gid).toBe((process.getgid?.() ?? 0) * 2 ** 32 + (process.getuid?.() ?? 0));
      expect(all.cpu).toBeLessThan(128);
      expect(all.random_one).not.toBe(all.random_two);
    },
  },
  printk: {
    check(_report, { stderr }) {
      expect(stderr).toMatch(/three 1 2 text$/m);
      expect(stderr).toMatch(/six 1 2 3 4 5 0x6$/m);
      expect(stderr).toMatch(/plain$/m);
    },
  },
  snprintf: {
    check(report) {
      const line = 'a=1 b=00002 c=abc word|4   |%';
      expect(globals(report)).toMatchObject({
        line,
        length: line.length + 1,
        cut: '123456-',
        cut_length: 12,
        same: 0,
      });
      expect(globals(report).other).toBeLessThan(0);
      expect(globals(report).shorter).toBeGreaterThan(0);
    },
  },
  loop: {
    check(report) {
      expect(globals(report)).toMatchObject({
        rounds: 1000,
        sum: 499_500,
        stopped: 11,
        too_many: -7,
        bounded: 39_800,
      });
    },
  },
  for_each: {
    check(report) {
      expect(globals(report)).toMatchObject({
        array_count: 8,
        array_sum: 764,
        hash_count: 100,
        hash_keys: 4950,
        hash_sum: 9900,
        ended: 5,
      });
      expect(report.maps.numbers.map(({ value }) => value)).toEqual([97, 98, 99, 100, 93, 94, 95, 96]);
    },
  },
  dynptr: {
    check(report) {
      expect(globals(report)).toMatchObject({
        read_back: json(BIG),
        through_data: json(BIG),
        wrote: 0,
        outside: -7,
        reserved: 0,
      });
      expect(report.maps.events).toHaveLength(1);
      expect(report.maps.events[0].value).toMatch(/8877665544332211$/);
    },
  },
  subprograms: {
    check(report) {
      expect(globals(report)).toMatchObject({ deep: 85, from_exit: 47, shared_calls: 3 });
    },
  },
  fexit: {
    check(report) {
      expect(globals(report)).toMatchObject({ calls: 10, total: -45 });
      expect(byKey(report, 'results')).toEqual(Object.fromEntries(upTo(10).map(n => [n, -n || 0])));
    },
  },
  fsession: {
    check(report) {
      expect(globals(report)).toMatchObject({ entries: 8, returns: 8, wrong: 0 });
      expect(globals(report).shortest).toBeGreaterThan(0);
      expect(report.programs[0].attached).toBe(2);
    },
  },
  fmod_ret: {
    options: ['--allow-modify', 'maybe'],
    check(report, { stderr }) {
      expect(globals(report).asked).toBe(4);
      expect(stderr).toContain('maybe 9303');
    },
  },
  override_return: {
    options: ['--allow-modify', 'maybe'],
    check(report, { stderr }) {
      expect(globals(report)).toMatchObject({ asked: 4, zero_refused: 1, seen_by_exit: 410250 });
      expect(stderr).toContain('maybe 410250');
    },
  },
  fsession_nested: {
    check(report) {
      expect(report.programs.map(({ attached }) => attached)).toEqual([3, 3]);
      expect(globals(report)).toMatchObject({
        first_entries: 16,
        first_returns: 16,
        second_entries: 16,
        second_returns: 16,
        wrong: 0,
        results: 45,
      });
    },
  },
  fexit_frames: {
    check(report) {
      const all = globals(report) as { frames: number[]; frames_at_exit: number[] } & Record<string, number>;
      expect(all.returns).toBe(9);
      expect(all.bytes).toBeGreaterThanOrEqual(24);
      expect(all.bytes_at_exit).toBe(all.bytes);
      expect(all.frames_at_exit.slice(1)).toEqual(all.frames.slice(1));
      // caller_two, and main or what it calls, are in the same program.
      for (const frame of all.frames.slice(1, 3)) expect(Math.abs(frame - all.ip)).toBeLessThan(0x10000);
    },
  },
  strtol: {
    check(report) {
      const least = -(2 ** 63);
      expect(globals(report)).toMatchObject({
        values: [42, -17, 31, 0, 0, least],
        lengths: [2, 3, 5, -34, -22, 20],
        unsigned_values: [42, 0, 0, 0, 0, 0],
        unsigned_lengths: [2, -22, 2, -34, -22, -22],
        hexadecimal: 1,
        octal: 1,
        wrong_base: 6,
      });
    },
  },
  copy_from_user: {
    check(report) {
      expect(globals(report)).toMatchObject({ good: 1, bad: 4, cleared: 4, empty: 5, last: 'good' });
      expect(globals(report).from_exit).toBe('a name tha');
    },
  },
  ringbuf_dynptr: {
    check(report) {
      expect(globals(report)).toMatchObject({
        sent: 5,
        thrown: 5,
        read_back: 10,
        too_large: 10,
        outside: 10,
        sliced: 8,
      });
      const records = report.maps.events.map(({ value }) => value as string);
      expect(records.map(text => text.length / 16)).toEqual([1, 3, 5, 7, 1]);
      expect(records.map(text => text.slice(-16))).toEqual([0, 2, 4, 6, 8].map(n => `0${n}`.repeat(8)));
    },
  },
  iterator: {
    check(report) {
      expect(globals(report)).toMatchObject({ sum: 5450, rounds: 100, there: 0 });
    },
  },
  may_goto: {
    check(report) {
      expect(globals(report).rounds).toBe(2000);
    },
  },
  atomics: {
    check(report, _run, cpu) {
      expect(globals(report)).toMatchObject({ ored: 7, anded: 0x3c, xored: 0x0f });
      if (cpu === 'v2') expect(globals(report).added).toBe(6);
      else
        expect(globals(report)).toMatchObject({
          added: 16,
          fetched: 6,
          old: 7,
          exchanged: 9,
          swapped: 5,
          compared: 50,
          kept: 50,
          narrow: 0x10,
        });
    },
  },
  arithmetic: {
    check(report) {
      expect(globals(report)).toMatchObject({
        shifted: json(-BIG >> 4n),
        swapped16: 0x8877,
        swapped32: 0x88776655,
        swapped64: json(BigInt.asIntN(64, 0x8877665544332211n)),
        extended8: -5,
        extended16: -500,
        extended32: -50_000,
        product: -28,
        high: 1,
        unsigned_division: json(BIG / 7n + (BIG % 7n)),
        quotient: -14,
        rest: -2,
      });
    },
  },
  core: {
    needs: () => missingCommand('pahole'),
    check(report) {
      expect(globals(report)).toMatchObject({ sum: 445, ids: 45, has_id: 1, has_not: 0, answer_size: 4 });
    },
  },
  multi: {
    check(report) {
      expect(report.programs[0].attached).toBe(4);
      expect(report.maps.calls.map(({ value }) => value as number).sort((a, b) => b - a)).toEqual([
        10, 8, 5, 3,
      ]);
    },
  },
  pinned: {
    check() {},
  },
};

async function runObject(
  name: string,
  cpu: CpuVersion,
  args: readonly string[] = [],
  options: readonly string[] = [],
): Promise<{ report: Report; done: Run }> {
  const done = await multitrace([
    'run',
    compileBpf(name, cpu),
    ...options,
    '--json',
    '--',
    compileBpfTarget(),
    ...args,
  ]);
  expect(done.status, describeRun(done)).toBe(0);
  const report = JSON.parse(done.stdout) as Report;
  expect(Object.keys(report)).toEqual(['machine', 'programs', 'maps', 'globals', 'exit']);
  expect(report.exit).toEqual({ code: 0, signal: null });
  for (const program of report.programs)
    expect(program, describeRun(done)).toMatchObject({ skipped: [], missed: 0 });
  return { report, done };
}

describe.skipIf(lacking !== undefined)('BPF objects on a live process', () => {
  test('every program of tests/bpf has its expectations here', () => {
    expect(bpfPrograms().sort()).toEqual([...Object.keys(CASES), ...ELSEWHERE].sort());
  });

  // Each runs at one version, in turn; in the long form at all of them.
  for (const [i, [name, { args, options, needs, check }]] of Object.entries(CASES).entries()) {
    const versions = SOAK ? CPU_VERSIONS : [CPU_VERSIONS[i % CPU_VERSIONS.length]];
    test.concurrent(`${name}, at cpu ${versions.join(', ')}`, async ({ skip }) => {
      const missing = needs?.();
      skip(missing !== undefined, missing);
      for (const cpu of versions) {
        const { report, done } = await runObject(name, cpu, args, options);
        try {
          check(report, done, cpu);
        } catch (cause) {
          throw new Error(`cpu ${cpu}: ${(cause as Error).message}\n${describeRun(done)}`, { cause });
        }
      }
    });
  }

  test('a stack through frames whose returns are traced is the one without', async () => {
    // Addresses as distances from the traced function; what is in libc moves from run to run by whole pages.
    const walk = async (object: string): Promise<number[]> => {
      const { report } = await runObject(object, 'v3');
      const { frames, ip } = globals(report) as { frames: number[]; ip: number };
      return frames.map(f => f - ip).map(d => (Math.abs(d) < 0x10000 ? d : (d + ip) % 4096));
    };
    const plain = await walk('get_stack');
    expect(plain.length).toBeGreaterThanOrEqual(3);
    expect(await walk('fexit_frames')).toEqual(plain);
  });

  test.each([
    ['timer', /bpf_timer_init#169: no thread of ours runs in the process/],
    ['task', /bpf_get_current_task_btf#158: a process has no task_struct/],
    ['packet', /bpf_skb_store_bytes#9: a traced function has no packet and no socket/],
  ])('impossible/%s is refused with the name of its helper', async (name, sentence) => {
    const object = compileBpfFile(join(BPF_PROGRAMS, 'impossible', `${name}.bpf.c`));
    const done = await multitrace(['run', object, '--', compileBpfTarget()]);
    expect(done.status, describeRun(done)).toBe(1);
    expect(done.stderr, describeRun(done)).toMatch(sentence);
    // The command was asked for with its programs: it does not run without.
    expect(done.stderr).not.toContain('maybe');
  });

  test('a pinned map goes on in the next run, and starts empty in another folder', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'multitrace-pins-'));
    try {
      for (const round of [1, 2, 3]) {
        const { report } = await runObject('pinned', 'v3', [], ['--pin-dir', folder]);
        expect(byKey(report, 'lasting')).toEqual(Object.fromEntries(upTo(10).map(n => [n, round])));
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('a library that dlopen brings is attached before its code runs', async ({ skip }) => {
    const python = '/usr/bin/python3';
    const missing = missingFile(python, '/usr/lib/x86_64-linux-gnu/libsqlite3.so.0');
    skip(missing !== undefined, missing);
    const script = "import sqlite3; print(sqlite3.connect(':memory:').execute('select 1').fetchall())";
    const done = await multitrace([
      'run',
      compileBpf('multi'),
      '--target',
      'on_call=libsqlite3:sqlite3_initialize,libsqlite3:sqlite3_open_v2,libsqlite3:sqlite3_libversion',
      '--',
      python,
      '-c',
      script,
    ]);
    expect(done.status, describeRun(done)).toBe(0);
    expect(done.stdout).toContain('[(1,)]');
    expect(done.stdout).toMatch(/libsqlite3\.so[\d.]*:sqlite3_open_v2 +1$/m);
  });

  test('maps and variables go along when the process execs another program', async () => {
    const malloc = async (command: readonly string[]): Promise<number> => {
      const options = ['--target', 'on_call=libc:malloc', '--json'];
      const done = await multitrace(['run', compileBpf('multi'), ...options, '--', ...command]);
      expect(done.status, describeRun(done)).toBe(0);
      const report = JSON.parse(done.stdout) as Report;
      return report.maps.calls.reduce((total, { value }) => total + (value as number), 0);
    };
    const once = await malloc(['sh', '-c', 'true']);
    expect(once).toBeGreaterThan(0);
    expect(await malloc(['sh', '-c', 'exec sh -c "exec sh -c true"'])).toBe(3 * once);
  });

  test('a running process is traced for a while and goes on; a refused program leaves it as it was', async () => {
    const shell = new Running('sh', ['-c', 'while :; do sleep 0.02; done']);
    try {
      const what = ['--target', 'on_call=libc:*fork*,libc:wait*', '-p', String(shell.pid)];
      const done = await multitrace(['run', compileBpf('multi'), ...what, '-d', '1', '--json']);
      expect(done.status, describeRun(done)).toBe(0);
      const report = JSON.parse(done.stdout) as Report;
      expect(report.exit).toEqual({ code: null, signal: null });
      expect(report.maps.calls.length, describeRun(done)).toBeGreaterThan(0);
      // libc has no such types.
      const core = ['--target', 'on_read=libc:wait*', '-p', String(shell.pid), '-d', '1'];
      const refused = await multitrace(['run', compileBpf('core'), ...core]);
      expect(refused.status, describeRun(refused)).toBe(1);
      expect(refused.stderr).toMatch(/on_read.*outer___ours/);
      expect(changedCode(shell.pid).changed).toEqual([]);
      expect(tracerOf(shell.pid)).toBe(0);
    } finally {
      await shell.stop();
    }
  });

  test('several objects run together', async () => {
    const files = ['array', 'fexit', 'ringbuf'].map(name => compileBpf(name));
    const done = await multitrace(['run', ...files, '--json', '--', compileBpfTarget()]);
    expect(done.status, describeRun(done)).toBe(0);
    const report = JSON.parse(done.stdout) as Report;
    expect(report.programs.map(({ name }) => name)).toEqual([
      'on_add2',
      'on_six',
      'on_negative',
      'on_add2',
      'on_negative',
    ]);
    expect(report.maps.events).toHaveLength(60);
    expect(globals(report).total).toBe(-45);
  });

  test('without --json: lines as they come, then tables', async () => {
    const done = await multitrace([
      'run',
      compileBpf('printk'),
      compileBpf('ringbuf'),
      compileBpf('hash'),
      '--',
      compileBpfTarget(),
    ]);
    expect(done.status, describeRun(done)).toBe(0);
    expect(done.stdout).toMatch(/^.*three 1 2 text$/m);
    expect(done.stdout).toMatch(/^events: .*\.a = 98,.*"add2"/m);
    expect(done.stdout).toMatch(/^hits \(hash\)$/m);
    expect(done.stdout).toContain('maybe 10203');
  });

  test('dump shows instructions, source lines and machine code', async () => {
    const done = await multitrace(['dump', compileBpf('subprograms')]);
    expect(done.status, describeRun(done)).toBe(0);
    expect(done.stdout).toContain('; deep = outermost(a);');
    expect(done.stdout).toMatch(/^\s+\d+: \(85\) call (pc\+\d+|\w+)/m);
    expect(done.stdout).toMatch(/^\s*[0-9a-f]+: {2}ret\b/m);
  });

  test.each([
    ['a file that is not there', ['run', '/no/such.bpf.o', '--', '/bin/true'], /no such file/],
    ['a program of this machine', ['run', '/bin/true', '--', '/bin/true'], /not a BPF object/],
    [
      'a variable that is not there',
      ['run', 'OBJECT', '--set', 'nothing=1', '--', '/bin/true'],
      /no global variable nothing/,
    ],
    ['a value that does not fit', ['run', 'OBJECT', '--set', 'calls=x', '--', '/bin/true'], /calls/],
    ['a program that is not there', ['run', 'OBJECT', '--target', 'x=y', '--', '/bin/true'], /no program x/],
    ['a function that is not there', ['run', 'OBJECT', '--', '/bin/true'], /no program was attached/],
  ] as const)('%s is told in one sentence', async (_what, args, sentence) => {
    const done = await multitrace(args.map(arg => (arg === 'OBJECT' ? compileBpf('globals') : arg)));
    expect(done.status, describeRun(done)).not.toBe(0);
    expect(done.stderr, describeRun(done)).toMatch(sentence);
    expect(done.stderr, describeRun(done)).not.toMatch(/internal error| {4}at /);
  });
});
