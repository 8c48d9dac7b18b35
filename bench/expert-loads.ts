/**
 * Loads to plan on: windows drawn from real ones, and made ones as skewed as DeepSeek-R1's.
 * @module
 */
import { type ExpertLoads, expertLoads } from '../actors/policies/expert-placement/expert-loads.ts';

/** The same numbers in every run: a linear congruential generator, of which the high bits are used. */
export function drawer(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
}

/** Box and Muller's. */
const normal = (draw: () => number): number => Math.sqrt(-2 * Math.log(draw())) * Math.cos(2 * Math.PI * draw());

/** One window of so many choices of experts a layer, each drawn by itself after the real counts. Real tokens come in texts, so their windows differ more. */
export function drawnWindow(counts: readonly (readonly number[])[], choices: number, draw: () => number): number[][] {
  return counts.map((row) => {
    let sum = 0;
    const until = row.map((count) => {
      sum += count;
      return sum;
    });
    const window = row.map(() => 0);
    for (let choice = 0; choice < choices; choice++) {
      const at = draw() * sum;
      let [low, high] = [0, row.length - 1];
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((until[middle] as number) > at) high = middle;
        else low = middle + 1;
      }
      window[low] = (window[low] as number) + 1;
    }
    return window;
  });
}

/** Of a standard deviation that leaves a fifth of the experts above the mean, and the hottest of 256 about 30 times above (xDeepServe §4.5). */
const LOG_DEVIATION = 1.7;
/** How much of it changes from window to window: most of an expert's popularity stays. */
const DRIFT = 0.2;

/** Popularity is log-normal and drifts. `tokens`: about so many a window and expert. */
export function skewedLoads(windows: number, layers: number, experts: number, tokens: number, draw: () => number): ExpertLoads {
  const popularity = Array.from({ length: layers }, () => Array.from({ length: experts }, () => normal(draw)));
  return expertLoads(
    Array.from({ length: windows }, () =>
      popularity.map((row) => {
        for (const [expert, value] of row.entries()) row[expert] = Math.sqrt(1 - DRIFT * DRIFT) * value + DRIFT * normal(draw);
        return row.map((value) => Math.round(tokens * Math.exp(LOG_DEVIATION * value - (LOG_DEVIATION * LOG_DEVIATION) / 2)));
      }),
    ),
  );
}
