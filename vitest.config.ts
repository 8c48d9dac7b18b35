import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // Deno runs vitest's forks only.
    pool: 'forks',
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    // Two cores: a pod has threads of its own.
    maxWorkers: 2,
  },
});
