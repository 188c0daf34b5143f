/** Run-time statistics of programs: as many runs as the program itself counted, in a time that can be. */

import { join } from 'node:path';
import { expect, test } from 'vitest';
import { compileBpf, compileBpfFile, compileBpfTarget, EXAMPLES, missingBpfCompiler } from './support/bpf.js';
import { multitrace } from './support/command.js';

const traced = test.skipIf(missingBpfCompiler() !== undefined);

interface Report {
  readonly programs: readonly { name: string; missed: number; runCount?: number; runTimeNs?: number }[];
  readonly maps: Record<string, readonly { value: number }[]>;
}

async function report(args: readonly string[]): Promise<Report & { durationMs: number }> {
  const done = await multitrace(args);
  expect(done.status, done.stderr).toBe(0);
  return { ...(JSON.parse(done.stdout) as Report), durationMs: done.durationMs };
}

traced('run --stats counts the runs that the program counts, and their time', async () => {
  const object = compileBpfFile(join(EXAMPLES, 'malloc_sizes.bpf.c'));
  const { programs, maps, durationMs } = await report([
    ...['run', object, '--stats', '--json', '--'],
    ...['sh', '-c', 'for i in 1 2 3; do echo $(expr $i + 1); done >/dev/null'],
  ]);
  const [{ runCount, runTimeNs }] = programs;
  const calls = maps.by_bits.reduce((sum, { value }) => sum + value, 0);
  expect(calls).toBeGreaterThan(10);
  expect(runCount).toBe(calls);
  // No run of it takes less than ten nanoseconds or so, and all of them no longer than the command.
  expect(runTimeNs).toBeGreaterThan(calls * 5);
  expect(runTimeNs).toBeLessThan(durationMs * 1e6);
});

traced('a modify-return program that is timed still says what its function returns', async () => {
  const outputs = [];
  for (const stats of [[], ['--stats']]) {
    const args = ['run', compileBpf('fmod_ret'), ...stats, '--allow-modify', '*', '--json', '--'];
    const { programs, ...rest } = await report([...args, compileBpfTarget()]);
    outputs.push(rest.maps);
    for (const program of programs) {
      if (stats.length > 0) expect(program.runCount).toBeGreaterThan(0);
      else expect(program).not.toHaveProperty('runCount');
    }
  }
  expect(outputs[1]).toEqual(outputs[0]);
});
