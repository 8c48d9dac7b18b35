/**
 * How long the caller's thread naps between two looks for tokens. It has no core of its own: each look takes some 50 µs from a worker, whose peers wait meanwhile.
 * @module
 */
import { CONTROL_THREAD } from '../runtime/directory.ts';

/**
 * In whole milliseconds: 1 % of a core. Half of the time until the next step was due, up to 4 ms, was slept before: a third less to wake for, but it took its own naps
 * for the steps' rhythm, and tokens came in bunches (p99 of gaps with prefill apart 13.3 ms against 10.8).
 */
export const NAP_MS = 1;
/** Behind a look that found what one step of each worker gave, and no more: steps that take as long as a nap or two do not need a look between them. */
export const NAP_BEHIND_STEP_MS = 2;

export class CallerNaps {
  #last = CONTROL_THREAD;
  #isBunch = false;
  #next_ms = NAP_MS;

  /** Looks at what has come. */
  look(): void {
    this.#last = CONTROL_THREAD;
  }

  /** A frame of that thread was there. What the control thread says is news of calls, behind which tokens may come at any time. */
  hear(thread: number): void {
    if (thread === CONTROL_THREAD) return;
    this.#isBunch ||= thread === this.#last;
    this.#last = thread;
    this.#next_ms = this.#isBunch ? NAP_MS : NAP_BEHIND_STEP_MS;
  }

  /** The next one's length. Whoever finds nothing then looks again soon. */
  next_ms(): number {
    const next_ms = this.#next_ms;
    this.#next_ms = NAP_MS;
    this.#isBunch = false;
    return next_ms;
  }
}
