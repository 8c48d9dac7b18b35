/**
 * How a thread of this program is started, and begins. Tests put another module in its place, with which a thread that has ended well serves the next pod
 * (test/resident-threads.ts).
 * @module
 */
import { Worker, type WorkerOptions, workerData } from 'node:worker_threads';
import { threadOptions } from './thread-entry.ts';

export const startThread = (entry: URL, options: WorkerOptions = {}): Worker => new Worker(entry, { ...threadOptions(), ...options });

/** Does what the thread was started for. It ends when that is done, unless it listens for messages. */
export const beginThread = <Data>(work: (data: Data) => void): void => work(workerData as Data);

/** Of a thread that whoever started it ends: all that it did is over. */
export const workIsOver = (): void => {};
