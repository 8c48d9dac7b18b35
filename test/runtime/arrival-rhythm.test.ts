import { expect, it } from 'vitest';
import { ArrivalRhythm } from '../../src/runtime/arrival-rhythm.ts';

/** Looks for what comes every `period_ms`; how often it looks in a second, and how late it finds it. */
function follow(period_ms: number): { looks: number; late_ms: number } {
  const rhythm = new ArrivalRhythm();
  let [looks, late_ms, found] = [0, 0, 0];
  for (let now = 0; now < 1_000; now += rhythm.nap_ms(now)) {
    looks++;
    const come = Math.floor(now / period_ms);
    if (come === found) continue;
    late_ms = Math.max(late_ms, now - come * period_ms);
    found = come;
    rhythm.note(now);
  }
  return { looks, late_ms };
}

it('should look seldom for what comes seldom, and never find it more than a nap late', () => {
  expect(new ArrivalRhythm().nap_ms(0)).toBe(1);
  for (const period_ms of [1, 2, 3.7, 5, 7.3, 12, 40]) {
    const { looks, late_ms } = follow(period_ms);
    expect(late_ms, `${period_ms} ms`).toBeLessThan(2);
    expect(looks, `${period_ms} ms`).toBeLessThanOrEqual(1_000);
  }
  expect(follow(5).looks).toBeLessThan(850);
  // A pause: whoever sleeps on must not sleep long.
  const rhythm = new ArrivalRhythm();
  rhythm.note(0);
  rhythm.note(10_000);
  expect(rhythm.nap_ms(10_000)).toBe(4);
  expect(rhythm.nap_ms(10_007)).toBe(1);
});
