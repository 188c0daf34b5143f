/**
 * A traced command is the same command: its streams, environment, descriptors, signals, terminal and exit status
 * pass through unchanged.
 */

import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:os';
import { describe, expect, onTestFinished, test } from 'vitest';
import { descendants, describeRun, multitrace, Running, run, startMultitrace } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { MULTITRACE, ROOT } from './support/paths.js';
import { changedCode, processState, until } from './support/process.js';
import { countCommand, countOf, parseReport } from './support/report.js';
import { expectClean } from './support/rounds.js';
import { missingCommand, SOAK } from './support/skip.js';

const lacking = missingCommand('gcc');
const behaves = () => compileTarget({ source: 'behaves.c' });
const BEHAVES_LINE = (...args: string[]) =>
  `'${process.execPath}' '${MULTITRACE}' count '*:*' ${args.join(' ')}`;

describe.skipIf(lacking)('exit status', () => {
  // Each takes a third of a second: all 256 in the long form.
  const CODES = SOAK ? [...Array(256).keys()] : [0, 1, 42, 127, 128, 137, 255];
  test(`${CODES.length} codes pass through`, async () => {
    for (const code of CODES) {
      const { report, run: traced } = await countCommand(['tick'], [behaves(), 'exit', `${code}`]);
      expect(traced.status, describeRun(traced)).toBe(code);
      expect(report.exit).toEqual({ code, signal: null });
      expect(countOf(report, 'tick')).toBe(25);
    }
  }, 300_000);

  test('death by a signal is 128 + its number, and its name', async () => {
    // Those that a tracer sees otherwise than the rest are in the short form, too.
    const few = ['SIGINT', 'SIGTRAP', 'SIGABRT', 'SIGKILL', 'SIGSEGV', 'SIGPIPE', 'SIGTERM'] as const;
    const others = [
      'SIGHUP',
      'SIGQUIT',
      'SIGILL',
      'SIGBUS',
      'SIGFPE',
      'SIGUSR1',
      'SIGALRM',
      'SIGXCPU',
    ] as const;
    const names = [...few, ...(SOAK ? others : [])];
    for (const name of names) {
      const number = constants.signals[name];
      const { report, run: traced } = await countCommand(['tick'], [behaves(), 'kill', `${number}`]);
      expect(report.exit, describeRun(traced)).toEqual({ code: null, signal: name });
      expect(traced.status).toBe(128 + number);
      expect(countOf(report, 'tick'), 'what it counted before is reported').toBe(25);
    }
  }, 120_000);

  test('the same without --json', async () => {
    expect((await multitrace(['count', 'tick', '--', behaves(), 'exit', '9'])).status).toBe(9);
    expect((await multitrace(['count', 'tick', '--', behaves(), 'kill', '15'])).status).toBe(143);
  });
});

