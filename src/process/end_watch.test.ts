/** The end of a process that is only looked at. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { EndWatch } from './end_watch.js';

function started(command: string, ...args: string[]): ChildProcess & { readonly pid: number } {
  const child = spawn(command, args, { stdio: 'ignore' }) as ChildProcess & { readonly pid: number };
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

test('a process that runs has not ended; one that was killed has, reaped or not', async () => {
  const child = started('/bin/sleep', '100');
  using watch = new EndWatch(child.pid);
  expect(watch.ended).toBe(false);
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
  expect(watch.ended).toBe(true);
  using late = new EndWatch(child.pid);
  expect(late.ended).toBe(true);
});

test('a zombie has ended', async () => {
  // The shell's child ends at once, and sleep, which the shell becomes, waits for no child.
  const parent = spawn('/bin/sh', ['-c', 'true & echo $!; exec sleep 100'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  onTestFinished(() => void parent.kill('SIGKILL'));
  const [line] = (await once(parent.stdout, 'data')) as [Buffer];
  using watch = new EndWatch(Number(line));
  await expect.poll(() => watch.ended, { timeout: 20_000 }).toBe(true);
});
