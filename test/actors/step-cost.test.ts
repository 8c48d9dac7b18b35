/** What a step costs is found from samples of it, and a prefill is as many steps as its chunks. */
import { describe, expect, it } from 'vitest';
import { fitStepCost, prefill_us, UNMEASURED } from '../../actors/policies/step-cost.ts';
import type { StepSample } from '../../src/protocol/balancing.ts';

const sample = (tokens: number, attended: number): StepSample => ({ tokens, attended, us: 40 + 3 * tokens + 0.02 * attended });

describe('a step', () => {
  it('should cost what samples that agree say, whatever their number and order', () => {
    const samples = [sample(1, 500), sample(64, 2_080), sample(8, 36), sample(32, 9_000), sample(1, 1)];
    for (const some of [samples, samples.slice(0, 4), [...samples].reverse()]) {
      const { base_us, token_us, attended_us } = fitStepCost(some);
      expect(base_us).toBeCloseTo(40, 6);
      expect(token_us).toBeCloseTo(3, 6);
      expect(attended_us).toBeCloseTo(0.02, 8);
    }
  });

  it('should not get cheaper by more work, nor cost what samples cannot tell', () => {
    const falling = fitStepCost([
      { tokens: 1, attended: 1, us: 90 },
      { tokens: 50, attended: 1, us: 30 },
    ]);
    expect(Math.min(falling.base_us, falling.token_us, falling.attended_us)).toBeGreaterThanOrEqual(0);
    expect(
      fitStepCost([
        { tokens: 4, attended: 10, us: 80 },
        { tokens: 4, attended: 10, us: 80 },
      ]),
    ).toMatchObject({ base_us: 80, token_us: 0, attended_us: 0 });
    expect(fitStepCost([])).toBe(UNMEASURED);
  });

  it('should be taken for each chunk of a prompt, with the tokens of those that decode beside it', () => {
    const cost = { base_us: 100, token_us: 10, attended_us: 1 };
    // Eight tokens behind four others, in chunks of six that two decodes share: two steps, 36 + 32 positions.
    expect(prefill_us(cost, 4, 8, 6, 2)).toBe(200 + 10 * (8 + 4) + 68);
    expect(prefill_us(cost, 0, 3, 1, 5)).toBe(300 + 10 * (3 + 15) + 6);
  });
});