describe.skipIf(lacking)('streams', () => {
  test('standard input, 20 MB, comes through and goes out whole', async () => {
    const input = randomBytes(20_000_000);
    const traced = await multitrace(
      ['count', 'tick', '--json', '--', 'sh', '-c', `'${behaves()}' cat | sha256sum`],
      { input },
    );
    expect(traced.stderr, describeRun(traced)).toContain(createHash('sha256').update(input).digest('hex'));
    const direct = await multitrace(['count', 'tick', '--', behaves(), 'cat'], { input });
    expect(direct.bytes.subarray(0, input.length).equals(input), direct.stderr).toBe(true);
    expect(direct.stderr).toMatch(/^bytes 20000000$/m);
  });

  test('with --json the program writes to standard error, and standard output is the report alone', async () => {
    const { run: traced } = await countCommand(['tick'], [behaves(), 'echo'], { input: 'one\ntwo\n' });
    expect(traced.stderr, describeRun(traced)).toBe('> one\n> two\n');
  });

  test('a slow reader: the pipe stays blocking, and nothing is lost', async () => {
    const input = randomBytes(3_000_000);
    const traced = startMultitrace(['count', 'tick', '--', behaves(), 'cat'], { input });
    onTestFinished(() => traced.stop());
    traced.child.stdout!.pause();
    await new Promise(resolve => setTimeout(resolve, 700));
    traced.child.stdout!.resume();
    const done = await traced.ended;
    expect(done.stderr).not.toMatch(/write:|temporarily/);
    expect(done.bytes.subarray(0, input.length).equals(input)).toBe(true);
    expect(done.status).toBe(0);
  });

  test('a conversation, line by line', async () => {
    const traced = new Running(process.execPath, [MULTITRACE, 'count', 'tick', '--', behaves(), 'echo'], {
      keepInput: true,
    });
    onTestFinished(() => traced.stop());
    for (const word of ['first', 'second', 'third']) {
      traced.say(word);
      await traced.expectOutput(new RegExp(`^> ${word}$`, 'm'));
    }
    traced.child.stdin!.end();
    const done = await traced.ended;
    expect(done.status, describeRun(done)).toBe(0);
    expect(done.stdout).toMatch(/\b28\b.*\btick\b|\btick\b.*\b28\b/);
  });

  test('descriptors, blocking states, blocked and ignored signals are those of an untraced run', async () => {
    const plain = await run(behaves(), ['descriptors'], { input: '' });
    const traced = await multitrace(['count', 'tick', '--', behaves(), 'descriptors'], { input: '' });
    expect(traced.stdout.startsWith(plain.stdout), `${describeRun(traced)}\nuntraced: ${plain.stdout}`).toBe(
      true,
    );
    expect(traced.stdout.slice(plain.stdout.length)).not.toMatch(/^(descriptor|signal) \d/m);
  });

  test('the same with all three streams on one pipe', async () => {
    const both = async (line: string) => (await run('sh', ['-c', `${line} 2>&1 | cat`])).stdout;
    const plain = await both(`'${behaves()}' descriptors`);
    const traced = await both(BEHAVES_LINE('--', `'${behaves()}'`, 'descriptors'));
    expect(traced).toContain(plain);
    expect(traced).not.toMatch(/nonblocking/);
  });

  test('a reader that goes away ends the program by SIGPIPE, as usual', async ({ skip }) => {
    skip(missingCommand('bash') !== undefined, missingCommand('bash'));
    const line = `'${process.execPath}' '${MULTITRACE}' count libc:write -- yes | head -n 1; echo "\${PIPESTATUS[0]}"`;
    const done = await run('bash', ['-c', line], { timeoutMs: 20_000 });
    expect(done.stdout, describeRun(done)).toBe('y\n141\n');
    // The table has nowhere to go, which is no reason for a stack trace.
    expect(done.stderr).not.toMatch(/EPIPE|^ +at /m);
  });

  test.each([
    ['count', ['tick', '--interval', '0.1']],
    ['trace', ['tick']],
    ['latency', ['tick', '--interval', '0.1']],
  ])('%s ends when nobody reads what it says of a process', async (command, args) => {
    const program = new Running(behaves(), ['wait']);
    onTestFinished(() => program.stop());
    await program.expectOutput(/ready/);
    const tool = [process.execPath, MULTITRACE, command, ...args, '-p', `${program.pid}`];
    const read = await run('sh', ['-c', `"$@" | head -n 3`, 'sh', ...tool], { timeoutMs: 30_000 });
    expect(read.stdout.split('\n').length, describeRun(read)).toBe(4);
    expect(read.stderr).not.toMatch(/can't be written|internal error|^ +at /m);
    expectClean(program.pid);
    const full = await run('sh', ['-c', `"$@" > /dev/full`, 'sh', ...tool], { timeoutMs: 30_000 });
    expect(full.status, describeRun(full)).toBe(1);
    expect(full.stderr.match(/^multitrace: standard output can't be written to: ENOSPC.*$/gm)).toHaveLength(
      1,
    );
    expect(full.stderr).not.toMatch(/internal error|^ +at /m);
    expectClean(program.pid);
    expect(processState(program.pid)).toMatch(/[SR]/);
  });

  test('closed standard streams', async () => {
    for (const closing of ['<&-', '>&-', '2>&-']) {
      const done = await run(
        'sh',
        ['-c', `${BEHAVES_LINE('--', `'${behaves()}'`, 'exit', '5')} ${closing}`],
        { timeoutMs: 20_000 },
      );
      expect(done.status, `${closing}: ${describeRun(done)}`).toBe(5);
    }
  });
});

describe.skipIf(lacking)('environment', () => {
  test('arguments, environment and folder are unchanged', async () => {
    const args = ['environment', '', 'two words', '--json', '-p', '--', "quote's", '\\n', 'ünïcode', '*'];
    const env = {
      PATH: process.env.PATH,
      EMPTY: '',
      ODD: 'a=b\nc',
      LD_BIND_NOW: '1',
      'with space': 'x',
      NODE_OPTIONS: '--no-warnings',
    };
    const options = { env, cwd: '/usr' };
    const plain = await run(behaves(), args, options);
    const traced = await multitrace(['count', 'tick', '--', behaves(), ...args], options);
    expect(traced.stdout.startsWith(plain.stdout), `${describeRun(traced)}\nuntraced: ${plain.stdout}`).toBe(
      true,
    );
  });

  test('a command is found on PATH, and its name is as typed', async () => {
    const script = 'echo "$0 $#"';
    const done = await multitrace(['count', 'libc:write', '--', 'sh', '-c', script, 'name', 'x', 'y']);
    expect(done.stdout, describeRun(done)).toMatch(/^name 2$/m);
    const missing = await multitrace(['count', '*', '--', 'sh'], { env: { PATH: '/nowhere' } });
    expect(missing.status).toBeGreaterThan(0);
  });
});

describe.skipIf(lacking)('terminal', () => {
  const noScript = missingCommand('script', 'stty', 'sh');
  /**
   * Runs a command line on a new terminal of 91 columns; what the terminal shows. The shell execs it: dash would wait
   * and make every Ctrl-C a status of 130, whatever the command's own is.
   */
  const onTerminal = (line: string) =>
    new Running('script', ['-qec', `stty cols 91 rows 17; exec ${line}`, '/dev/null'], {
      keepInput: true,
      timeoutMs: 40_000,
    });

  test('the program has the terminal, in the foreground, at its size', async ({ skip }) => {
    skip(noScript !== undefined, noScript);
    for (const line of [`'${behaves()}' terminal`, BEHAVES_LINE('--', `'${behaves()}'`, 'terminal')]) {
      const session = onTerminal(line);
      onTestFinished(() => session.stop());
      await session.expectOutput(/terminals 111 foreground 1 size 91x17/);
      session.child.stdin!.end();
      expect((await session.ended).status).toBe(0);
    }
  }, 60_000);

  test('Ctrl-C ends the program, and the table comes', async ({ skip }) => {
    skip(noScript !== undefined, noScript);
    const session = onTerminal(BEHAVES_LINE('--', `'${behaves()}'`, 'wait'));
    onTestFinished(() => session.stop());
    await session.expectOutput(/ready/);
    await new Promise(resolve => setTimeout(resolve, 300));
    session.child.stdin!.write('\x03');
    const told = performance.now();
    await session.expectOutput(/\btick\b/);
    session.child.stdin!.end();
    const done = await session.ended;
    // By itself it would go on for ever.
    expect(performance.now() - told).toBeLessThan(10_000);
    expect(done.status, describeRun(done)).toBe(130);
  }, 60_000);

  test('a command that ended just when Ctrl-C comes has its own exit status', async () => {
    for (let i = 0; i < (SOAK ? 100 : 6); i++) {
      const tracer = startMultitrace(['count', 'tick', '--', behaves(), 'wait']);
      onTestFinished(() => tracer.stop());
      await tracer.expectOutput(/ready/);
      const [pid] = descendants(tracer.pid);
      // Both are told together.
      tracer.child.kill('SIGSTOP');
      await until('it stands', () => processState(tracer.pid) === 'T');
      process.kill(pid, 'SIGKILL');
      await until('the command has ended', () => processState(pid) === 'Z');
      tracer.child.kill('SIGINT');
      tracer.child.kill('SIGCONT');
      const done = await tracer.ended;
      expect(done.status, describeRun(done)).toBe(137);
    }
  }, 60_000);

  test('Ctrl-C to a program that handles it: its own exit status', async ({ skip }) => {
    skip(noScript !== undefined, noScript);
    const session = onTerminal(BEHAVES_LINE('--', `'${behaves()}'`, 'patient'));
    onTestFinished(() => session.stop());
    await session.expectOutput(/ready/);
    await new Promise(resolve => setTimeout(resolve, 300));
    session.child.stdin!.write('\x03');
    await session.expectOutput(/interrupted 1/);
    await session.expectOutput(/\btick\b/);
    session.child.stdin!.end();
    const done = await session.ended;
    expect(done.status, describeRun(done)).toBe(9);
  }, 60_000);

  test('Ctrl-Z stops both, and the shell continues them', async ({ skip }) => {
    const reason = noScript ?? missingCommand('bash');
    skip(reason !== undefined, reason);
    const session = new Running('script', ['-qec', 'bash --norc --noprofile -i', '/dev/null'], {
      keepInput: true,
      timeoutMs: 40_000,
    });
    onTestFinished(() => session.stop());
    session.say(`PS1='prompt> '; ${BEHAVES_LINE('--', `'${behaves()}'`, 'patient')}`);
    await session.expectOutput(/ready \d+/);
    await new Promise(resolve => setTimeout(resolve, 300));
    session.child.stdin!.write('\x1a');
    await session.expectOutput(/Stopped/);
    session.say('echo back in the ""shell; fg');
    await session.expectOutput(/^back in the shell/m);
    await new Promise(resolve => setTimeout(resolve, 300));
    session.child.stdin!.write('\x03');
    await session.expectOutput(/interrupted 1/);
    await session.expectOutput(/CALLS|tick/);
    session.say('exit 0');
    await session.ended;
  }, 60_000);
});

describe.skipIf(lacking)('signals to us', () => {
  test('SIGINT to us alone: the result comes at once, and the program goes on', async () => {
    const traced = startMultitrace(['count', 'tick', '--json', '--', behaves(), 'wait']);
    onTestFinished(() => traced.stop());
    await traced.expectOutput(/^ready/, 'stderr');
    const [pid] = descendants(traced.pid);
    expect(pid).toBeGreaterThan(0);
    await new Promise(resolve => setTimeout(resolve, 300));
    const told = performance.now();
    traced.child.kill('SIGINT');
    await traced.expectOutput(/^\{.*\}\n$/);
    expect(performance.now() - told, 'without waiting for the program, which never ends').toBeLessThan(
      10_000,
    );
    const report = JSON.parse(traced.stdoutSoFar) as { exit: unknown };
    expect(report.exit).toEqual({ code: null, signal: null });
    expect(processState(pid), 'the program goes on').toMatch(/[SR]/);
    process.kill(pid, 'SIGTERM');
    await traced.ended;
  });

  test('a signal to the program is the program’s', async () => {
    const traced = startMultitrace(['count', 'tick', '--json', '--', behaves(), 'patient']);
    onTestFinished(() => traced.stop());
    const [, pid] = await traced.expectOutput(/^ready (\d+)/, 'stderr');
    process.kill(Number(pid), 'SIGINT');
    const done = await traced.ended;
    expect(parseReport(done).exit, describeRun(done)).toEqual({ code: 9, signal: null });
    expect(done.stderr).toMatch(/^interrupted 1$/m);
  });

  test('the program can be stopped and continued', async () => {
    const traced = startMultitrace(['count', 'tick', '--json', '--', behaves(), 'patient']);
    onTestFinished(() => traced.stop());
    const [, text] = await traced.expectOutput(/^ready (\d+)/, 'stderr');
    const pid = Number(text);
    process.kill(pid, 'SIGSTOP');
    await until('it stops', () => /[Tt]/.test(processState(pid) ?? ''));
    await new Promise(resolve => setTimeout(resolve, 300));
    expect(processState(pid), 'it stays stopped').toMatch(/[Tt]/);
    process.kill(pid, 'SIGCONT');
    await until('it goes on', () => /[SR]/.test(processState(pid) ?? ''));
    process.kill(pid, 'SIGINT');
    expect(parseReport(await traced.ended).exit).toEqual({ code: 9, signal: null });
  });
});

test('npm start forwards SIGTERM and passes the status through', async ({ skip }) => {
  skip(lacking !== undefined, lacking);
  const child = spawn(
    process.execPath,
    [`${ROOT}/scripts/start.mjs`, 'count', 'tick', '--', behaves(), 'exit', '77'],
    { stdio: 'ignore' },
  );
  const status = await new Promise(resolve => child.on('exit', resolve));
  expect(status).toBe(77);
  const target = new Running(behaves(), ['wait']);
  onTestFinished(() => target.stop());
  await target.expectOutput(/^ready/);
  const running = new Running(process.execPath, [
    `${ROOT}/scripts/start.mjs`,
    'count',
    'tick',
    '--json',
    '-p',
    `${target.pid}`,
  ]);
  onTestFinished(() => running.stop());
  await until('it is attached', () => changedCode(target.pid).changed.length > 0);
  await new Promise(resolve => setTimeout(resolve, 300));
  running.child.kill('SIGTERM');
  const done = await running.ended;
  expect(countOf(parseReport(done), 'tick'), describeRun(done)).toBeGreaterThan(0);
});
