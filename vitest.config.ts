import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

// What V8 made of the sources last time, for Node's forks, the threads of their pods and the commands that they run: a third of a pod's start.
process.env['NODE_COMPILE_CACHE'] ??= join(tmpdir(), 'minipod-compiled');

/** Tests that break nothing, and start no pod or few: one process runs them one after the other, and loads once what they share. */
const TOGETHER = [
  ...['actors', 'fabric', 'flowserve', 'model', 'property', 'protocol', 'runtime', 'xccl'],
  ...['fidelity', 'golden', 'platform', 'quantize', 'simulate'],
]
  .map((room) => `test/${room}/**/*.test.ts`)
  // One has sockets that fill up, and waits for that.
  .concat('test/api/!(serve).test.ts');
/** About npm, what it packs and the tools around it; and what starts both runtimes itself. */
const NODE_ONLY = ['test/packaging/**', 'test/deno/**'];

/** On Deno: see test/bundled-threads.ts. */
const bundled = 'Deno' in globalThis && process.env['SOURCES'] === undefined;

export default defineConfig({
  resolve: { alias: bundled ? [{ find: /^.*\/thread-entry\.ts$/, replacement: fileURLToPath(new URL('test/bundled-entry.ts', import.meta.url)) }] : [] },
  test: {
    // Deno runs vitest's forks only.
    pool: 'forks',
    testTimeout: 60_000,
    // Some record a live run.
    hookTimeout: 60_000,
    setupFiles: ['test/property-limits.ts'],
    globalSetup: ['test/bundled-threads.ts'],
    // Two cores: a pod has threads of its own.
    maxWorkers: 2,
    projects: [
      { extends: true, test: { name: 'apart', include: ['test/**/*.test.ts'], exclude: [...TOGETHER, ...('Deno' in globalThis ? NODE_ONLY : [])] } },
      { extends: true, test: { name: 'together', include: TOGETHER, isolate: false } },
    ],
  },
});
