/**
 * What a killed multitrace leaves in a process is found and put right by the next one, and never touched while the
 * first one lives.
 */

import { expect, onTestFinished, test } from 'vitest';
import { describeRun, multitrace, Running, startMultitrace } from './support/command.js';
import { compileTarget } from './support/compile.js';
import { changedCode, mappings, tracerOf, until } from './support/process.js';
import { countOf, parseReport } from './support/report.js';
import { missingCommand } from './support/skip.js';

const THREADS = 16;
const lacking = missingCommand('gcc');
const REGION = /memfd:multitrace/;

async function startLoad(flags: readonly string[]): Promise<Running> {
  const load = new Running(compileTarget({ source: 'load.c', flags }), [], {
    keepInput: true,
    timeoutMs: 120_000,
  });
  onTestFinished(() => load.stop());
  await load.expectOutput(/^pid \d+\n/);
  return load;
}

async function attached(load: Running): Promise<Running> {
  const tracer = startMultitrace(['count', 'work_*', 'libc:*', '-p', `${load.pid}`, '--json'], {
    timeoutMs: 60_000,
  });
  onTestFinished(() => tracer.stop());
  await until('the process is patched', () => changedCode(load.pid).changed.length > 200);
  return tracer;
}

for (const [what, flags] of [
  ['moved instructions', []],
  ['nop sleds', ['-fpatchable-function-entry=9']],
] as const)
  test.skipIf(lacking !== undefined)(`a killed tracer is tidied up after (${what})`, async () => {
    const load = await startLoad(flags);
    const first = await attached(load);
    first.child.kill('SIGKILL');
    await first.ended;
    expect(changedCode(load.pid).changed.length).toBeGreaterThan(200);
    const second = startMultitrace(['count', 'work_*', '-p', `${load.pid}`, '--json', '--all'], {
      timeoutMs: 60_000,
    });
    onTestFinished(() => second.stop());
    // The names of regions have the tracer's number. Those that the first one left go with all that it patched.
    const regionsOf = (tracer: Running) =>
      mappings(load.pid).filter(({ path }) => path.startsWith(`/memfd:multitrace-${tracer.pid}`));
    await until('the second tracer has tidied up', () => regionsOf(first).length === 0);
    await until('the second tracer has attached', () => {
      const { changed } = changedCode(load.pid);
      return (
        changed.some(where => where.includes('/load+')) &&
        regionsOf(second).length >= 3 &&
        tracerOf(load.pid) === 0
      );
    });
    expect(changedCode(load.pid).changed.filter(where => where.includes('/libc.'))).toEqual([]);
    load.say('run 100');
    await load.expectOutput(/^ran \d+\n/m);
    second.child.kill('SIGINT');
    const ended = await second.ended;
    const report = parseReport(ended);
    expect(report.attached, describeRun(ended)).toBe(200);
    expect(countOf(report, 'work_007')).toBe(100 * THREADS);
    expect(changedCode(load.pid).changed).toEqual([]);
    expect(mappings(load.pid).filter(m => REGION.test(m.path))).toEqual([]);
  });

test.skipIf(lacking !== undefined)(
  'two tracers at once: the second is told of the first, which goes on',
  async () => {
    const load = await startLoad([]);
    const first = await attached(load);
    const second = await multitrace(['count', 'work_*', '-p', `${load.pid}`]);
    expect(second.status).toBe(1);
    expect(second.stderr).toMatch(
      new RegExp(
        `^multitrace: process ${load.pid} is traced by another multitrace \\(process ${first.pid}\\) already`,
      ),
    );
    load.say('run 10');
    await load.expectOutput(/^ran \d+\n/m);
    first.child.kill('SIGINT');
    const ended = await first.ended;
    expect(countOf(parseReport(ended), 'work_007'), describeRun(ended)).toBe(10 * THREADS);
    expect(changedCode(load.pid).changed).toEqual([]);
  },
);
