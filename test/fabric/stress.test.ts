/** Four threads, all pairs, random sizes, every word checked; for a second. The long form: `node test/fabric/stress.ts`. */
import { expect, it } from 'vitest';
import { exchangeAllPairs } from './all-pairs.ts';
import { TRIED } from './segments.ts';

it.each(TRIED)(
  'over %i segments, four threads that all send to each other on both lanes lose, tear and reorder nothing, and leave nothing behind',
  async (segments) => {
    const { frames, errors, stale, full, wakes } = await exchangeAllPairs(4, segments, 1_000, 4_711);
    expect([errors, stale]).toEqual([0, 0]);
    expect(frames).toBeGreaterThan(500);
    // On a crowded machine it is a thousandth of what a free one moves. Room ran out, and sleepers were woken: else less was tried than was meant.
    expect(full).toBeGreaterThan(10);
    expect(wakes).toBeGreaterThan(0);
  },
);
