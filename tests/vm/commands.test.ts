/** The commands on the running kernel: what they find, print and leave behind. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FEATURES } from '../../src/kernel/linux/features.js';
import { BPF_PROGRAMS, compileBpfFile, missingBpfCompiler } from '../support/bpf.js';
import { Guest } from './guest.js';
import type { GuestRun } from './guest_process.js';
import { kernels } from './kernels.js';

/** `npm run test:vm`: every kernel, and what takes its time. */
const ALL = process.env.MULTITRACE_VM === 'all';
const TRACEFS = '/sys/kernel/tracing';
const OBJECT = '/tmp/vfs.bpf.o';
/** Files that a process opens while it is traced. */
const OPENS = 200;
/** What `features` says of a kernel, as it was checked by hand. */
const MISSING: Readonly<Record<string, readonly string[]>> = {
  newest: [],
  '6.12': ['fentry_multi', 'fexit_multi', 'fsession_multi', 'fsession'],
  '6.1': [
    ...['fentry_multi', 'fexit_multi', 'fsession_multi', 'fsession'],
    ...['kprobe_multi', 'kprobe_session', 'session_kfuncs', 'rdonly_cast'],
  ],
};

interface Report {
  readonly machine: string;
  readonly way?: string | null;
  readonly exit: { readonly code: number | null };
  readonly matched: number;
  readonly attached: number;
  readonly functions: readonly {
    readonly module: string;
    readonly function: string;
    readonly count: number;
    readonly calls: number;
  }[];
}

const told = ({ status, stdout, stderr }: GuestRun) => `status ${status}\n${stdout}\n${stderr}`;

