/**
 * How a thread of this program is started.
 * @module
 */
import { Worker, type WorkerOptions } from 'node:worker_threads';
import { threadOptions } from './thread-entry.ts';

export const startThread = (entry: URL, options: WorkerOptions = {}): Worker => new Worker(entry, { ...threadOptions(), ...options });
