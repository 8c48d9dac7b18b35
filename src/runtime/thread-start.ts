/**
 * How a thread of this program is started.
 * @module
 */
import { Worker, type WorkerOptions } from 'node:worker_threads';
import { threadOptions } from './thread-entry.ts';

/**
 * Node ends a terminated thread, and all that it has started, before it says that it exited. Deno (2.9.6) says so at once: a busy thread was seen writing 9 s later, and
 * children live on.
 */
export const TERMINATION_IS_PROOF = !('Deno' in globalThis);

export const startThread = (entry: URL, options: WorkerOptions = {}): Worker => new Worker(entry, { ...threadOptions(), ...options });
