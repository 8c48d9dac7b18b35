/**
 * What the threads that act and the one that reads their rings tell each other besides acts: three words for all of a pod's rings.
 *
 *   word 0  over    1: nobody reads the rings any more, or will; the run goes on unrecorded; 2: what is in them is the last, the pod's threads were lost
 *   word 1  bell    1: a ring is full, and its thread waits until it is read
 *   word 2  waits   1: a thread has said that it waits for long
 * @module
 */
import { eventLoopTimers } from '../runtime/clock.ts';

const WORD = { over: 0, bell: 1, waits: 2 } as const;
const WORDS = 3;

export const makeState = (): Int32Array => new Int32Array(new SharedArrayBuffer(4 * WORDS));
const OVER = 1;
const LOST = 2;
export const isOver = (state: Int32Array): boolean => Atomics.load(state, WORD.over) !== 0;
export const isLost = (state: Int32Array): boolean => Atomics.load(state, WORD.over) === LOST;

const end = (state: Int32Array, how: number): void => {
  Atomics.compareExchange(state, WORD.over, 0, how);
  Atomics.notify(state, WORD.over);
  ringBell(state);
};
export const setOver = (state: Int32Array): void => end(state, OVER);
/** For a reader that outlives who started it. */
export const setLost = (state: Int32Array): void => end(state, LOST);

/** Calls the reader, after what it is to read is published. */
export const ringBell = (state: Int32Array): void => {
  Atomics.store(state, WORD.bell, 1);
  Atomics.notify(state, WORD.bell);
};

/** Blocks the thread, unless nobody reads any more. */
export const waitUnlessOver = (state: Int32Array, limit_ms: number): void => {
  Atomics.wait(state, WORD.over, 0, limit_ms);
};

/** True for the first thread that asks. */
export const isFirstToWait = (state: Int32Array): boolean => Atomics.exchange(state, WORD.waits, 1) === 0;

/**
 * The reader's end of the bell, beside its event loop. Promise and timer are raced for the reason told in runtime/event-loop.ts; one wait is outstanding
 * at a time.
 *
 * Race: the thread that acts publishes, *then* rings; the reader wakes, mutes the bell, *then* reads the rings. What rings in between ends the next sleep
 * before it has begun.
 */
export class ReaderBell {
  readonly #state: Int32Array;
  #isListening = false;
  #wake: (() => void) | null = null;

  constructor(state: Int32Array) {
    this.#state = state;
  }

  /** Ends a sleep from this very thread. */
  wake(): void {
    this.#wake?.();
  }

  async sleep(limit_ms: number): Promise<void> {
    this.#listen();
    // The promise may be late, so it is not all that tells.
    if (this.#isListening && Atomics.load(this.#state, WORD.bell) === 0) {
      await new Promise<void>((resolve) => {
        const cancel = eventLoopTimers.after(limit_ms, resolve);
        this.#wake = () => {
          cancel();
          resolve();
        };
      });
      this.#wake = null;
    }
    Atomics.store(this.#state, WORD.bell, 0);
  }

  #listen(): void {
    if (this.#isListening) return;
    const rung = Atomics.waitAsync(this.#state, WORD.bell, 0);
    this.#isListening = rung.async;
    if (rung.async)
      void rung.value.then(() => {
        this.#isListening = false;
        this.#wake?.();
      });
  }
}
