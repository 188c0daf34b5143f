/** A compiled object on each kernel: plain links, every kind of record and map, CO-RE, and what only a kernel has. */

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileBpfFile, missingBpfCompiler } from '../support/bpf.js';
import { ROOT } from '../support/paths.js';
import { Guest } from './guest.js';
import { kernels } from './kernels.js';

interface Facts {
  readonly pid: number;
  readonly attached: number;
  readonly records: readonly [readonly string[], readonly string[]];
  readonly values: Readonly<Record<string, number>>;
  readonly perCpu: number;
  readonly hash: readonly {
    readonly key: number;
    readonly value: { readonly pid: number; readonly comm: string };
  }[];
  readonly stacks: number;
  readonly printed: readonly string[];
  readonly runs: readonly { readonly name: string; readonly runs: number }[];
  readonly taskType: number;
  readonly jiffies: string;
}

const NOBODY = 0x7fff_fff0;

for (const kernel of kernels()) {
  const missing = 'missing' in kernel ? kernel.missing : missingBpfCompiler();
  if ('missing' in kernel || missing !== undefined) {
    describe(`kernel ${kernel.name}`, () => it.skip(`runs a compiled object (${missing})`, () => {}));
    continue;
  }
  describe(`a compiled object on kernel ${kernel.name}`, () => {
    let guest: Guest;
    let facts: Facts;
    let after: { readonly printedAfter: readonly string[] };
    beforeAll(async () => {
      const object = compileBpfFile(join(ROOT, 'tests', 'vm', 'bpf', 'kernel_facts.bpf.c'));
      guest = await Guest.boot(kernel, { files: { '/kernel_facts.bpf.o': object } });
      [facts, after] = (await guest.script('kernel_facts', ['/kernel_facts.bpf.o'])) as unknown as [
        Facts,
        typeof after,
      ];
    });
    afterAll(async () => {
      expect(await guest?.close()).toEqual([]);
    });

    it('sees each call once, with argument and result', () => {
      expect(facts.attached).toBe(3);
      expect(facts.runs).toEqual(['records', 'facts', 'result'].map(name => ({ name, runs: 50 })));
      expect(facts.values.total).toBe(50);
      expect(facts.perCpu).toBe(50);
      // getpgid of ourselves is our group: that of init's child.
      expect(facts.values.last_result).toBeGreaterThanOrEqual(0);
    });

    it('hands on every record, by ring buffer and by perf event array', () => {
      const argument = (hex: string) => Buffer.from(hex, 'hex').readInt32LE(8);
      const expected = [NOBODY, ...Array<number>(49).fill(facts.pid)];
      const [ring, perf] = facts.records;
      expect(ring.map(argument)).toEqual(expected);
      // Of a perf event array records of one CPU are in order, and node may change to another in between.
      expect(perf.map(argument).sort((a, b) => b - a)).toEqual(expected);
      for (const record of [...ring, ...perf])
        expect(Buffer.from(record, 'hex').readInt32LE(0)).toBe(facts.pid);
      expect(facts.hash.map(({ key }) => key).sort((a, b) => a - b)).toEqual([facts.pid, NOBODY]);
      expect(facts.hash[0].value).toMatchObject({ pid: facts.pid, comm: 'node' });
      expect(facts.stacks).toBe(1);
      expect(facts.printed).toContain(`getpgid of ${facts.pid}`);
      expect(facts.printed.length).toBe(50);
      expect(after.printedAfter).toEqual([]);
    });

    it('has types by the kernel’s own: CO-RE, ids, values of enums', () => {
      const { values } = facts;
      expect(values.tgid).toBe(facts.pid);
      expect(values.task_type).toBe(facts.taskType);
      expect(values.comm_offset).toBeGreaterThan(500);
      expect(values.has_pid).toBe(1);
      expect(values.has_nothing).toBe(0);
      expect(values.tracing_number).toBe(26);
    });

    it('has the kernel’s settings, variables and functions, and knows which there are not', () => {
      const { values } = facts;
      const [major, minor] = kernel.version.split('.').map(Number);
      expect(values.version >> 8).toBe((major << 8) | minor);
      expect(String(values.jiffies_address)).toBe(String(Number(facts.jiffies)));
      expect(values.missing_variable).toBe(0);
      expect(values.missing_function).toBe(0);
      expect(values.cpu_of_queue).toBe(0);
      // bpf_task_from_pid came with 6.2.
      expect(values.found_pid).toBe(major > 6 || (major === 6 && minor >= 2) ? facts.pid : -1);
    });
  });
}
