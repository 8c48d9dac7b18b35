import { describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/api/clock.ts';

describe("the API's clock", () => {
  it('should keep nothing of a sleep that is over with a signal that lives on', async () => {
    const { signal } = new AbortController();
    const [added, removed] = [vi.spyOn(signal, 'addEventListener'), vi.spyOn(signal, 'removeEventListener')];
    for (let i = 0; i < 3; i++) await systemClock.sleep(1, signal);
    expect(added).toHaveBeenCalledTimes(3);
    expect(removed.mock.calls.map(([, listener]) => listener)).toEqual(added.mock.calls.map(([, listener]) => listener));
  });

  it('should not sleep where the signal has been aborted, and no longer where it is', async () => {
    await systemClock.sleep(2 ** 31 - 1, AbortSignal.abort());
    await systemClock.sleep(2 ** 31 - 1, AbortSignal.timeout(1));
  });
});
