/**
 * Thousands of kernel functions counted at once while a shell works with files and the network: the machine lives, the
 * counts can be believed, and nothing is left behind.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Way } from '../../src/kernel/kernel.js';
import { Guest } from './guest.js';
import type { GuestProcess } from './guest_process.js';
import { kernels, type VmKernel } from './kernels.js';

/** What the output calls a way. */
const NAMES: Readonly<Record<Way, RegExp>> = {
  tracing_multi: /^one native tracing multi-link/,
  kprobe_multi: /kprobe multi-link/,
  tracing: /tracing link/,
};
/** The long form. */
const ALL = process.env.MULTITRACE_VM === 'all';
/** Under load. */
const SECONDS = ALL ? 20 : 5;

/** Files, directories and a server on the loopback device, round and round; each round's number is in /tmp/rounds. */
const WORK = `
mkdir -p /tmp/www; cd /tmp
dd if=/dev/urandom of=www/file bs=4k count=32 2>/dev/null
httpd -p 127.0.0.1:8080 -h /tmp/www
round=0
while [ ! -e /tmp/stop ]; do
  dd if=www/file of=copy bs=1k 2>/dev/null
  find /sys/class /proc/self > found 2>/dev/null
  wget -q -O got http://127.0.0.1:8080/file && cmp got www/file || echo "the file is not the same"
  rm copy got
  round=$((round + 1)); echo $round > rounds
done
echo "ended after $round"
`;

interface Load {
  readonly way: Way;
  readonly selectors: readonly string[];
  readonly atLeast: number;
  readonly called: number;
}

function loadsOf({ name }: VmKernel): readonly Load[] {
  const all = ['kernel:*'];
  // With vfs_read and tcp_v4_connect: thousands.
  const some = ['kernel:[tv]*', 'kernel:s[eko]*'];
  const few = ['kernel:vfs_*', 'kernel:tcp_*', 'kernel:ip_*'];
  const each: Load = { way: 'tracing', selectors: few, atLeast: 250, called: 30 };
  if (name === 'newest' && !ALL)
    return [{ way: 'tracing_multi', selectors: some, atLeast: 2000, called: 100 }];
  if (name === 'newest') return [{ way: 'tracing_multi', selectors: all, atLeast: 40_000, called: 500 }];
  if (name === '6.12') return [{ way: 'kprobe_multi', selectors: all, atLeast: 30_000, called: 500 }, each];
  return [each];
}

for (const kernel of kernels()) {
  if ('missing' in kernel) {
    describe(`kernel ${kernel.name}`, () => it.skip(`bears load (${kernel.missing})`, () => {}));
    continue;
  }
  describe(`kernel ${kernel.name} under load`, () => {
    let guest: Guest;
    let work: GuestProcess;
    const rounds = async (): Promise<number> => Number((await guest.get('/tmp/rounds')).toString());
    /** Waits till the loop has gone on by so many rounds. */
    const moreRounds = async (more: number, from: number): Promise<void> => {
      for (let i = 0; (await rounds()) < from + more; i++) {
        if (i > 600) throw new Error(`the loop stands still at round ${await rounds()}`);
        await new Promise(resolve => setTimeout(resolve, 100));
      }
    };
    beforeAll(async () => {
      guest = await Guest.boot(kernel, { processors: 1 });
      await guest.put('/tmp/rounds', Buffer.from('0'));
      work = await guest.spawn(['sh', '-c', WORK]);
      await moreRounds(2, 0);
    });
    afterAll(async () => {
      await guest.put('/tmp/stop', Buffer.from(''));
      const done = await work.waitForEnd();
      expect(done.stdout).toMatch(/^ended after \d+\n$/);
      expect(await guest.close()).toEqual([]);
    });

    for (const { way, selectors, atLeast, called } of loadsOf(kernel))
      it(`${way}: ${selectors.join(' ')} is counted, and detached clean`, { timeout: 700_000 }, async () => {
        const [before] = await guest.script('leftovers');
        const counting = await guest.spawn([
          ...['node', '--min-semi-space-size=16', '/app/bin/multitrace', 'count', ...selectors],
          ...['--way', way],
        ]);
        await counting.expectOutput(/Ctrl-C ends/, 'stderr', 400_000);
        const from = await rounds();
        const began = performance.now();
        await new Promise(resolve => setTimeout(resolve, SECONDS * 1000));
        await moreRounds(2, from);
        const done = (await rounds()) - from;
        const seconds = (performance.now() - began) / 1000;
        await counting.kill('SIGINT');
        const { status, stdout, stderr } = await counting.waitForEnd(200_000);
        expect(status, stderr).toBe(0);
        const number = (text: string): number => Number(text.replaceAll(',', ''));
        const counted = new Map(
          [...stdout.matchAll(/^ *([\d,]+) {2}(\S+) +kernel$/gm)].map(([, count, name]) => [
            name,
            number(count),
          ]),
        );
        const summary = /([\d,]+) of [\d,]+ functions of the kernel counted by (.*) \(attached in (\d+) ms\)/;
        const [said, attached, by] = summary.exec(stderr) ?? [];
        process.stderr.write(
          `kernel ${kernel.name}: ${said}; ${done} rounds in ${seconds.toFixed(1)} s; ${counted.size} were called\n`,
        );
        expect(by).toMatch(NAMES[way]);
        expect(number(attached)).toBeGreaterThanOrEqual(atLeast);
        expect(counted.size).toBeGreaterThanOrEqual(called);
        // Each round copies 128 blocks, reads and writes them, and reads the file from a socket.
        expect(counted.get('vfs_read')).toBeGreaterThan(128 * done);
        expect(counted.get('vfs_write')).toBeGreaterThan(128 * done);
        expect(counted.get('tcp_v4_connect')).toBeGreaterThanOrEqual(done);
        const [after] = await guest.script('leftovers');
        expect(after).toEqual(before);
        expect((await guest.get('/sys/kernel/tracing/enabled_functions')).toString()).toBe('');
        await moreRounds(2, await rounds());
      });
  });
}
