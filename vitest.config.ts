import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { ON_ONE_RUNTIME } from './test/on-one-runtime.ts';

// What V8 made of the sources last time, for Node's forks, the threads of their pods and the commands that they run: a third of a pod's start.
process.env['NODE_COMPILE_CACHE'] ??= join(tmpdir(), 'minipod-compiled');

const isDeno = 'Deno' in globalThis;

/**
 * How much a young heap holds from its start, in MiB: V8 begins with one, and a thread that lives for a second collects it over and over while it grows. With
 * this a pod's start takes 465 ms of processor time, without it 510.
 */
const YOUNG_HEAP = '--min-semi-space-size=16';
if (isDeno) process.env['DENO_V8_FLAGS'] ??= YOUNG_HEAP;

/**
 * What has a process of its own: tests that measure something of theirs, or wait for sockets to fill up. All others share two processes, which load
 * what they have in common once; a test leaves nothing behind there (test/system/pods.ts).
 */
const APART = ['trace/memory', 'trace/damage', 'system/soak', 'system/crowd', 'api/serve'].map((name) => `test/${name}.test.ts`);
/** So has what replaces a module of Node's, which takes Vite's module runner. */
const MOCKS = ['test/trace/full-disk.test.ts'];
/** About npm and what it packs; and what starts both runtimes itself. */
const NODE_ONLY = ['test/packaging/**/*.test.ts', 'test/deno/**/*.test.ts'];
const left = isDeno ? ON_ONE_RUNTIME.map((path) => (path.endsWith('/') ? `${path}**` : path)) : [];

/** Short files that take long. In a fresh clone, where nobody knows yet how long a file takes, vitest begins with large ones: one of these was the last, alone. */
const LONG = ['chaos/live', 'trace/mutation', 'examples/examples', 'xccl/exchange-threads', 'fabric/stress'].map((name) => `/test/${name}.test.ts`);

class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const isLong = ({ moduleId }: TestSpecification): boolean => LONG.some((path) => moduleId.endsWith(path));
    // By project first, as they were.
    return [...Map.groupBy(sorted, ({ project }) => project).values()].flatMap((ofProject) => [
      ...ofProject.filter(isLong),
      ...ofProject.filter((file) => !isLong(file)),
    ]);
  }
}

/** See test/bundled-threads.ts. */
const bundled = isDeno && process.env['SOURCES'] === undefined;

/** The sources are loaded as they are, without Vite. */
const experimental = { viteModuleRunner: false };

export default defineConfig({
  test: {
    // Deno runs vitest's forks only.
    pool: 'forks',
    execArgv: isDeno ? [] : [YOUNG_HEAP],
    testTimeout: 60_000,
    // Some record a live run.
    hookTimeout: 60_000,
    // What is waited for comes when it comes: on a crowded machine not within vitest's second.
    expect: { poll: { timeout: 30_000 } },
    setupFiles: ['test/property-limits.ts', ...(isDeno ? [] : ['test/one-thread.ts']), ...(bundled ? ['test/bundled-loader.ts'] : [])],
    globalSetup: ['test/bundled-threads.ts'],
    // Two cores: a pod has threads of its own.
    maxWorkers: 2,
    sequence: { sequencer: LongFirst },
    projects: [
      { extends: true, test: { name: 'mocks', include: MOCKS } },
      { extends: true, test: { name: 'apart', include: [...APART, ...(isDeno ? [] : NODE_ONLY)], experimental } },
      {
        extends: true,
        test: { name: 'together', include: ['test/**/*.test.ts'], exclude: [...MOCKS, ...APART, ...NODE_ONLY, ...left], isolate: false, experimental },
      },
    ],
  },
});
