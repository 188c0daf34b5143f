/** The virtual machine itself: what every test of the running kernel relies on. */

import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Guest } from './guest.js';
import { kernels } from './kernels.js';

for (const kernel of kernels()) {
  if ('missing' in kernel) {
    describe(`kernel ${kernel.name}`, () => it.skip(`boots (${kernel.missing})`, () => {}));
    continue;
  }
  describe(`kernel ${kernel.name}`, () => {
    let guest: Guest;
    beforeAll(async () => {
      const started = performance.now();
      guest = await Guest.boot(kernel);
      process.stderr.write(
        `kernel ${kernel.version} ready after ${Math.round(performance.now() - started)} ms\n`,
      );
    });
    afterAll(async () => {
      await guest?.close();
    });

    it('is the kernel that was asked for, with BTF and the file systems that tracing needs', async () => {
      expect((await guest.run(['uname', '-r'])).stdout).toBe(`${kernel.version}\n`);
      const btf = await guest.get('/sys/kernel/btf/vmlinux');
      expect(btf.readUInt16LE(0)).toBe(0xeb9f);
      expect(btf.length).toBeGreaterThan(1e6);
      const mounts = (await guest.run(['cat', '/proc/mounts'])).stdout;
      for (const type of ['tracefs', 'debugfs', 'bpf', 'cgroup2']) {
        expect(mounts).toMatch(new RegExp(` ${type} `));
      }
    });

    it("runs node, koffi and bpf(2) through the project's own modules", async () => {
      const [{ fd }] = await guest.script<{ fd: number }>('bpf_map');
      expect(fd).toBeGreaterThan(2);
      const help = await guest.multitrace(['--help']);
      expect(help).toMatchObject({ status: 0, stderr: '' });
      expect(help.stdout).toContain('Usage: multitrace');
    });

    it('carries megabytes whole in both directions, and soon', async () => {
      const content = Buffer.alloc(5 << 20);
      for (let i = 0; i < content.length; i += 4) content.writeUInt32LE(Math.imul(i, 2654435761) >>> 0, i);
      await guest.put('/tmp/content', content);
      expect((await guest.get('/tmp/content')).equals(content)).toBe(true);
      const { bytes } = await guest.run(['cat'], { input: content });
      expect(bytes.equals(content)).toBe(true);
    });

    it('passes on status, signal, streams, environment and input', async () => {
      const script = 'read line; echo "$line $WORD"; echo lost >&2; exit 7';
      const done = await guest.run(['sh', '-c', script], { input: 'first\n', env: { WORD: 'second' } });
      expect(done).toMatchObject({ status: 7, signal: null, stdout: 'first second\n', stderr: 'lost\n' });
      expect(await guest.run(['sh', '-c', 'kill -9 $$'])).toMatchObject({ status: null, signal: 'SIGKILL' });
      await expect(guest.run(['no-such-program'])).rejects.toThrow('ENOENT');
      await expect(guest.get('/no/such/file')).rejects.toThrow('ENOENT');
    });

    it('ends what runs too long, with what it started', async () => {
      const hangs = guest.run(['sh', '-c', 'echo begun; sleep 1000 & wait'], { timeoutMs: 500 });
      await expect(hangs).rejects.toThrow(/still running after 500 ms[\s\S]*begun/);
      expect((await guest.run(['ps'])).stdout).not.toContain('sleep 1000');
    });

    it('hears the end of a program that has ended before its start is heard of', async () => {
      for (let i = 0; i < 5; i++) {
        const ended = guest.run(['echo', 'here'], { timeoutMs: 20_000 });
        // All that the guest says meanwhile comes at once.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
        expect(await ended).toMatchObject({ status: 0, stdout: 'here\n' });
      }
    });

    it('talks to a program that runs in the background, and signals it', async () => {
      const echo = await guest.spawn(
        ['sh', '-c', 'trap "echo trapped; exit 3" USR1; while read l; do echo "<$l>"; done'],
        { keepInput: true },
      );
      echo.say('one');
      await echo.expectOutput(/<one>/);
      await echo.kill('SIGUSR1');
      echo.say('two');
      expect(await echo.waitForEnd()).toMatchObject({
        status: 3,
        stdout: expect.stringContaining('trapped'),
      });
    });

    it('reports nothing in its log that a kernel complains of', async () => {
      expect(await guest.complaints()).toEqual([]);
      await guest.run(['sh', '-c', 'echo "<3>BUG: said by a test" > /dev/kmsg']);
      expect(await guest.complaints()).toEqual([expect.stringContaining('BUG: said by a test')]);
    });

    it('says in one sentence that the kernel panicked, and leaves no qemu behind', async () => {
      const crash = guest.run(['sh', '-c', 'echo c > /proc/sysrq-trigger']);
      await expect(crash).rejects.toThrow(
        `the ${kernel.name} kernel (${kernel.version}) panicked: Kernel panic - not syncing: sysrq triggered crash\n`,
      );
      await expect(guest.run(['true'])).rejects.toThrow('panicked');
      expect(guest.alive).toBe(false);
      expect(existsSync(`/proc/${guest.pid}`)).toBe(false);
      expect(await guest.close()).toEqual([]);
    });
  });
}
