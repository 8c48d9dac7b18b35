/** Before each file: whoever starts a thread or a process in a test that runs on one runtime (on-one-runtime.ts) is told that it belongs among the others. */
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { afterAll, beforeAll, expect } from 'vitest';
import { ON_ONE_RUNTIME } from './on-one-runtime.ts';

const builtin = createRequire(import.meta.url);
const threads = builtin('node:worker_threads') as { Worker: unknown };
const processes = builtin('node:child_process') as { spawn: unknown; execFile: unknown };
const { Worker } = threads;
const { spawn, execFile } = processes;

function refuse(): never {
  throw new Error('a test that starts threads or processes runs on both runtimes: it is none of test/on-one-runtime.ts');
}

beforeAll(() => {
  const path = expect.getState().testPath ?? '';
  if (!ON_ONE_RUNTIME.some((listed) => path.includes(`/${listed}`))) return;
  threads.Worker = refuse;
  Object.assign(processes, { spawn: refuse, execFile: refuse });
  syncBuiltinESMExports();
});

afterAll(() => {
  threads.Worker = Worker;
  Object.assign(processes, { spawn, execFile });
  syncBuiltinESMExports();
});
