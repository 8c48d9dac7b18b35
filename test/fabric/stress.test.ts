/** Four threads, all pairs, random sizes, every word checked; for a second, or a few. The long form: `node test/fabric/stress.ts`. */
import { expect, it } from 'vitest';
import { exchangeAllPairs } from './all-pairs.ts';
import { TRIED } from './segments.ts';

const SECONDS_MAX = 20;

it.each(TRIED)(
  'over %i segments, four threads that all send to each other on both lanes lose, tear and reorder nothing, and leave nothing behind',
  async (segments) => {
    let [frames, full, wakes] = [0, 0, 0];
    // On a crowded machine a second moves a thousandth of what it does on a free one. Until room ran out, and sleepers were woken: else less was tried than was meant.
    for (let second = 0; second < SECONDS_MAX && (frames <= 500 || full <= 10 || wakes === 0); second++) {
      const moved = await exchangeAllPairs(4, segments, 1_000, 4_711 + second);
      expect([moved.errors, moved.stale]).toEqual([0, 0]);
      frames += moved.frames;
      full += moved.full;
      wakes += moved.wakes;
    }
    expect(frames).toBeGreaterThan(500);
    expect(full).toBeGreaterThan(10);
    expect(wakes).toBeGreaterThan(0);
  },
);
