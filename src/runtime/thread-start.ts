/**
 * How a thread of this program is started.
 * @module
 */
import { Worker, type WorkerOptions } from 'node:worker_threads';
import { waitAtMost } from './event-loop.ts';
import { threadOptions } from './thread-entry.ts';

/**
 * Node ends a terminated thread, and all that it has started, before it says that it exited. Deno (2.9.6) says so at once: a busy thread was seen writing 9 s later, and
 * children live on.
 */
export const TERMINATION_IS_PROOF = !('Deno' in globalThis);

export const startThread = (entry: URL, options: WorkerOptions = {}): Worker => new Worker(entry, { ...threadOptions(), ...options });

/** For the proof, where another one is to have its memory. Threads end in milliseconds; a recorder whose disk hangs does not, nor then the thread that started it. */
export const ENDED_MS_MAX = 10_000;

/** True: it is proven that it has ended, and all that it started. */
export async function endThread(thread: Worker, limit_ms = ENDED_MS_MAX): Promise<boolean> {
  let hasEnded = false;
  const terminated = thread.terminate().then(() => {
    hasEnded = true;
  });
  await waitAtMost(terminated, limit_ms);
  return TERMINATION_IS_PROOF && hasEnded;
}
