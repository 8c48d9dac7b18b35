/** What a thread that lives with an event loop needs of it. @module */
import { setImmediate } from 'node:timers';

/** Lets messages and timers of the event loop through. */
export const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** `Atomics.waitAsync` alone keeps no thread alive, in any runtime: hold one handle. */
export function keepAwake(): Disposable {
  const handle = setInterval(() => {}, 2 ** 30);
  return { [Symbol.dispose]: () => clearInterval(handle) };
}

/** Waits for the promise, but no longer than `limit_ms`. */
export async function waitAtMost(promise: Promise<void>, limit_ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limit_ms);
  });
  await Promise.race([promise, limit]);
  clearTimeout(timer);
}