for (const kernel of kernels()) {
  if ('missing' in kernel) {
    describe(`kernel ${kernel.name}`, () =>
      it.skip(`is traced by the commands (${kernel.missing})`, () => {}));
    continue;
  }
  describe(`kernel ${kernel.name}`, () => {
    const uncompiled = missingBpfCompiler();
    const best =
      kernel.name === 'newest' ? 'tracing_multi' : kernel.name === '6.12' ? 'kprobe_multi' : 'tracing';
    let guest: Guest;
    beforeAll(async () => {
      guest = await Guest.boot(kernel);
      if (uncompiled === undefined)
        await guest.put(OBJECT, compileBpfFile(`${BPF_PROGRAMS}/kernel/vfs.bpf.c`));
    });
    afterAll(async () => {
      expect(await guest?.close()).toEqual([]);
    });

    /** Nothing of ours is left in the kernel's text. */
    const expectUntraced = async (): Promise<void> =>
      expect((await guest.get(`${TRACEFS}/enabled_functions`)).toString()).toBe('');

    it('features tells what is there, and leaves nothing behind', async () => {
      const done = await guest.multitrace(['features', '--json']);
      expect(done.status, told(done)).toBe(0);
      const { release, lockdown, features, ways } = JSON.parse(done.stdout) as {
        release: string;
        lockdown: string | null;
        features: readonly { name: string; there: boolean; why: string | null }[];
        ways: readonly { attachType: string; ways: readonly string[] }[];
      };
      expect(release).toBe(kernel.version);
      expect(['none', null]).toContain(lockdown);
      const missing = features.filter(({ there }) => !there).map(({ name }) => name);
      // Whether modules with types are loaded is the guest's affair.
      expect(missing.filter(name => name !== 'module_types').sort()).toEqual(
        [...(MISSING[kernel.name] ?? [])].sort(),
      );
      expect(features.map(({ name }) => name)).toEqual(Object.keys(FEATURES));
      for (const attachType of ['fentry', 'fexit', 'fsession'])
        expect(ways.find(way => way.attachType === attachType)?.ways[0]).toBe(best);
      expect(ways.find(way => way.attachType === 'fmod_ret')?.ways).toEqual(['tracing']);
      await expectUntraced();
    });

    it('count runs a command, has its status, and names the way', async () => {
      const done = await guest.multitrace([
        ...['count', 'kernel:vfs_open', 'vmlinux:vfs_read', '!kernel:vfs_readv', '--json', '--'],
        ...['/bin/busybox', 'sh', '-c', 'cat /proc/version > /tmp/out; exit 3'],
      ]);
      expect(done.status, told(done)).toBe(3);
      const report = JSON.parse(done.stdout) as Report;
      expect(report).toMatchObject({ machine: 'kernel', exit: { code: 3 }, matched: 2, attached: 2 });
      expect(report.way).toBe(best);
      expect(report).not.toHaveProperty('pauseMs');
      const counts = new Map(report.functions.map(({ function: name, count }) => [name, count]));
      expect(counts.get('vfs_open')).toBeGreaterThanOrEqual(2);
      expect(counts.get('vfs_read')).toBeGreaterThanOrEqual(1);
      expect((await guest.get('/tmp/out')).toString()).toContain('Linux version');
      await expectUntraced();
    });

    it('count counts functions of a module with those of the kernel itself', async () => {
      await guest.run(['/bin/busybox', 'insmod', '/modules/dummy.ko']);
      // One device, which is asked for its numbers each time.
      const done = await guest.multitrace([
        ...['count', 'dummy:*', 'kernel:vfs_read', '--json', '--'],
        ...['/bin/busybox', 'sh', '-c', 'for i in 1 2 3; do cat /proc/net/dev >&2; done'],
      ]);
      expect(done.status, told(done)).toBe(0);
      const report = JSON.parse(done.stdout) as Report;
      expect(report.way).toBe(best);
      expect(report.functions, told(done)).toContainEqual(
        expect.objectContaining({ module: 'dummy', function: 'dummy_get_stats64', count: 3 }),
      );
      expect(report.functions.find(one => one.module === 'kernel')?.count).toBeGreaterThanOrEqual(3);
      await expectUntraced();
    });

    it('count without a command ends on Ctrl-C with its table and status 0', async () => {
      const counting = await guest.spawn([
        ...['node', '--min-semi-space-size=16', '/app/bin/multitrace'],
        ...['count', 'kernel:vfs_*', '--top', '3'],
      ]);
      await counting.expectOutput(/functions of the kernel by .*, Ctrl-C ends/, 'stderr', 100_000);
      await guest.run(['/bin/busybox', 'cat', '/proc/version']);
      await counting.kill('SIGINT');
      const done = await counting.waitForEnd();
      expect(done.status, told(done)).toBe(0);
      expect(done.stdout).toMatch(/^CALLS +FUNCTION +MODULE$/m);
      expect(done.stdout).toMatch(/vfs_\w+ +kernel$/m);
      expect(done.stderr).toMatch(/functions of the kernel counted by .* \(attached in \d+ ms\)/);
      expect(done.stderr).not.toMatch(/stood still/);
      await expectUntraced();
    });

    it.each(ALL ? ['count', 'latency', 'trace'] : ['count'])(
      '%s -p sees the calls of one process alone, and ends with it',
      async command => {
        // Opened by the shell itself; the other process does the same, for longer.
        const opens = (times: number) =>
          `read go; i=0; while [ $i -lt ${times} ]; do : < /proc/version; i=$((i+1)); done`;
        const shell = (times: number) =>
          guest.spawn(['/bin/busybox', 'sh', '-c', opens(times)], { keepInput: true });
        const [mine, other] = [await shell(OPENS), await shell(100 * OPENS)];
        const tracing = await guest.spawn([
          ...['node', '--min-semi-space-size=16', '/app/bin/multitrace', command],
          ...['kernel:do_sys_openat2', '-p', `${mine.pid}`],
        ]);
        await tracing.expectOutput(
          new RegExp(`functions of the kernel by .* for process ${mine.pid}, Ctrl-C ends`),
          'stderr',
          100_000,
        );
        other.say('go');
        mine.say('go');
        expect((await mine.waitForEnd()).status).toBe(0);
        const done = await tracing.waitForEnd();
        await other.kill('SIGKILL');
        expect(done.status, told(done)).toBe(0);
        const calls =
          command === 'trace'
            ? (done.stdout.match(/do_sys_openat2/g) ?? []).length
            : Number(/^ *(\d+) .*do_sys_openat2 +kernel$/m.exec(done.stdout)?.[1]);
        // The kernel leaves out a run where another task was interrupted in the program: that is rare. The other process
        // makes a hundred times as many.
        expect(calls, told(done)).toBeGreaterThan(0.9 * OPENS);
        expect(calls, told(done)).toBeLessThanOrEqual(OPENS);
        if (command === 'trace') {
          // The line above each tree: ── time  name thread ──
          expect(done.stdout).toMatch(new RegExp(` ${mine.pid} ──$`, 'm'));
          expect(done.stdout).not.toMatch(new RegExp(` ${other.pid} ──$`, 'm'));
        }
        await expectUntraced();
      },
    );

    it('-p of no process is told', async () => {
      const done = await guest.multitrace(['count', 'kernel:vfs_*', '-p', '2000000']);
      expect(done.status, told(done)).toBe(1);
      expect(done.stderr).toBe('multitrace: there is no process 2000000; see `ps -e` for those that run\n');
    });

    it('trace shows trees with arguments, texts and results', async () => {
      const done = await guest.multitrace([
        ...['trace', 'kernel:vfs_open', '--entry', 'kernel:do_sys_openat2', '--json', '--'],
        ...['/bin/busybox', 'cat', '/proc/version', '/no/such/file'],
      ]);
      expect(done.status, told(done)).toBe(1);
      const lines = done.stdout.split('\n').flatMap(line => {
        try {
          return [JSON.parse(line) as Record<string, unknown>];
        } catch {
          // The command's own.
          return [];
        }
      });
      const calls = lines.filter(({ type }) => type === 'call');
      const opened = (path: string) =>
        calls.find(call => (call.args as { text?: string }[] | undefined)?.some(({ text }) => text === path));
      const found = opened('/proc/version');
      expect(found, told(done)).toMatchObject({ function: 'do_sys_openat2', end: 'returned', depth: 0 });
      expect(found?.result).toBeGreaterThanOrEqual(3);
      expect(calls.find(({ parent }) => parent === found?.id)).toMatchObject({
        function: 'vfs_open',
        depth: 1,
      });
      // -ENOENT
      expect(opened('/no/such/file')).toMatchObject({ result: -2 });
      expect(lines.at(-1)).toMatchObject({ type: 'end', machine: 'kernel', way: best, lost: 0 });
      await expectUntraced();
    });

    describe.skipIf(uncompiled !== undefined)(`objects${uncompiled ? ` (${uncompiled})` : ''}`, () => {
      it.runIf(ALL)('verify --kernel lets its verifier judge', async () => {
        const done = await guest.multitrace(['verify', '--kernel', '--json', OBJECT]);
        expect(done.status, told(done)).toBe(0);
        const { machine, accepted, programs } = JSON.parse(done.stdout) as {
          machine: string;
          accepted: boolean;
          programs: readonly { program: string; processed: number; target: { function: string } }[];
        };
        expect([machine, accepted]).toEqual(['kernel', true]);
        expect(programs.map(({ program }) => program)).toEqual(['on_read', 'any', 'on_write']);
        for (const { processed } of programs) expect(processed).toBeGreaterThan(2);
        expect(programs[0].target.function).toBe('vfs_read');
      });

      it('run attaches plain and multi programs, and prints what they print', async () => {
        const done = await guest.multitrace([
          ...['run', OBJECT, '--json', '--', '/bin/busybox', 'sh', '-c', 'echo hello > /tmp/hello'],
        ]);
        expect(done.status, told(done)).toBe(0);
        const report = JSON.parse(done.stdout) as {
          machine: string;
          programs: readonly { name: string; attached: number; way: string | null }[];
          maps: { calls: readonly { value: number }[] };
        };
        expect(report.machine).toBe('kernel');
        const byName = new Map(report.programs.map(program => [program.name, program]));
        expect(byName.get('on_read')).toMatchObject({ attached: 1, way: 'tracing' });
        expect(byName.get('on_write')).toMatchObject({ attached: 1, way: best });
        expect(byName.get('any')?.attached).toBeGreaterThan(20);
        expect(report.maps.calls.length).toBeGreaterThan(1);
        expect(done.stderr).toContain('wrote 6 of 6');
        await expectUntraced();
      });

      it.runIf(ALL)('run names the functions whose addresses are in maps', async () => {
        const done = await guest.multitrace([
          ...['run', OBJECT, '--', '/bin/busybox', 'sh', '-c', 'echo hello > /tmp/hello'],
        ]);
        expect(done.status, told(done)).toBe(0);
        expect(done.stdout).toMatch(/^wrote 6 of 6$/m);
        expect(done.stdout).toMatch(/kernel:vfs_open/);
        expect(done.stdout).not.toMatch(/\b1844\d{16}\b/);
      });
    });
  });
}

