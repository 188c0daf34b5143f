/**
 * `multitrace run` where things go wrong: killed, interrupted, on processes that exec, fork, die, handle their own
 * faults, filter their system calls, or are somebody else's. The process goes on unharmed, and the next multitrace
 * works.
 */

import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { BPF_PROGRAMS, compileBpfFile, missingBpfCompiler } from './support/bpf.js';
import { describeRun, multitrace, type Run, Running, run, startMultitrace } from './support/command.js';
import { compileTarget, type Recipe } from './support/compile.js';
import { changedCode, mappings, tracerOf, until } from './support/process.js';
import { missingCommand, missingCompiler, notRoot, SOAK } from './support/skip.js';

interface Report {
  programs: { name: string; attached: number; missed: number }[];
  maps: Record<string, { value: unknown }[]>;
  globals: Record<string, Record<string, number>>;
  exit: { code: number | null; signal: string | null };
}

const lacking = missingBpfCompiler() ?? missingCommand('gcc');
const HARD: Recipe = { source: 'hard.c' };
/** It has none of the kernel's headers. */
const MUSL = ['-idirafter', '/usr/include', '-idirafter', '/usr/include/x86_64-linux-gnu'];
const object = (name: string): string => compileBpfFile(join(BPF_PROGRAMS, 'hard', `${name}.bpf.c`));

