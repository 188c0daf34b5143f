/**
 * What can't be done is said in one sentence on standard error, with exit status 1 or 2 and nothing on standard
 * output; and the death of either side leaves the other whole.
 */

import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import {
  descendants,
  describeRun,
  killOne,
  multitrace,
  Running,
  run,
  startMultitrace,
} from './support/command.js';
import { compileTarget } from './support/compile.js';
import { MULTITRACE } from './support/paths.js';
import { changedCode, processState, tracerOf, until } from './support/process.js';
import { randomNumbers } from './support/random.js';
import { parseReport } from './support/report.js';
import { expectClean } from './support/rounds.js';
import { expectOneSentence } from './support/sentence.js';
import { missingCommand, missingFile, notRoot, SOAK } from './support/skip.js';

const PYTHON = '/usr/bin/python3';
const lacking = missingCommand('gcc');

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multitrace-bad-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** The 16-bit machine number in an ELF header (e_machine), and the byte of its class. */
const ELF_MACHINE_OFFSET = 18;
const ELF_MACHINE_AARCH64 = 183;

/** A copy of a program with a header that says arm64. */
function arm64Program(): string {
  const path = join(scratch, 'arm64');
  copyFileSync(process.execPath, path);
  const bytes = readFileSync(path);
  bytes.writeUInt16LE(ELF_MACHINE_AARCH64, ELF_MACHINE_OFFSET);
  writeFileSync(path, bytes, { mode: 0o755 });
  return path;
}

let attaching: number | undefined;

/** How long it takes from starting the command to its end when it attaches to everything and lets go at once, ms. */
async function attachingMs(): Promise<number> {
  if (attaching === undefined) {
    const program = await waiting();
    const args = ['count', '*:*', '-p', `${program.pid}`, '--duration', '0.001'];
    attaching = (await multitrace(args)).durationMs;
  }
  return attaching;
}

/** What attaches to a process, and ends by itself or by a signal. */
const STOPPABLE = [['count', '--json'], ['latency'], ['trace', '--max-calls', '10'], ['list']] as const;

/** A number that no process has. */
function unusedPid(): number {
  const most = Number(readFileSync('/proc/sys/kernel/pid_max', 'utf8'));
  for (let pid = most - 1; pid > 1; pid--) if (processState(pid) === undefined) return pid;
  throw new Error('every process number is taken');
}

async function waiting(): Promise<Running> {
  const program = new Running(compileTarget({ source: 'behaves.c' }), ['wait']);
  onTestFinished(() => program.stop());
  await program.expectOutput(/^ready/);
  return program;
}

