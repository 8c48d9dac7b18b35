/** What a thread that lives with an event loop needs of it. @module */
import { setImmediate } from 'node:timers';
import type { ControlPage } from '../fabric/control-page.ts';

/** Lets messages and timers of the event loop through. */
export const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/**
 * Sleeps beside an event loop until the thread's bell rings.
 *
 * The bell's promise is raced with a timer of the event loop, never with waitAsync's own time-out: on Node 24.21 both ways out of a waitAsync were seen
 * to stay unresolved for 5 to 10 s now and then under load, while timers went on (about 1 in 50 pods). The timer is what bounds such a stall.
 * One wait is outstanding at a time: where the timer came first, the next sleep takes up the same promise.
 */
export class EventLoopSleeper {
  readonly #control: ControlPage;
  readonly #thread: number;
  #isListening = false;
  #wake: (() => void) | null = null;

  constructor(control: ControlPage, thread: number) {
    this.#control = control;
    this.#thread = thread;
  }

  /** Ends a sleep from this very thread. */
  wake(): void {
    this.#wake?.();
  }

  /** Without a mark: producers spend no wake on a thread that looks up by itself in a moment. */
  async nap(duration_ms: number): Promise<void> {
    await this.#untilWoken(duration_ms);
  }

  async sleep(limit_ms: number, hasWork: () => boolean): Promise<void> {
    this.#control.markAsleep(this.#thread);
    this.#listen();
    if (this.#isListening && !hasWork()) await this.#untilWoken(limit_ms);
    this.#control.markAwake(this.#thread);
  }

  async #untilWoken(limit_ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      // Of whole milliseconds, cut off: who wakes before what it waits for is due sleeps another one.
      const timer = setTimeout(resolve, Math.ceil(limit_ms));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = null;
  }

  #listen(): void {
    if (this.#isListening) return;
    const rung = this.#control.untilRung(this.#thread);
    this.#isListening = rung !== null;
    rung?.then(() => {
      this.#isListening = false;
      this.#wake?.();
    });
  }
}

/** `Atomics.waitAsync` alone keeps no thread alive, in any runtime: hold one handle. */
export function keepAwake(): Disposable {
  const handle = setInterval(() => {}, 2 ** 30);
  return { [Symbol.dispose]: () => clearInterval(handle) };
}

/** Waits for the promise, but no longer than `limit_ms`. */
export async function waitAtMost(promise: Promise<unknown>, limit_ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limit_ms);
  });
  try {
    await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** The promise's value, unless `check`, which is called every so often meanwhile, throws first. */
export async function checkedMeanwhile<Value>(promise: Promise<Value>, check: () => void, every_ms: number): Promise<Value> {
  const failed = Promise.withResolvers<never>();
  const timer = setInterval(() => {
    try {
      check();
    } catch (error) {
      failed.reject(error);
    }
  }, every_ms);
  try {
    return await Promise.race([promise, failed.promise]);
  } finally {
    clearInterval(timer);
  }
}
