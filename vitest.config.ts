import { defineConfig } from 'vitest/config';

const common = { pool: 'forks', testTimeout: 120_000, hookTimeout: 120_000 } as const;

/** What minds the time, or keeps both cores busy. */
const ALONE = ['bench', 'latency', 'links', 'soak', 'stops'].map(name => `tests/${name}.test.ts`);

// Unit tests stand beside their sources. tests/ holds what needs a live process or a compiler: most of it waits for one
// process at a time, so two files share the two cores of a small machine; then come those that must be alone. tests/vm/
// boots virtual machines, each of which takes a core to be emulated: last.
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
          exclude: [...ALONE, 'tests/vm/**'],
          sequence: { groupOrder: 1 },
          maxWorkers: 2,
        },
      },
      {
        test: {
          ...common,
          name: 'alone',
          include: ALONE,
          sequence: { groupOrder: 2 },
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
          sequence: { groupOrder: 3 },
          maxWorkers: 2,
        },
      },
    ],
  },
});
