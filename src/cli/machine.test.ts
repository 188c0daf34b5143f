/** Which machine a command line means. */

import { expect, test } from 'vitest';
import { type MachineOptions, meansKernel, namesKernel, threadsOf, whatToTrace } from './machine.js';

test('the module kernel, or vmlinux, selects the kernel; other names and exclusions do not', () => {
  expect(namesKernel(['kernel:tcp_*'])).toBe(true);
  expect(namesKernel(['vmlinux:tcp_*'])).toBe(true);
  expect(namesKernel(['nf_tables:*', 'kernel:tcp_*'])).toBe(true);
  for (const other of ['main', 'libc:malloc', 'kernel*:x', 'kernel.so:x', 'std::kernel::run'])
    expect(namesKernel([other]), other).toBe(false);
  expect(namesKernel(['main', '!kernel:x'])).toBe(false);
});

test('--machine has the last word', () => {
  expect(meansKernel({ machine: 'kernel' }, ['tcp_*'])).toBe(true);
  expect(meansKernel({ machine: 'process' }, ['kernel:tcp_*'])).toBe(false);
});

test('what is traced, and what goes not together', () => {
  const what = (options: MachineOptions, command?: string[], selectors = ['kernel:x']) =>
    whatToTrace(options, command, selectors);
  expect(what({})).toEqual({ kernel: {} });
  expect(what({ way: 'tracing', maxLinks: 5 }, ['ls'])).toEqual({
    kernel: { way: 'tracing', maxLinks: 5 },
    command: ['ls'],
  });
  expect(what({ pid: 7 }, undefined, ['main'])).toEqual({ pid: 7 });
  expect(what({ pid: 7 })).toEqual({ kernel: { pid: 7 } });
  expect(threadsOf(what({ pid: 7 }))).toEqual({ pid: 7 });
  expect(threadsOf(what({ pid: 7 }, undefined, ['main']))).toEqual({});
  expect(() => what({ pid: 7 }, ['ls'])).toThrow(/give one of them/);
  expect(() => what({}, [])).toThrow(/no command after --/);
  expect(() => what({}, undefined, ['main'])).toThrow(/nothing to trace/);
  expect(() => what({ pid: 7 }, ['ls'], ['main'])).toThrow(/give one of them/);
  expect(() => what({ way: 'tracing' }, ['ls'], ['main'])).toThrow(/--way is for the kernel/);
});
