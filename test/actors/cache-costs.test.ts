/** A hit is fetched where that takes no longer than computing what it saves, from each source by that source's costs. */
import { describe, expect, it } from 'vitest';
import { type CacheCosts, computeTime_us, fetchTime_us, isWorthFetching, isWorthSwapping } from '../../actors/policies/cache-costs.ts';

const COSTS: CacheCosts = {
  ...{ dram_fixed_us: 10, dram_us_per_block: 2, remote_fixed_us: 100, remote_us_per_block: 5 },
  ...{ compute_us_per_token: 3, attention_us_per_position: 0.5 },
};

describe('what a cached prefix costs', () => {
  it('should be a transfer and its blocks, by the source that they come from', () => {
    expect([fetchTime_us(COSTS, 'dram', 4), fetchTime_us(COSTS, 'remote', 4)]).toEqual([18, 120]);
  });

  it('should be saved computing: each token, and its attention to all before it', () => {
    // Positions 6, 7 and 8 attend to 21 positions.
    expect(computeTime_us(COSTS, 6, 3)).toBe(9 + 10.5);
  });

  it('should be fetched up to where computing takes as long, and not beyond', () => {
    const flat = { ...COSTS, attention_us_per_position: 0 };
    const worth = (dram_fixed_us: number): boolean => isWorthFetching({ ...flat, dram_fixed_us }, 'dram', 2, 4, 0);
    // Two blocks of four tokens: 24 µs to compute.
    expect([worth(19), worth(20), worth(21)]).toEqual([true, true, false]);
    expect(isWorthFetching({ ...flat, dram_fixed_us: -1_000 }, 'dram', 0, 4, 0)).toBe(false);
    // Far behind the beginning attention makes computing dearer.
    expect([isWorthFetching(COSTS, 'remote', 2, 4, 0), isWorthFetching(COSTS, 'remote', 2, 4, 40)]).toEqual([false, true]);
  });

  it('should be paid twice by what is swapped out and in', () => {
    const flat = { ...COSTS, attention_us_per_position: 0 };
    const worth = (dram_fixed_us: number): boolean => isWorthSwapping({ ...flat, dram_fixed_us }, 2, 4);
    expect([worth(8), worth(8.5)]).toEqual([true, false]);
    expect(isWorthSwapping({ ...flat, dram_fixed_us: -1_000 }, 0, 4)).toBe(false);
  });
});
