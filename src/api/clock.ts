/**
 * What the API takes from the outside world besides the pod: time, timers and fresh ids. The only file of the API that reads a clock; passed in, so that a test can bring its own.
 * @module
 */

export type Clock = {
  /** Monotonic milliseconds, for differences. */
  now_ms(): number;
  /** Milliseconds since 1970, with fractions, as steady as `now_ms`. */
  unix_ms(): number;
  /** Ends early where `signal` aborts, at once where it has been aborted, and then leaves no timer behind that would keep the process. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** An id that nobody else makes. */
  newId(): string;
};

export const systemClock: Clock = {
  now_ms: () => performance.now(),
  unix_ms: () => performance.timeOrigin + performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        // A signal may outlive many sleeps, and would keep all of them.
        signal?.removeEventListener('abort', end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      if (signal?.aborted === true) end();
      else signal?.addEventListener('abort', end);
    }),
  newId: () => crypto.randomUUID().replaceAll('-', ''),
};
