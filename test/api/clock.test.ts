import { getEventListeners } from 'node:events';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/api/clock.ts';

describe("the API's clock", () => {
  it('should keep nothing of a sleep that is over with a signal that lives on', async () => {
    const { signal } = new AbortController();
    const kept = (): number => getEventListeners(signal, 'abort').length;
    const sleeps = [1, 2, 3].map((ms) => systemClock.sleep(ms, signal));
    expect(kept()).toBe(3);
    await Promise.all(sleeps);
    expect(kept()).toBe(0);
  });

  it('should not sleep where the signal has been aborted, and no longer where it is', async () => {
    await systemClock.sleep(2 ** 31 - 1, AbortSignal.abort());
    await systemClock.sleep(2 ** 31 - 1, AbortSignal.timeout(1));
  });
});
