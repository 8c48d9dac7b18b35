/** Before each file: whoever starts a thread or a process in a test that is said to start none (on-one-runtime.ts) is told that it belongs elsewhere. */
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { afterAll, beforeAll, expect } from 'vitest';
import { ON_ONE_RUNTIME } from './on-one-runtime.ts';

const builtin = createRequire(import.meta.url);
/** What begins a process. */
const BEGIN = ['spawn', 'spawnSync', 'exec', 'execSync', 'execFile', 'execFileSync', 'fork'] as const;
const threads = builtin('node:worker_threads') as { Worker: unknown };
const processes = builtin('node:child_process') as Record<(typeof BEGIN)[number], unknown>;
const { Worker } = threads;
const own = { ...processes };

function refuse(): never {
  throw new Error('a test that starts threads or processes is none of ON_ONE_RUNTIME in test/on-one-runtime.ts');
}

beforeAll(() => {
  const path = expect.getState().testPath ?? '';
  if (!ON_ONE_RUNTIME.some((listed) => path.includes(`/${listed}`))) return;
  threads.Worker = refuse;
  for (const begin of BEGIN) processes[begin] = refuse;
  syncBuiltinESMExports();
});

afterAll(() => {
  threads.Worker = Worker;
  for (const begin of BEGIN) processes[begin] = own[begin];
  syncBuiltinESMExports();
});
