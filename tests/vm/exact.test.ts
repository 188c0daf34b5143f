/**
 * One program on hundreds of functions of the running kernel counts exactly: a known number of system calls, and what
 * another program counts of them on the kernel's tracepoint. Each row has the cookie of its function.
 */

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Way } from '../../src/kernel/kernel.js';
import { BPF_PROGRAMS, compileBpfFile, missingBpfCompiler } from '../support/bpf.js';
import type { Exactness } from './guest/exact.js';
import { Guest } from './guest.js';
import { kernels, type VmKernel } from './kernels.js';

const OBJECT = '/objects/exact.bpf.o';
const SYSTEM_CALLS = ['kernel:__x64_sys_*', 'kernel:do_getpgid'];
const MANY = [...SYSTEM_CALLS, 'kernel:vfs_*', 'kernel:ksys_*', 'kernel:security_*'];

interface Run {
  readonly way: Way;
  readonly selectors: readonly string[];
  /** Functions that it must be on at least. */
  readonly atLeast: number;
}

const NATIVE: Run = { way: 'tracing_multi', selectors: MANY, atLeast: 500 };
const KPROBE: Run = { way: 'kprobe_multi', selectors: MANY, atLeast: 500 };
const EACH: Run = {
  way: 'tracing',
  selectors: ['kernel:__x64_sys_[a-l]*', 'kernel:__x64_sys_u*', 'kernel:do_getpgid'],
  atLeast: 150,
};

/** The ways of each kernel; with MULTITRACE_VM=all the newest shows the others, too. */
function runsOf({ name }: VmKernel): readonly Run[] {
  // Debian's 6.1 has no kprobe multi-links (CONFIG_FPROBE).
  if (name === '6.1') return [EACH];
  if (name === '6.12') return [KPROBE, EACH];
  return process.env.MULTITRACE_VM === 'all' ? [NATIVE, KPROBE, EACH] : [NATIVE];
}

const lacking = missingBpfCompiler();

describe.skipIf(lacking !== undefined)(`exact counts (${lacking ?? 'in the kernel'})`, () => {
  for (const kernel of kernels()) {
    if ('missing' in kernel) {
      it.skip(`kernel ${kernel.name} (${kernel.missing})`, () => {});
      continue;
    }
    describe(`kernel ${kernel.name}`, () => {
      let guest: Guest;
      beforeAll(async () => {
        const object = compileBpfFile(join(BPF_PROGRAMS, 'both', 'exact.bpf.c'));
        guest = await Guest.boot(kernel, { files: { [OBJECT]: object } });
      });
      afterAll(async () => {
        expect(await guest?.close()).toEqual([]);
      });
      for (const { way, selectors, atLeast } of runsOf(kernel))
        it(`${way}: at entry, at return and at both, each call once`, async () => {
          const kinds = ['at_entry', 'at_exit', 'at_both'];
          const results = await guest.script<Exactness>(
            'exact',
            [OBJECT, way, kinds.join(','), ...selectors],
            { timeoutMs: 180_000 },
          );
          expect(results.map(({ kind }) => kind)).toEqual(kinds);
          for (const result of results) {
            const { kind, functions, skipped, attachMs, counts, systemCalls, made } = result;
            process.stderr.write(
              `kernel ${kernel.name}, ${way}, ${kind}: ${functions} functions (${skipped} left out) in ${attachMs} ms\n`,
            );
            expect(result).toMatchObject({ way, missed: '0', lost: 0, mistaken: 0, mixed: 0 });
            expect(functions).toBeGreaterThanOrEqual(atLeast);
            const entries = kind === 'at_exit' ? 0 : 1;
            const returns = kind === 'at_entry' ? 0 : 1;
            for (const [name, times] of Object.entries(made))
              expect(counts[name]?.slice(0, 2), name).toEqual([entries * times, returns * times]);
            // No such process, each time.
            const times = made.__x64_sys_getpgid;
            for (const name of ['__x64_sys_getpgid', 'do_getpgid'])
              expect(counts[name], name).toEqual([entries * times, returns * times, 0 - returns * 3 * times]);
            // The tracepoint counted the same, of the calls that both saw and in all.
            const [getpgid, getppid] = [121, 110];
            expect(systemCalls[getpgid]).toBe(made.__x64_sys_getpgid);
            expect(systemCalls[getppid]).toBe(made.__x64_sys_getppid);
            if (way === 'tracing') continue;
            const ours = Object.entries(counts).flatMap(([name, [entered, returned]]) =>
              name.startsWith('__x64_sys_') ? [Math.max(entered, returned)] : [],
            );
            const theirs = Object.values(systemCalls);
            const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0);
            expect(sum(ours)).toBe(sum(theirs));
          }
        });
    });
  }
});
