/**
 * The control page: a few words a thread, each thread's on cache lines of its own.
 *
 *   thread t at t × 128 bytes:  | bell | stop | wakes | …
 * @module
 */
import { assert } from '../protocol/errors.ts';

export const CONTROL_PAGE_BYTES = 65_536;
const THREAD_BYTES = 128;
export const THREADS_MAX = CONTROL_PAGE_BYTES / THREAD_BYTES;
const WORD = { bell: 0, stop: 1, wakes: 2 } as const;
const AWAKE = 0;
const ASLEEP = 1;

/**
 * Wakes sleeping threads, and lets a thread sleep.
 *
 * Race: the consumer marks itself asleep, *then* looks once more at its rings, then waits; the producer publishes, *then* looks at the mark.
 * Whichever comes first in the sequentially consistent order, either the consumer sees the frame or the producer sees the mark.
 */
export class ControlPage {
  readonly #words: Int32Array;
  readonly #base: number;

  constructor(memory: WebAssembly.Memory, offset: number) {
    this.#words = new Int32Array(memory.buffer);
    this.#base = offset / 4;
  }

  #at(thread: number, word: number): number {
    assert(thread < THREADS_MAX, `thread ${thread} of at most ${THREADS_MAX}`);
    return this.#base + thread * (THREAD_BYTES / 4) + word;
  }

  /** One futex call per idle period of the sleeper: only if it is marked asleep. */
  ring(thread: number): void {
    const bell = this.#at(thread, WORD.bell);
    if (Atomics.load(this.#words, bell) === ASLEEP && Atomics.compareExchange(this.#words, bell, ASLEEP, AWAKE) === ASLEEP) {
      Atomics.add(this.#words, this.#at(thread, WORD.wakes), 1);
      Atomics.notify(this.#words, bell);
    }
  }

  /** Blocks this thread until its bell rings or the time is up; at once if `hasWork` after the mark is set. */
  sleep(thread: number, timeout_ms: number, hasWork: () => boolean): void {
    const bell = this.#at(thread, WORD.bell);
    Atomics.store(this.#words, bell, ASLEEP);
    if (!hasWork() && !this.isStopped(thread)) Atomics.wait(this.#words, bell, ASLEEP, timeout_ms);
    Atomics.store(this.#words, bell, AWAKE);
  }

  /**
   * The same for a thread that must go on serving its event loop: a promise of the bell, to be raced with a timer by `EventLoopSleeper`.
   * Null: the bell has rung already.
   */
  untilRung(thread: number): Promise<unknown> | null {
    const wait = Atomics.waitAsync(this.#words, this.#at(thread, WORD.bell), ASLEEP);
    return wait.async ? wait.value : null;
  }

  markAsleep(thread: number): void {
    Atomics.store(this.#words, this.#at(thread, WORD.bell), ASLEEP);
  }

  markAwake(thread: number): void {
    Atomics.store(this.#words, this.#at(thread, WORD.bell), AWAKE);
  }

  /** Sleeps without a mark: producers spend no wake on a thread that looks up by itself in a moment. */
  nap(thread: number, duration_ms: number): void {
    Atomics.wait(this.#words, this.#at(thread, WORD.bell), AWAKE, duration_ms);
  }

  stop(thread: number): void {
    Atomics.store(this.#words, this.#at(thread, WORD.stop), 1);
    this.ring(thread);
  }

  isStopped(thread: number): boolean {
    return Atomics.load(this.#words, this.#at(thread, WORD.stop)) === 1;
  }

  /** Clears a thread's words for its successor; its predecessor must be proven gone. */
  reset(thread: number): void {
    for (let word = 0; word < THREAD_BYTES / 4; word++) Atomics.store(this.#words, this.#at(thread, word), 0);
  }

  wakes(thread: number): number {
    return Atomics.load(this.#words, this.#at(thread, WORD.wakes));
  }
}