function reportOf(done: Run): Report {
  expect(done.stdout, describeRun(done)).toMatch(/^\{/);
  return JSON.parse(done.stdout) as Report;
}

function globalsOf(done: Run): Record<string, number> {
  return Object.assign({}, ...Object.values(reportOf(done).globals));
}

/** The program at work; a shell starts it, since what node starts itself it waits for itself. */
class Hard {
  readonly #shell: Running;
  pid = 0;

  private constructor(command: readonly string[], threads: number, modes: string) {
    const args = ['-c', '"$0" "$@"; exit $?', ...command, String(threads), modes];
    this.#shell = new Running('/bin/sh', args, { keepInput: true, timeoutMs: 120_000 });
    onTestFinished(() => this.#shell.stop());
  }

  static async start(threads: number, modes = '', command = [compileTarget(HARD)]): Promise<Hard> {
    const hard = new Hard(command, threads, modes);
    hard.pid = Number((await hard.#shell.expectOutput(/^pid (\d+)\n/))[1]);
    if (!modes.includes('q')) await hard.#shell.expectOutput(/works\n/);
    return hard;
  }

  say(line = ''): void {
    this.#shell.say(line);
  }

  expect(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#shell.expectOutput(pattern);
  }

  /** Tells it to end: all must have gone well, and nobody may hold it. */
  async end(): Promise<void> {
    expect(tracerOf(this.pid)).toBe(0);
    this.say();
    const done = await this.#shell.ended;
    expect(done.stdout, describeRun(done)).toMatch(/done 0 of \d+\n/);
    expect(done.stderr, describeRun(done)).toBe('');
    expect(done.status, describeRun(done)).toBe(0);
  }

  /** Nothing of ours is left in it. */
  isClean(): void {
    expect(changedCode(this.pid).changed).toEqual([]);
    expect(mappings(this.pid).filter(({ path }) => path.includes('memfd:multitrace'))).toEqual([]);
  }
}

const isMapped = (pid: number): boolean =>
  mappings(pid).some(({ path }) => path.includes('memfd:multitrace'));

function attach(name: string, pid: number, ...options: string[]): Promise<Run> {
  return multitrace(['run', object(name), '-p', String(pid), '--json', ...options]);
}

const KILLS = SOAK ? 30 : 3;
test.skipIf(lacking !== undefined)(
  `killed at ${KILLS} random moments of attaching and running: the process goes on, the next multitrace works`,
  async () => {
    const hard = await Hard.start(8, 'h');
    for (let i = 0; i < KILLS; i++) {
      const tracer = startMultitrace(['run', object('storm'), '-p', String(hard.pid)], { timeoutMs: 30_000 });
      onTestFinished(() => tracer.stop());
      // Half of them while it attaches.
      if (i % 2 === 0) await until('it is there', () => tracerOf(hard.pid) !== 0 || isMapped(hard.pid));
      else await tracer.expectOutput(/functions of process/, 'stderr', 30_000);
      await new Promise(done => setTimeout(done, Math.random() * 150));
      tracer.child.kill('SIGKILL');
      await tracer.ended;
      await new Promise(done => setTimeout(done, 20));
    }
    const done = await attach('storm', hard.pid, '-d', '0.5');
    expect(done.status, describeRun(done)).toBe(0);
    expect(globalsOf(done)).toMatchObject({ wrong: 0 });
    expect(globalsOf(done).bad).toBeGreaterThan(0);
    expect(globalsOf(done).sent).toBeGreaterThan(0);
    // Memory may stay, where at no stop every thread was outside the handler that its own faults enter.
    expect(changedCode(hard.pid).changed).toEqual([]);
    await hard.end();
  },
  KILLS * 8000 + 30_000,
);

test.skipIf(lacking !== undefined)(
  'twice in a row on a storm of faults; Ctrl-C and SIGTERM end it as a duration does',
  async () => {
    const hard = await Hard.start(4, 'h');
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const tracer = startMultitrace(['run', object('storm'), '-p', String(hard.pid)]);
      onTestFinished(() => tracer.stop());
      await tracer.expectOutput(/functions of process/, 'stderr', 30_000);
      await tracer.expectOutput(/^events: /m);
      tracer.child.kill(signal);
      const done = await tracer.ended;
      expect(done.status, describeRun(done).slice(0, 500)).toBe(0);
      expect(done.stdout).toMatch(/^ +wrong +0$/m);
      hard.isClean();
    }
    await hard.end();
  },
);

test.skipIf(lacking !== undefined)(
  'two objects at once, and records that find no room are counted',
  async () => {
    const hard = await Hard.start(4);
    const both = [object('storm'), object('count')];
    const done = await multitrace(['run', ...both, '-p', String(hard.pid), '--json', '-d', '0.5']);
    expect(done.status, describeRun(done)).toBe(0);
    const { returns, sent, wrong } = globalsOf(done);
    expect(wrong).toBe(0);
    const dropped = Number(/map events: ([\d,]+) records/.exec(done.stderr)?.[1].replaceAll(',', '') ?? 0);
    // A thread may be between the two counters when it is let go of.
    expect(Math.abs(returns - sent - dropped)).toBeLessThanOrEqual(4);
    await hard.end();
  },
);

test.skipIf(lacking !== undefined)('millions of calls a second are counted, and none is lost', async () => {
  const hard = await Hard.start(1, 'kq');
  const tracer = startMultitrace(['run', object('count'), '-p', String(hard.pid), '--json']);
  onTestFinished(() => tracer.stop());
  await until('it is patched', () => changedCode(hard.pid).changed.length > 0 && tracerOf(hard.pid) === 0);
  await new Promise(done => setTimeout(done, 300));
  hard.say();
  await new Promise(done => setTimeout(done, 500));
  hard.say();
  const said = Number((await hard.expect(/done 0 of (\d+)\n/))[1]);
  const done = await tracer.ended;
  expect(globalsOf(done).calls).toBe(said);
  expect(said).toBeGreaterThan(1e5);
});

test.skipIf(lacking !== undefined)('a command that execs, with faults on all threads', async () => {
  const args = ['run', object('storm'), '--json', '--', compileTarget(HARD), '4', 'e'];
  const tracer = startMultitrace(args, { keepInput: true });
  onTestFinished(() => tracer.stop());
  await tracer.expectOutput(/works\n/, 'stderr', 30_000);
  await new Promise(done => setTimeout(done, 200));
  tracer.say('');
  await tracer.expectOutput(/works\n[\s\S]*works\n/, 'stderr', 30_000);
  await new Promise(done => setTimeout(done, 200));
  tracer.say('');
  const done = await tracer.ended;
  expect(done.status, describeRun(done)).toBe(0);
  const report = reportOf(done);
  expect(report.programs.map(({ attached }) => attached)).toEqual([2, 2]);
  expect(globalsOf(done)).toMatchObject({ wrong: 0 });
});

test.skipIf(lacking !== undefined)(
  'a process that makes children while its faults are followed',
  async () => {
    const hard = await Hard.start(4, 'hcq');
    const tracer = startMultitrace(['run', object('storm'), '-p', String(hard.pid), '--json']);
    onTestFinished(() => tracer.stop());
    await until('it is patched', () => changedCode(hard.pid).changed.length > 0);
    hard.say();
    await hard.expect(/works\n/);
    await new Promise(done => setTimeout(done, 1000));
    tracer.child.kill('SIGINT');
    const done = await tracer.ended;
    expect(globalsOf(done), describeRun(done)).toMatchObject({ wrong: 0 });
    hard.isClean();
    await hard.end();
  },
);

test.skipIf(lacking !== undefined)('a process that dies of a fault of its own, followed', async () => {
  const tracer = startMultitrace(['run', object('storm'), '--json', '--', compileTarget(HARD), '2', 'x'], {
    keepInput: true,
  });
  onTestFinished(() => tracer.stop());
  await tracer.expectOutput(/works\n/, 'stderr', 30_000);
  tracer.say('');
  const done = await tracer.ended;
  expect(done.status, describeRun(done)).toBe(139);
  expect(reportOf(done).exit).toEqual({ code: null, signal: 'SIGSEGV' });
});

test.skipIf(lacking !== undefined)('a process that dies while its programs are loaded', async () => {
  for (let i = 0; i < 3; i++) {
    const hard = await Hard.start(2);
    const tracer = startMultitrace(['run', object('who'), '-p', String(hard.pid), '--json']);
    onTestFinished(() => tracer.stop());
    await until('it is there', () => tracerOf(hard.pid) !== 0 || isMapped(hard.pid));
    await new Promise(done => setTimeout(done, 40 * i));
    process.kill(hard.pid, 'SIGKILL');
    const done = await tracer.ended;
    expect(done.stderr, describeRun(done)).not.toMatch(/internal error| {4}at /);
    if (done.status !== 0) expect(done.stderr).toMatch(/^multitrace: .*(ended|gone|no process)/m);
  }
});

for (const [what, recipe] of [
  ['a stripped', { ...HARD, flags: ['-rdynamic'], strip: ['--strip-all'] }],
  ['a static', { ...HARD, flags: ['-static'] }],
  ['a musl', { ...HARD, compiler: 'musl-gcc', flags: MUSL }],
  ['a static musl', { ...HARD, compiler: 'musl-gcc', flags: ['-static', ...MUSL] }],
] as const satisfies readonly [string, Recipe][])
  test.skipIf(lacking !== undefined)(`who, when and the stack in ${what} program`, async ({ skip }) => {
    const missing = missingCompiler(recipe);
    skip(missing !== undefined, missing);
    const hard = await Hard.start(2, 'k', [compileTarget(recipe)]);
    const done = await attach('who', hard.pid, '-d', '0.3');
    expect(done.status, describeRun(done)).toBe(0);
    const all = globalsOf(done) as Record<string, number> & { comm: string; frames: number[] };
    expect(all.calls, describeRun(done)).toBeGreaterThan(0);
    expect(all.comm).toBe('hard');
    expect(Math.floor(all.pid_tgid / 2 ** 32)).toBe(hard.pid);
    expect(all.bytes).toBeGreaterThanOrEqual(16);
    expect(all.frames[0]).toBe(all.ip);
    hard.isClean();
    await hard.end();
  });

for (const [what, modes] of [
  ['without new privileges', 'n'],
  ['that lets few system calls through', 'p'],
] as const)
  test.skipIf(lacking !== undefined)(`a process ${what} is traced, or refused, and lives`, async () => {
    const hard = await Hard.start(2, modes);
    for (const name of ['count', 'storm']) {
      const done = await attach(name, hard.pid, '-d', '0.3');
      expect(done.status, describeRun(done)).toBe(modes === 'n' ? 0 : 1);
      if (modes === 'p')
        expect(done.stderr, describeRun(done)).toMatch(/^multitrace: process \d+ has a seccomp filter/);
    }
    hard.isClean();
    await hard.end();
  });

test.skipIf(lacking !== undefined)(
  'somebody without privileges traces their own process',
  async ({ skip }) => {
    const missing = notRoot();
    skip(missing !== undefined, missing);
    const folder = mkdtempSync(join(tmpdir(), 'multitrace-nobody-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    await run('chmod', ['755', folder]);
    const program = join(folder, 'hard');
    copyFileSync(compileTarget(HARD), program);
    const file = join(folder, 'storm.bpf.o');
    copyFileSync(object('storm'), file);
    const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
    const hard = await Hard.start(4, '', [...nobody, program]);
    const args = [
      process.execPath,
      join(import.meta.dirname, '..', 'bin', 'multitrace'),
      'run',
      file,
      '--json',
    ];
    const env = { ...process.env, HOME: folder, TMPDIR: folder };
    const traced = [...nobody.slice(1), ...args, '-p', String(hard.pid), '-d', '0.5'];
    const done = await run('setpriv', traced, { env });
    expect(done.status, describeRun(done)).toBe(0);
    expect(globalsOf(done)).toMatchObject({ wrong: 0 });
    expect(globalsOf(done).bad).toBeGreaterThan(0);
    expect(globalsOf(done).sent).toBeGreaterThan(0);
    await hard.end();
  },
);

test.skipIf(lacking !== undefined)(
  'a debugger and we, each while the other is there, are told in a sentence',
  async ({ skip }) => {
    const missing = missingCommand('gdb');
    skip(missing !== undefined, missing);
    const hard = await Hard.start(2);
    const gdb = new Running('gdb', ['-nx', '-q', '-p', String(hard.pid)], { keepInput: true });
    onTestFinished(() => gdb.stop());
    await until('gdb is there', () => tracerOf(hard.pid) === gdb.pid);
    const refused = await attach('storm', hard.pid);
    expect(refused.status, describeRun(refused)).toBe(1);
    expect(refused.stderr).toMatch(/process \d+ \(a debugger\?\) traces it already; end that first/);
    gdb.say('detach\nquit');
    await gdb.ended;

    const tracer = startMultitrace(['run', object('storm'), '-p', String(hard.pid)]);
    onTestFinished(() => tracer.stop());
    // Until then it holds the process for moments only.
    await tracer.expectOutput(/functions of process/, 'stderr', 30_000);
    await until('it is followed', () => tracerOf(hard.pid) === tracer.pid);
    const second = await run('gdb', ['-nx', '-q', '-batch', '-p', String(hard.pid)]);
    expect(second.stdout + second.stderr).toMatch(/ptrace: |could not attach/i);
    await new Promise(done => setTimeout(done, 500));
    tracer.child.kill('SIGINT');
    const done = await tracer.ended;
    expect(done.stdout, describeRun(done)).toMatch(/^ +wrong +0$/m);
    await hard.end();
  },
);

/** How often the threads of a process have waited for something so far: each wake-up ends one such wait. */
function waitsOf(pid: number): number {
  let waits = 0;
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const status = readFileSync(`/proc/${pid}/task/${tid}/status`, 'latin1');
    waits += Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)![1]);
  }
  return waits;
}

/** CPU time of a process so far, ms. */
function cpuOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** About 40 in truth: timers of 50 ms, some of which node serves together. A timer of 10 ms would alone be 100. */
const WAKES_AT_REST = 80;

test.skipIf(lacking !== undefined)('waiting for records that do not come costs nearly nothing', async () => {
  const hard = await Hard.start(0);
  const tracer = startMultitrace(['run', object('silent'), '-p', String(hard.pid)]);
  onTestFinished(() => tracer.stop());
  await tracer.expectOutput(/functions of process/, 'stderr', 30_000);
  await new Promise(done => setTimeout(done, 1000));
  const [waits, cpu, began] = [waitsOf(tracer.pid), cpuOf(tracer.pid), performance.now()];
  await new Promise(done => setTimeout(done, 2000));
  const seconds = (performance.now() - began) / 1000;
  const [wakes, share] = [
    (waitsOf(tracer.pid) - waits) / seconds,
    (cpuOf(tracer.pid) - cpu) / 1000 / seconds,
  ];
  console.log(`at rest: ${wakes.toFixed(0)} wake-ups a second, ${(100 * share).toFixed(1)} % of a CPU`);
  // A busy machine makes wake-ups fewer, never more. The time is for loops that never wait: those take all of a CPU.
  expect(wakes).toBeLessThan(WAKES_AT_REST);
  expect(share).toBeLessThan(0.25);
  tracer.child.kill('SIGINT');
  await tracer.ended;
  expect(existsSync(`/proc/${hard.pid}`)).toBe(true);
  await hard.end();
});
