/**
 * The running kernel as the machine, where it can't be: whatever this one refuses is said in one sentence, within two
 * seconds, and nothing is started. Kernels that allow it are in virtual machines (tests/vm).
 */

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FEATURES } from '../src/kernel/linux/features.js';
import { BPF_PROGRAMS, compileBpfFile, missingBpfCompiler } from './support/bpf.js';
import { describeRun, multitrace, type Run, run } from './support/command.js';
import { MULTITRACE } from './support/paths.js';
import { expectOneSentence } from './support/sentence.js';
import { missingFile, notRoot } from './support/skip.js';

const MOST_MS = 2000;
/** A machine that does other things as well may take longer, once or twice. */
const TRIES = 4;
const NOBODY = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
const NO_PRIVILEGE = /needs CAP_BPF and CAP_PERFMON, which this process does not have: run it as root/;
const OBJECT = join(BPF_PROGRAMS, 'kernel', 'vfs.bpf.c');

interface Features {
  readonly command: string;
  readonly machine: string;
  readonly release: string;
  readonly features: readonly {
    readonly name: string;
    readonly what: string;
    readonly there: boolean;
    readonly why: string | null;
  }[];
  readonly ways: readonly {
    readonly attachType: string;
    readonly ways: readonly string[];
    readonly why: string | null;
  }[];
}

/** Of several runs the first that took no longer than it may, or the last. */
async function soon(start: () => Promise<Run>): Promise<Run> {
  let done = await start();
  for (let i = 1; i < TRIES && done.durationMs > MOST_MS; i++) done = await start();
  return done;
}

const asNobody = (...args: string[]): Promise<Run> => run('setpriv', [...NOBODY, MULTITRACE, ...args]);
const noTypes = missingFile('/sys/kernel/btf/vmlinux', '/proc/kallsyms');