describe('bad usage', () => {
  const CASES: readonly (readonly [string, readonly string[], RegExp?])[] = [
    ['no command and no process', ['count', 'malloc'], /--|-p|command/i],
    ['nothing behind `--`', ['count', 'malloc', '--']],
    ['no selector', ['count', '--', 'true'], /selector/i],
    ['only exclusions', ['count', '!malloc', '--', 'true']],
    ['both a process and a command', ['count', 'malloc', '-p', '1', '--', 'true']],
    ['an unknown subcommand', ['cuont', 'malloc', '--', 'true'], /cuont/],
    ['an unknown option', ['count', 'malloc', '--colour', '--', 'true'], /--colour/],
    ['a process number that is none', ['count', 'malloc', '-p', 'self'], /self/],
    ['a negative process number', ['count', 'malloc', '-p', '-4']],
    ['process 0', ['count', 'malloc', '-p', '0']],
    ['a duration that is no number', ['count', 'malloc', '--duration', 'long', '--', 'true'], /long/],
    ['a negative duration', ['count', 'malloc', '--duration', '-1', '--', 'true']],
    ['an interval of nothing', ['count', 'malloc', '--interval', '0', '--', 'true'], /interval/],
    ['a top that is no number', ['count', 'malloc', '--top', 'ten', '--', 'true'], /ten/],
    ['a top with a fraction', ['count', 'malloc', '--top', '1.5', '--', 'true']],
    ['a glob with an open bracket', ['count', 'mal[loc', '--', 'true'], /mal\[loc/],
    ['an empty selector', ['count', '', '--', 'true']],
    ['a selector without a function', ['count', 'libc:', '--', 'true'], /libc:/],
    ['an exclusion of nothing', ['count', 'malloc', '!', '--', 'true']],
    ['list without anything to look at', ['list', 'malloc']],
    ['list of a file and a process', ['list', 'malloc', '--file', '/bin/true', '-p', '1']],
  ];
  for (const [title, args, about] of CASES) {
    test(title, async () => expectOneSentence(await multitrace(args, { timeoutMs: 20_000 }), about));
  }

  test('nothing at all: help, and exit status 2', async () => {
    const done = await multitrace([]);
    expect(done.status).toBe(2);
    expect(done.stdout).toBe('');
    expect(done.stderr).toMatch(/count[\s\S]*list/);
  });

  test('--help is no error', async () => {
    for (const args of [['--help'], ['count', '--help'], ['list', '--help']]) {
      const done = await multitrace(args);
      expect(done.status, describeRun(done)).toBe(0);
      expect(done.stdout).toMatch(/usage/i);
      expect(done.stderr).toBe('');
    }
  });
});

describe('what is not there, or not for us', () => {
  test('no such program', async () => {
    expectOneSentence(await multitrace(['count', '*', '--', '/nowhere/program']), /\/nowhere\/program/);
    expectOneSentence(
      await multitrace(['count', '*', '--', 'no-such-command-anywhere']),
      /no-such-command-anywhere/,
    );
  });

  test('no such file to list', async () => {
    expectOneSentence(
      await multitrace(['list', '*', '--file', '/nowhere/library.so']),
      /\/nowhere\/library\.so/,
    );
  });

  test('files that are no programs', async () => {
    const text = join(scratch, 'text');
    writeFileSync(text, 'neither a program nor a script\n', { mode: 0o644 });
    const plain = join(scratch, 'plain');
    writeFileSync(plain, 'x', { mode: 0o644 });
    expectOneSentence(await multitrace(['count', '*', '--', text]), /text/);
    expectOneSentence(await multitrace(['count', '*', '--', plain]), /plain/);
    expectOneSentence(await multitrace(['count', '*', '--', scratch]));
    expectOneSentence(await multitrace(['count', '*', '--', '']));
    expectOneSentence(await multitrace(['list', '*', '--file', text]), /text/);
    expectOneSentence(await multitrace(['list', '*', '--file', scratch]));
  });

  test('damaged ELF files', async () => {
    const whole = readFileSync('/bin/true');
    const random = randomNumbers('damaged ELF files');
    const path = join(scratch, 'damaged');
    for (let i = 0; i < (SOAK ? 200 : 9); i++) {
      // Cut short, or with 40 bytes of its headers changed.
      const bytes = Buffer.from(whole);
      let damaged = bytes;
      if (i % 3 === 0) damaged = bytes.subarray(0, Math.floor(random() * 2000));
      else for (let k = 0; k < 40; k++) bytes[20 + Math.floor(random() * 600)] = Math.floor(random() * 256);
      writeFileSync(path, damaged, { mode: 0o755 });
      const done = await multitrace(['list', '*', '--file', path], { timeoutMs: 20_000 });
      // Damage may leave a file that can still be read.
      if (done.status !== 0) expectOneSentence(done);
    }
  }, 300_000);

  test('a script is traced as its interpreter, or refused', async () => {
    const script = join(scratch, 'script');
    writeFileSync(script, '#!/bin/sh\necho from the script\n', { mode: 0o755 });
    const done = await multitrace(['count', 'libc:*', '--', script]);
    if (done.status !== 0) expectOneSentence(done);
    else expect(done.stdout).toMatch(/^from the script$/m);
  });

  test('no such process', async () => {
    const pid = unusedPid();
    expectOneSentence(await multitrace(['count', '*', '-p', `${pid}`]), new RegExp(`${pid}`));
    expectOneSentence(await multitrace(['list', '*', '-p', `${pid}`]), new RegExp(`${pid}`));
  });

  test('a process that has ended but is not yet reaped', async ({ skip }) => {
    skip(missingFile(PYTHON) !== undefined, missingFile(PYTHON));
    const script =
      'import os,sys,time\np=os.fork()\nif p==0: os._exit(0)\nprint("zombie",p,flush=True)\ntime.sleep(60)';
    const parent = new Running(PYTHON, ['-c', script]);
    onTestFinished(() => parent.stop());
    const [, pid] = await parent.expectOutput(/^zombie (\d+)$/m);
    await until('it has ended', () => processState(Number(pid)) === 'Z');
    expectOneSentence(await multitrace(['count', '*', '-p', pid], { timeoutMs: 20_000 }));
  });

  test('a kernel thread', async ({ skip }) => {
    skip(
      processState(2) === undefined || readFileSync('/proc/2/maps', 'utf8') !== '',
      'process 2 is no kernel thread here',
    );
    expectOneSentence(await multitrace(['count', '*', '-p', '2'], { timeoutMs: 20_000 }));
  });

  test('itself, through its shell', async ({ skip }) => {
    skip(missingCommand('bash') !== undefined, 'bash is not installed');
    // exec keeps the number: multitrace is asked to trace itself.
    const done = await run('bash', ['-c', `exec "${process.execPath}" "${MULTITRACE}" count '*' -p $$`], {
      timeoutMs: 20_000,
    });
    expectOneSentence(done);
  });

  test('a process of another user', async ({ skip }) => {
    const reason = notRoot() ?? lacking;
    skip(reason !== undefined, reason);
    const program = await waiting();
    const unprivileged = ['--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all'];
    const asNobody = (...args: string[]) =>
      run('setpriv', [...unprivileged, process.execPath, MULTITRACE, ...args], {
        timeoutMs: 20_000,
        env: { ...process.env, HOME: '/' },
      });
    const readable = await asNobody('--version');
    skip(readable.status !== 0, 'another user can’t read the project’s folder here');
    expectOneSentence(
      await asNobody('count', '*', '-p', `${program.pid}`),
      /permi|not allowed|privilege|user/i,
    );
    expect(processState(program.pid)).toMatch(/[SR]/);
  });

  test('a program that the user may not read', async ({ skip }) => {
    const reason = notRoot() ?? lacking;
    skip(reason !== undefined, reason);
    const secret = join(scratch, 'secret');
    copyFileSync(compileTarget({ source: 'counts.c' }), secret);
    chmodSync(secret, 0o711);
    chmodSync(scratch, 0o755);
    const unprivileged = ['--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all'];
    const done = await run(
      'setpriv',
      [...unprivileged, process.execPath, MULTITRACE, 'count', '*', '--', secret, '10'],
      {
        timeoutMs: 20_000,
        env: { ...process.env, HOME: '/' },
      },
    );
    expectOneSentence(done);
  });

  test('a process that is traced already', async ({ skip }) => {
    const reason = missingCommand('gcc', 'gdb');
    skip(reason !== undefined, reason);
    const program = await waiting();
    const debuggerOf = new Running('gdb', ['-nx', '-batch', '-ex', 'continue', '-p', `${program.pid}`], {
      keepInput: true,
    });
    onTestFinished(() => debuggerOf.stop());
    await until('gdb has it', () => tracerOf(program.pid) !== 0);
    expectOneSentence(
      await multitrace(['count', 'tick', '-p', `${program.pid}`], { timeoutMs: 20_000 }),
      /trac|debug/i,
    );
  });
});

describe('for another processor', () => {
  test('a 32-bit program', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    let program: string;
    try {
      const flags = ['-m32', '-nostdlib', '-static', '-fno-pic', '-no-pie', '-fno-stack-protector'];
      program = compileTarget({ source: 'foreign.c', flags });
    } catch {
      skip('this gcc makes no 32-bit programs');
      return;
    }
    expectOneSentence(
      await multitrace(['count', '*', '--', program], { timeoutMs: 20_000 }),
      /32-bit|i386|x86/i,
    );
    expectOneSentence(await multitrace(['list', '*', '--file', program]), /32-bit|i386|x86/i);

    const running = new Running(program, [], { keepInput: true });
    onTestFinished(() => running.stop());
    const refused = await Promise.race([
      running.ended.then(
        () => true,
        () => true,
      ),
      new Promise(resolve => setTimeout(() => resolve(false), 200)),
    ]);
    if (refused === true) return; // The kernel runs no 32-bit programs.
    expectOneSentence(
      await multitrace(['count', '*', '-p', `${running.pid}`], { timeoutMs: 20_000 }),
      /32-bit|i386|x86/i,
    );
    running.child.stdin!.end();
    expect((await running.ended).status, 'it runs on unharmed').toBe(0);
  });

  test('an arm64 program', async () => {
    const program = arm64Program();
    expectOneSentence(
      await multitrace(['count', '*', '--', program], { timeoutMs: 20_000 }),
      /arm64|aarch64/i,
    );
    expectOneSentence(await multitrace(['list', '*', '--file', program]), /arm64|aarch64/i);
  });
});

