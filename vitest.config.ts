import { defineConfig } from 'vitest/config';

// Unit tests stand beside their sources; tests/ holds what needs a live process or a compiler.
// Files run one after the other: most of them trace processes, and this is a two-core budget.
export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'tests/**/*.test.ts'],
    fileParallelism: false,
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
