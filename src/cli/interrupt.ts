/**
 * Ctrl-C and its like: the first signal asks the command to end, a second one ends the process at once.
 * @module
 */

/** 128 + the signal's number, as shells have it. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;
type Signal = keyof typeof EXIT_CODES;
const SIGNALS = Object.keys(EXIT_CODES) as Signal[];

/** Under `npm start` one Ctrl-C arrives twice, from the terminal and passed on by npm. Nobody presses it twice within this time. */
const SAME_KEYSTROKE_MS = 300;

export class Interrupt implements Disposable {
  readonly #abort = new AbortController();
  readonly #happened = Promise.withResolvers<void>();
  readonly #hear = (signal: Signal): void => this.raise(signal);
  #first: { readonly signal: Signal; readonly at_ms: number } | null = null;

  constructor() {
    for (const signal of SIGNALS) process.on(signal, this.#hear);
  }

  /** Aborts the work in flight. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get happened(): Promise<void> {
    return this.#happened.promise;
  }

  /** The signal that asked first. */
  get by(): Signal | null {
    return this.#first?.signal ?? null;
  }

  /** Of a command that ended because of it; 0 if there was none. */
  get exit_code(): number {
    return this.#first === null ? 0 : EXIT_CODES[this.#first.signal];
  }

  /** As if the signal had come: a terminal in raw mode gives Ctrl-C as a key. */
  raise(signal: Signal): void {
    const at_ms = performance.now();
    if (this.#first === null) {
      this.#first = { signal, at_ms };
      this.#abort.abort();
      this.#happened.resolve();
    } else if (at_ms - this.#first.at_ms > SAME_KEYSTROKE_MS) process.exit(EXIT_CODES[signal]);
  }

  [Symbol.dispose](): void {
    for (const signal of SIGNALS) process.off(signal, this.#hear);
  }
}

/** The exit code of `act`; where it failed because it was interrupted, the signal's. */
export async function interruptible(act: (interrupt: Interrupt) => Promise<number>): Promise<number> {
  using interrupt = new Interrupt();
  try {
    return await act(interrupt);
  } catch (error) {
    if (interrupt.by === null) throw error;
    return interrupt.exit_code;
  }
}