describe('no function matched', () => {
  test('in a running process', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const program = await waiting();
    expectOneSentence(await multitrace(['count', 'no_such_*', '-p', `${program.pid}`]), /no_such_\*/);
    expectOneSentence(await multitrace(['count', 'libnone:*', '-p', `${program.pid}`]), /libnone/);
    expect(changedCode(program.pid).changed).toEqual([]);
    expect(processState(program.pid)).toMatch(/[SR]/);
  });

  test('in a file', async () => {
    expectOneSentence(await multitrace(['list', 'no_such_*', '--file', '/bin/true']), /no_such_\*/);
  });

  test('in a command, which runs to its end as usual', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'counts.c' });
    const plain = await run(program, ['10']);
    const done = await multitrace(['count', 'no_such_*', '--', program, '10']);
    expect(done.stderr, describeRun(done)).toMatch(/no_such_\*/);
    // A pattern may be for a library that comes later, so the program has to run; its output is its own.
    expect([1, 2], describeRun(done)).toContain(done.status);
    expect(done.stdout === '' || done.stdout.startsWith(plain.stdout), describeRun(done)).toBe(true);
  });
});

describe('the program dies while we attach', () => {
  const TIMES = SOAK ? 300 : 6;

  test(`a running process, ${TIMES} times`, async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const random = randomNumbers('dying processes');
    const seen = { traced: 0, refused: 0 };
    const whole = await attachingMs();
    for (let i = 0; i < TIMES; i++) {
      const micros = Math.floor((0.3 + random()) * whole * 1000);
      const args = i % 2 === 0 ? [`${micros}`] : [`${micros}`, '9'];
      const program = new Running(compileTarget({ source: 'dying.c' }), args);
      onTestFinished(() => program.stop());
      const done = await multitrace(['count', '*:*', '-p', `${program.pid}`, '--json'], {
        timeoutMs: 30_000,
      });
      if (done.stdout === '') {
        expectOneSentence(done);
        seen.refused++;
      } else {
        // Only a process's parent is sure to be told how it ended.
        const ends = [
          { code: null, signal: null },
          i % 2 === 0 ? { code: 7, signal: null } : { code: null, signal: 'SIGKILL' },
        ];
        expect(ends, `${micros} µs: ${describeRun(done)}`).toContainEqual(parseReport(done).exit);
        seen.traced++;
      }
      const ended = await program.ended;
      expect(ended.status, `${micros} µs: it ends as it would alone`).toBe(i % 2 === 0 ? 7 : 137);
    }
    console.log(`dying processes: ${seen.traced} traced to their end, ${seen.refused} gone before`);
  }, 600_000);

  test('a command that ends at once', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    for (const args of [['0'], ['0', '9'], ['0', '6']]) {
      const done = await multitrace(
        ['count', '*:*', '--json', '--', compileTarget({ source: 'dying.c' }), ...args],
        { timeoutMs: 30_000 },
      );
      const { exit } = parseReport(done);
      const signal = { 9: 'SIGKILL', 6: 'SIGABRT' }[args[1] ?? ''] ?? null;
      expect(exit, describeRun(done)).toEqual({ code: signal === null ? 7 : null, signal });
      expect(done.status).toBe(signal === null ? 7 : 128 + Number(args[1]));
    }
  });

  test('a command killed by somebody else while we attach', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const random = randomNumbers('commands killed');
    const whole = await attachingMs();
    for (let i = 0; i < (SOAK ? 60 : 4); i++) {
      const tracer = startMultitrace(
        ['count', '*:*', '--json', '--', compileTarget({ source: 'behaves.c' }), 'wait'],
        { timeoutMs: 30_000 },
      );
      onTestFinished(() => tracer.stop());
      let pid = 0;
      await until('it is started', () => {
        [pid = 0] = descendants(tracer.pid);
        return pid !== 0;
      });
      await new Promise(resolve => setTimeout(resolve, random() * whole));
      killOne(pid);
      const done = await tracer.ended;
      if (done.stdout === '') expectOneSentence(done);
      else expect(parseReport(done).exit, describeRun(done)).toEqual({ code: null, signal: 'SIGKILL' });
    }
  }, 120_000);
});

