import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

// What V8 made of the sources last time, for Node's forks, the threads of their pods and the commands that they run: a third of a pod's start.
process.env['NODE_COMPILE_CACHE'] ??= join(tmpdir(), 'minipod-compiled');

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
