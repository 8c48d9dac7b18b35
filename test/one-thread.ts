/** Before each file: whoever starts a thread or a process in a test that is said to start none (on-one-runtime.ts) is told that it belongs elsewhere. */
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { afterAll, beforeAll, expect } from 'vitest';
import { WITHOUT_THREADS } from './on-one-runtime.ts';

const builtin = createRequire(import.meta.url);
const threads = builtin('node:worker_threads') as { Worker: unknown };
const processes = builtin('node:child_process') as { spawn: unknown; execFile: unknown };
const { Worker } = threads;
const { spawn, execFile } = processes;

function refuse(): never {
  throw new Error('a test that starts threads or processes is none of WITHOUT_THREADS in test/on-one-runtime.ts');
}

beforeAll(() => {
  const path = expect.getState().testPath ?? '';
  if (!WITHOUT_THREADS.some((listed) => path.includes(`/${listed}`))) return;
  threads.Worker = refuse;
  Object.assign(processes, { spawn: refuse, execFile: refuse });
  syncBuiltinESMExports();
});

afterAll(() => {
  threads.Worker = Worker;
  Object.assign(processes, { spawn, execFile });
  syncBuiltinESMExports();
});