describe('our own death', () => {
  test('SIGKILL while a command is traced: it finishes with the right output', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const program = compileTarget({ source: 'counts.c' });
    const calls = '200000000';
    const plain = await run(program, [calls]);
    const tracer = startMultitrace(['count', '*', '--', program, calls], { timeoutMs: 60_000 });
    onTestFinished(() => tracer.stop());
    let pid = 0;
    await until('it is started', () => {
      [pid = 0] = descendants(tracer.pid);
      return pid !== 0;
    });
    await until('it is patched', () => {
      try {
        // Not the linker only: a command that has not begun ends with us.
        return changedCode(pid).changed.some(where => where.startsWith(program));
      } catch {
        return false; // Not yet in the program's own code.
      }
    });
    killOne(tracer.pid);
    // The program holds our pipes: this resolves when it ends.
    const done = await tracer.ended;
    expect(done.stdout, describeRun(done)).toBe(plain.stdout);
    expect(done.signal).toBe('SIGKILL');
  }, 120_000);

  test('SIGKILL while a process is traced that then loads libraries', async ({ skip }) => {
    skip(missingFile(PYTHON) !== undefined, missingFile(PYTHON));
    const script = [
      'import sys',
      'print("ready", flush=True)',
      'sys.stdin.readline()',
      'import ssl, sqlite3, json, threading',
      'threads = [threading.Thread(target=lambda: json.dumps(list(range(1000)))) for _ in range(4)]',
      'for t in threads: t.start()',
      'for t in threads: t.join()',
      'print(ssl.OPENSSL_VERSION, sqlite3.connect(":memory:").execute("select 6*7").fetchall())',
      'sys.exit(5)',
    ].join('\n');
    for (const attached of [true, false]) {
      // Attached to, or started by the one who is killed.
      let target: Running;
      let tracer: Running;
      if (attached) {
        target = new Running(PYTHON, ['-c', script], { keepInput: true });
        await target.expectOutput(/^ready/);
        tracer = startMultitrace(['count', '*:*', '-p', `${target.pid}`], { timeoutMs: 60_000 });
        await until('it is patched', () => changedCode(target.pid).changed.length > 0, 30_000);
      } else {
        tracer = new Running(process.execPath, [MULTITRACE, 'count', '*:*', '--', PYTHON, '-c', script], {
          keepInput: true,
        });
        target = tracer;
        await tracer.expectOutput(/^ready/, 'stdout', 30_000);
      }
      onTestFinished(() => target.stop());
      onTestFinished(() => tracer.stop());
      killOne(tracer.pid);
      await until('it is gone', () => (processState(tracer.pid) ?? 'Z') === 'Z');
      target.say('go on');
      const done = await target.ended;
      expect(done.stdout, describeRun(done)).toMatch(/^ready\nOpenSSL .*\[\(42,\)\]\n$/);
      if (attached) expect(done.status, describeRun(done)).toBe(5);
    }
  }, 120_000);

  test('an error of ours that nobody catches: the process gets its bytes back', async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const program = await waiting();
    // On SIGUSR2 something throws, as a mistake in a timer of ours would.
    const thrower = 'process.on("SIGUSR2", () => { throw new Error("made by a test") })';
    const tracer = startMultitrace(['count', 'tick', '-p', `${program.pid}`], {
      env: { ...process.env, NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(thrower)}` },
    });
    onTestFinished(() => tracer.stop());
    await until('it is patched', () => changedCode(program.pid).changed.length > 0, 30_000);
    await tracer.expectOutput(/Ctrl-C ends/, 'stderr');
    tracer.child.kill('SIGUSR2');
    const done = await tracer.ended;
    expect(done.status, describeRun(done)).toBe(1);
    expect(done.stderr).toMatch(/internal error: Error: made by a test/);
    expectClean(program.pid);
    expect(processState(program.pid)).toMatch(/[SR]/);
  });

  const STOPPED = SOAK ? 300 : 12;
  test(`Ctrl-C or SIGTERM at any moment, ${STOPPED} times: every byte is as it was`, async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const random = randomNumbers('stopped at any moment');
    const whole = await attachingMs();
    const load = new Running('nice', ['-n', '19', compileTarget({ source: 'load.c' })], {
      keepInput: true,
      timeoutMs: 600_000,
    });
    onTestFinished(() => load.stop());
    await load.expectOutput(/^pid/);
    load.say('go');
    await load.expectOutput(/^going/m);
    let early = 0;
    for (let i = 0; i < STOPPED; i++) {
      const [command, ...more] = STOPPABLE[i % STOPPABLE.length];
      const tracer = startMultitrace([command, '*:*', '-p', `${load.pid}`, ...more]);
      onTestFinished(() => tracer.stop());
      const delay = (0.2 + random()) * whole;
      await new Promise(resolve => setTimeout(resolve, delay));
      tracer.child.kill(i % 2 === 0 ? 'SIGINT' : 'SIGTERM');
      const done = await tracer.ended;
      const when = `${delay} ms after the start: ${describeRun(done)}`;
      // Before the process is touched, the signal ends us.
      if (done.signal !== null) early++;
      else expect(done.status, when).toBe(0);
      expect(tracerOf(load.pid), when).toBe(0);
      expectClean(load.pid, when);
    }
    load.say('hold');
    await load.expectOutput(/^held/m);
    load.child.stdin!.end();
    const ended = await load.ended;
    expect(ended.stdout, describeRun(ended)).toMatch(/^checksum ok$/m);
    console.log(`stopped at any moment: ${early} of ${STOPPED} before the process was touched`);
    expect(early).toBeLessThan(STOPPED);
  }, 600_000);

  const TIMES = SOAK ? 300 : 6;
  test(`SIGKILL at any moment, ${TIMES} times: the process runs on unharmed`, async ({ skip }) => {
    skip(lacking !== undefined, lacking);
    const random = randomNumbers('our own death');
    const whole = await attachingMs();
    let refused = 0;
    for (let i = 0; i < TIMES; i++) {
      const load = new Running('nice', ['-n', '19', compileTarget({ source: 'load.c' })], {
        keepInput: true,
      });
      onTestFinished(() => load.stop());
      await load.expectOutput(/^pid/);
      load.say('go');
      await load.expectOutput(/^going/m);
      const tracer = startMultitrace(['count', i % 2 === 0 ? 'work_*' : '*:*', '-p', `${load.pid}`]);
      onTestFinished(() => tracer.stop());
      const delay = (0.2 + random()) * whole;
      const when = `death ${i}, ${delay} ms after the start`;
      await new Promise(resolve => setTimeout(resolve, delay));
      killOne(tracer.pid);
      await tracer.ended;
      // D, a wait in the kernel, passes by itself; stopped or gone does not.
      await until(`${when}: it runs`, () => /[SR]/.test(processState(load.pid) ?? ''));
      // Its threads answer: none was left stopped.
      load.say('hold');
      await load.expectOutput(/^held/m);
      load.say('run 3');
      await load.expectOutput(/^ran/m);
      if (i % 5 === 0) {
        // It can still be traced, or is refused in a sentence.
        const again = await multitrace(
          ['count', 'work_*', '-p', `${load.pid}`, '--duration', '0.1', '--json'],
          {
            timeoutMs: 30_000,
          },
        );
        if (again.status !== 0) {
          expectOneSentence(again);
          refused++;
        }
        load.say('run 3');
      }
      load.child.stdin!.end();
      const ended = await load.ended;
      expect(ended.stdout, `${when}: ${describeRun(ended)}`).toMatch(/^checksum ok$/m);
      expect(ended.status, when).toBe(0);
    }
    console.log(
      `our own death: traced again afterwards ${Math.ceil(TIMES / 5) - refused} times, refused ${refused} times`,
    );
  }, 600_000);
});
