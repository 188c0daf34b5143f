import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { findGadgets } from './heal.js';
import { readMappings } from './mappings.js';
import type { TracedProcess } from './process.js';
import { RemoteThread } from './remote.js';
import { resolveCommand, spawnStopped } from './spawn.js';

const folder = mkdtempSync(join(tmpdir(), 'multitrace-spawn-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function finish(child: TracedProcess): Promise<void> {
  for (let i = 0; i < 500 && child.poll() !== 'ended'; i++) await new Promise(done => setTimeout(done, 10));
  expect(child.exit).toBeDefined();
}

/** Runs a shell script to its end; its exit and what it wrote to its standard output. */
async function runScript(
  script: string,
  environment?: NodeJS.ProcessEnv,
): Promise<{ child: TracedProcess; output: string }> {
  const path = join(folder, 'output');
  const fd = openSync(path, 'w');
  const child = spawnStopped(['/bin/sh', '-c', script, 'name', 'one', 'two words', ''], {
    stdout: fd,
    ...(environment === undefined ? {} : { environment }),
  });
  closeSync(fd);
  child.resumeAll();
  await finish(child);
  return { child, output: readFileSync(path, 'utf8') };
}

test('arguments, environment and exit code pass unchanged', async () => {
  const { child, output } = await runScript('printf "%s|" "$0" "$@" "$VALUE"; exit 213', { VALUE: 'a=b ü' });
  expect(output).toBe('name|one|two words||a=b ü|');
  expect(child.exit).toEqual({ code: 213 });
});

test('death by a signal is seen as such', async () => {
  const { child } = await runScript('kill -TERM $$');
  expect(child.exit).toEqual({ signal: 15 });
});

test('the child ignores no signal, blocks none, and SIGPIPE kills it', async () => {
  const { output } = await runScript('grep -E "^Sig(Blk|Ign)" /proc/self/status');
  expect(output).toMatch(/SigBlk:\s+0+\nSigIgn:\s+0+\n/);
});

test('a signal sent to the child is delivered to its handler', async () => {
  const { child, output } = await runScript('trap "echo caught; exit 5" USR1; kill -USR1 $$; sleep 5');
  expect(output).toBe('caught\n');
  expect(child.exit).toEqual({ code: 5 });
});

test('a script without a #! line is run by sh', async () => {
  const path = join(folder, 'plain');
  writeFileSync(path, 'exit 9\n', { mode: 0o755 });
  const child = spawnStopped([path]);
  child.resumeAll();
  await finish(child);
  expect(child.exit).toEqual({ code: 9 });
});

test('a script whose interpreter is missing is refused with a sentence', () => {
  const path = join(folder, 'lost');
  writeFileSync(path, '#!/nowhere/at/all\n', { mode: 0o755 });
  expect(() => spawnStopped([path])).toThrow(/could not run .*lost: its interpreter .* is not there/);
});

test('commands are found on the PATH, and what is not there or not executable is told', () => {
  expect(resolveCommand('sh', { PATH: '/nowhere:/bin' })).toBe('/bin/sh');
  expect(() => resolveCommand('no-such-thing', { PATH: '/bin' })).toThrow(
    /no program 'no-such-thing' on the PATH/,
  );
  expect(() => resolveCommand('/etc/passwd', {})).toThrow(/not executable/);
  expect(() => resolveCommand('./missing', {})).toThrow(/no program \.\/missing/);
});

test('a child stands at its first instruction: nothing of it has run, and system calls can be made in it', async () => {
  const child = spawnStopped(['/bin/sleep', '0']);
  const mappings = readMappings(child.pid);
  // The dynamic linker has not mapped any library yet.
  expect(mappings.some(m => m.path.includes('libc.so'))).toBe(false);
  const remote = RemoteThread.borrow(child, findGadgets(child, mappings)!, mappings);
  expect(remote.call('getpid', 39)).toBe(BigInt(child.pid));
  expect(() => remote.call('close', 3, 12345)).toThrow(
    /close made in process \d+ for us failed with errno 9/,
  );
  remote.giveBack();
  child.resumeAll();
  await finish(child);
  expect(child.exit).toEqual({ code: 0 });
});

test('a process stopped fifty times in its sleep still sleeps to the end and exits with 0', async () => {
  const from = performance.now();
  const child = spawnStopped(['/bin/sleep', '1']);
  child.resumeAll();
  await new Promise(done => setTimeout(done, 100));
  for (let i = 0; i < 50; i++) {
    child.stopAll();
    const mappings = readMappings(child.pid);
    const remote = RemoteThread.borrow(child, findGadgets(child, mappings)!, mappings);
    expect(remote.call('getpid', 39)).toBe(BigInt(child.pid));
    remote.giveBack();
    child.resumeAll();
    await new Promise(done => setTimeout(done, 5));
  }
  await finish(child);
  expect(child.exit).toEqual({ code: 0 });
  expect(performance.now() - from).toBeGreaterThan(990);
});
