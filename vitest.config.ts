import { defineConfig } from 'vitest/config';

const common = { pool: 'forks', testTimeout: 60_000, hookTimeout: 120_000 } as const;

// Unit tests stand beside their sources, and share the machine's cores. tests/ holds what needs a live process or a
// compiler: after them, one file after the other, since most of them trace processes and mind the time. tests/vm/ boots
// virtual machines, whose emulation takes every core: last.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...common,
          name: 'unit',
          include: ['src/**/*.test.ts'],
          sequence: { groupOrder: 0 },
          maxWorkers: 2,
        },
      },
      {
        test: {
          ...common,
          name: 'live',
          include: ['tests/**/*.test.ts'],
          exclude: ['tests/vm/**'],
          sequence: { groupOrder: 1 },
          fileParallelism: false,
        },
      },
      {
        test: {
          ...common,
          name: 'vm',
          testTimeout: 180_000,
          hookTimeout: 180_000,
          include: ['tests/vm/*.test.ts'],
          sequence: { groupOrder: 2 },
          fileParallelism: false,
        },
      },
    ],
  },
});