describe.skipIf(noTypes !== undefined)(`the running kernel${noTypes ? ` (${noTypes})` : ''}`, () => {
  let features: Features;
  let scratch: string;
  beforeAll(async () => {
    features = JSON.parse((await multitrace(['features', '--json'])).stdout) as Features;
    scratch = mkdtempSync(join(tmpdir(), 'multitrace-refused-'));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  const refusal = (attachType = 'fentry') =>
    features.ways.find(way => way.attachType === attachType)?.why ?? undefined;

  /** Skips where this kernel allows it. */
  const refusedHere = (skip: (why: string) => never): string => {
    const why = refusal();
    if (why === undefined) skip('this kernel can be traced: tests/vm traces kernels');
    return why as string;
  };

  test('features says of everything whether it is there, or why not, and of each type of program by which way', async () => {
    expect(features.features.map(({ name }) => name)).toEqual(Object.keys(FEATURES));
    for (const { there, why } of features.features) expect(there).toBe(why === null);
    expect(features.ways.map(({ attachType }) => attachType)).toEqual([
      'fentry',
      'fexit',
      'fsession',
      'fmod_ret',
    ]);
    for (const { ways, why } of features.ways) expect(ways.length === 0).toBe(why !== null);
    const table = await multitrace(['features']);
    expect(table.status, describeRun(table)).toBe(0);
    for (const { what, there } of features.features)
      expect(table.stdout).toMatch(
        new RegExp(`^${there ? 'yes' : 'no '}  ${what.replace(/[()]/g, '\\$&')}( |$)`, 'm'),
      );
  });

  for (const command of ['count', 'latency', 'trace'])
    test(`${command} says why, starts no command, and exits 1 within two seconds`, async context => {
      const why = refusedHere(context.skip);
      const trace = join(scratch, command);
      const done = await soon(() => multitrace([command, 'kernel:tcp_*', '--', '/bin/touch', trace]));
      expectOneSentence(done, /^multitrace: the kernel can't be traced: /);
      expect(done.stderr).toContain(why);
      expect(done.status).toBe(1);
      expect(done.durationMs, describeRun(done)).toBeLessThan(MOST_MS);
      expect(existsSync(trace)).toBe(false);
    });

  test('a function that the kernel does not have is told as such, before anything else', async () => {
    for (const command of ['count', 'latency', 'trace', 'list']) {
      const done = await multitrace([command, 'kernel:no_such_*']);
      expectOneSentence(done, /no function of the kernel matched kernel:no_such_\*/);
      expect(done.status).toBe(1);
    }
    const otherName = await multitrace(['count', 'vmlinux:no_such_*']);
    expectOneSentence(otherName, /no function of the kernel matched/);
    const withoutModule = await multitrace(['count', '--machine', 'kernel', 'no_such_function']);
    expectOneSentence(withoutModule, /no function of the kernel matched no_such_function/);
  });

  test('list needs no privilege of the kernel, and says of each function whether it could be attached', async () => {
    const done = await multitrace(['list', 'kernel:vfs_read*', '--json']);
    expect(done.status, describeRun(done)).toBe(0);
    const { machine, functions } = JSON.parse(done.stdout) as {
      machine: string;
      functions: readonly { module: string; function: string; attachable: boolean; reason: string | null }[];
    };
    expect(machine).toBe('kernel');
    const read = functions.find(({ function: name }) => name === 'vfs_read');
    expect(read).toMatchObject({ module: 'kernel', attachable: true, reason: null });
  });

  describe('another user than root', () => {
    const reason = notRoot();
    test.skipIf(reason !== undefined)(
      `is told what is missing and what to do${reason ? ` (${reason})` : ''}`,
      async () => {
        for (const command of ['count', 'latency', 'trace']) {
          const done = await soon(() => asNobody(command, 'kernel:tcp_*'));
          expectOneSentence(done, NO_PRIVILEGE);
          expect(done.status).toBe(1);
          expect(done.durationMs, describeRun(done)).toBeLessThan(MOST_MS);
        }
        const table = await asNobody('features', '--json');
        expect(table.status, describeRun(table)).toBe(0);
        const { ways } = JSON.parse(table.stdout) as Features;
        for (const { why } of ways) expect(why).toMatch(NO_PRIVILEGE);
      },
    );
  });

  describe('bad usage', () => {
    test('of options is told in a sentence, with status 2', async () => {
      const bad: readonly (readonly [args: readonly string[], about: RegExp])[] = [
        [['count', 'kernel:tcp_*', '-p', '1', '--', '/bin/true'], /both -p and a command after -- are given/],
        [['count', 'kernel:tcp_*', '--way', 'perhaps'], /--way <way>.*tracing_multi, kprobe_multi, tracing/],
        [['count', 'kernel:tcp_*', '--max-links', '0'], /--max-links/],
        [['count', 'kernel:tcp_*', '--machine', 'moon'], /--machine <machine>.*process, kernel/],
        [['count', '--way', 'tracing', 'main', '--', '/bin/true'], /--way is for the kernel/],
        [['latency', '--max-links', '5', 'main', '--', '/bin/true'], /--max-links is for the kernel/],
        [['list', 'kernel:tcp_*', '--file', '/bin/true'], /leave out --file/],
        [['list', 'kernel:tcp_*', '--', '/bin/true'], /leave out a command/],
        [['list', 'kernel:tcp_*', '-p', '1'], /leave out -p/],
      ];
      for (const [args, about] of bad) {
        const done = await multitrace(args);
        expectOneSentence(done, about);
        expect(done.status, describeRun(done)).toBe(2);
      }
    });

    test('a command that is not there is told before the kernel is asked for anything', async () => {
      expectOneSentence(await multitrace(['count', 'kernel:tcp_*', '--', '/no/such/program']), /no program/);
    });

    test('--machine process takes the name of a module as that of a file', async () => {
      const done = await multitrace(['count', '--machine', 'process', 'kernel:main', '--', '/bin/true']);
      expect(done.stderr).toMatch(/no function of process \d+ matched kernel:main/);
    });
  });

  const uncompiled = missingBpfCompiler();
  describe.skipIf(uncompiled !== undefined)(`objects${uncompiled ? ` (${uncompiled})` : ''}`, () => {
    test('run takes the kernel for one whose programs all name it, and says why it is refused', async context => {
      const why = refusedHere(context.skip);
      const done = await multitrace(['run', compileBpfFile(OBJECT), '--', '/bin/true']);
      expectOneSentence(done, /^multitrace: the kernel can't be traced: /);
      expect(done.stderr).toContain(why);
      expect(done.status).toBe(1);
    });

    test('run --machine process takes it for a process', async () => {
      const done = await multitrace([
        'run',
        '--machine',
        'process',
        compileBpfFile(OBJECT),
        '--',
        '/bin/true',
      ]);
      expect(done.stderr, describeRun(done)).toMatch(/no program was attached/);
    });

    test('run refuses what a process alone has', async () => {
      const object = compileBpfFile(OBJECT);
      expectOneSentence(await multitrace(['run', object, '-p', '1']), /-p is for functions of a process/);
      expectOneSentence(
        await multitrace(['run', object, '--allow-modify', 'kernel:*']),
        /--allow-modify is for processes/,
      );
    });

    test('verify --kernel gives the reason for each program, and exits 1', async context => {
      refusedHere(context.skip);
      const done = await multitrace(['verify', '--kernel', '--json', compileBpfFile(OBJECT)]);
      expect(done.status, describeRun(done)).toBe(1);
      const { machine, accepted, programs } = JSON.parse(done.stdout) as {
        machine: string;
        accepted: boolean;
        programs: readonly { accepted: boolean; error: string | null }[];
      };
      expect([machine, accepted]).toEqual(['kernel', false]);
      expect(programs.length).toBeGreaterThan(1);
      for (const program of programs) {
        expect(program.accepted).toBe(false);
        expect(program.error?.length).toBeGreaterThan(25);
      }
      expectOneSentence(
        await multitrace(['verify', '--kernel', '--file', '/bin/true', compileBpfFile(OBJECT)]),
        /with --kernel leave it out/,
      );
    });
  });
});
