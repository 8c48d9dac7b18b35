/**
 * A thread that waits for a seat: it has loaded the worker's program and gone through its first steps, on memory of its own, so that a successor begins in a
 * fraction of the time that a new thread takes.
 *
 *   (all workers have run for a while) ─▶ starting ─▶ warm ─▶ (a worker is lost) ─▶ its successor ─▶ (that one has run for a while) ─▶ starting …
 *
 * @module
 */
import type { Worker } from 'node:worker_threads';
import type { Cancel, Timers } from '../runtime/clock.ts';

/** So long after the workers have begun: it does not take the time of those that begin, and pods that live for a moment have none. */
const LATER_MS = 2_000;
/** After a successor: losses come in bunches, and what it has to compute again comes first. */
const SOON_MS = 250;

export class WarmThread {
  readonly #timers: Timers;
  readonly #start: () => Worker;
  #handle: Worker | null = null;
  #cancel: Cancel = () => {};
  #isClosed = false;

  constructor(timers: Timers, start: () => Worker) {
    this.#timers = timers;
    this.#start = start;
  }

  /** A worker has begun: from now on there is to be one in a while. */
  keep(isSuccessor: boolean): void {
    this.#cancel();
    if (!this.#isClosed) this.#cancel = this.#timers.after(isSuccessor ? SOON_MS : LATER_MS, () => this.#begin());
  }

  /** Null: there is none. One that has yet to load is ahead of a new one all the same. */
  take(): Worker | null {
    const handle = this.#handle;
    this.#handle = null;
    return handle;
  }

  close(): void {
    this.#isClosed = true;
    this.#cancel();
    void this.take()?.terminate();
  }

  #begin(): void {
    if (this.#handle !== null) return;
    const handle = this.#start();
    this.#handle = handle;
    // Without one, successors are new threads: what kept it from waiting shows in them, too.
    const forget = (): void => {
      if (this.#handle === handle) this.#handle = null;
    };
    handle.on('error', forget);
    handle.on('exit', forget);
  }
}