const newest = kernels().find(kernel => kernel.name === 'newest');
if (newest !== undefined && !('missing' in newest))
  describe('a kernel that is locked down (confidentiality)', () => {
    it.runIf(ALL)('is told as such, and what it still offers', async () => {
      await using guest = await Guest.boot(newest, { append: 'lockdown=confidentiality' });
      const done = await guest.multitrace(['features', '--json']);
      expect(done.status, told(done)).toBe(0);
      const { lockdown, features } = JSON.parse(done.stdout) as {
        lockdown: string | null;
        features: readonly { name: string; there: boolean; why: string | null }[];
      };
      expect(['confidentiality', null]).toContain(lockdown);
      const missing = features.filter(({ there }) => !there && there !== undefined);
      expect(missing.map(({ name }) => name).filter(name => name !== 'module_types')).toEqual([
        'ftrace',
        'kernel_memory',
      ]);
      for (const { name, why } of missing)
        if (name === 'kernel_memory') expect(why).toMatch(/locked down \(confidentiality\)/);

      // What reads no memory of the kernel may be: bpf(2) is not locked down here.
      const counted = await guest.multitrace([
        'count',
        'kernel:tcp_*',
        '--json',
        '--',
        '/bin/busybox',
        'true',
      ]);
      expect(counted.status, told(counted)).toBe(0);
      expect((JSON.parse(counted.stdout) as Report).attached).toBeGreaterThan(300);
      if (missingBpfCompiler() !== undefined) return;
      await guest.put(OBJECT, compileBpfFile(`${BPF_PROGRAMS}/both/arguments.bpf.c`));
      const reading = await guest.multitrace([
        ...['run', '--machine', 'kernel', OBJECT, '--', '/bin/busybox', 'true'],
      ]);
      expect(reading.status, told(reading)).toBe(1);
      expect(reading.stderr).toMatch(/locked down \(confidentiality\), and no program may read its memory/);
    });
  });
