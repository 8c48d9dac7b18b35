/** What a pod may grow to is checked at its start, and says what would be right. */
import { describe, expect, it } from 'vitest';
import { largestTopology, type ScaleMax, type ScaleMin } from '../../src/flowserve/scale-shapes.ts';
import { formatTopology, parseTopology } from '../../src/protocol/topology.ts';

const largest = (text: string, max?: ScaleMax, min?: ScaleMin): string => formatTopology(largestTopology(parseTopology(text), max, min).topology);

describe('the largest shape of a pod', () => {
  it('should be what it begins with where it keeps no room', () => {
    expect(largest('colocated:dp=2')).toBe('colocated:dp=2');
    expect(() => largest('colocated:dp=2', undefined, { experts: 1 })).toThrow(/scale_min: is for pods that keep room to grow/);
  });

  it('should have as many DP groups as are named, in numbers that its parts go into', () => {
    expect(largest('colocated:dp=2', { attention: 5 })).toBe('colocated:dp=5');
    expect(largest('colocated:dp=2,oproj=2', { attention: 6 })).toBe('colocated:dp=6,oproj=2');
    expect(() => largest('colocated:dp=2,oproj=2', { attention: 3 })).toThrow(/attention 3 is no multiple of 2.* for oproj/);
    expect(() => largest('colocated:dp=2', { attention: 1 })).toThrow(/attention 1 is less than topology/);
    expect(largest('moe-attention:domains=2x1,experts=2', { attention: 4 })).toMatch(/^moe-attention:domains=2x2,experts=2/);
    expect(() => largest('moe-attention:domains=2x1,experts=2', { attention: 3 })).toThrow(/attention 3 is no multiple of 2.* for its domains/);
  });

  it('should have expert NPUs between what is named least and most, and those that it begins with', () => {
    const { topology, scaled } = largestTopology(parseTopology('moe-attention:domains=1x2,experts=2'), { experts: 4 }, { experts: 1 });
    expect(formatTopology(topology)).toMatch(/^moe-attention:domains=1x2,experts=4/);
    expect(scaled).toEqual({ executor: 0, groups: 2, experts: { serving: 2, fewest: 1 } });
    expect(() => largest('moe-attention:domains=1x2,experts=2', { experts: 1 })).toThrow(/experts 1 is less than topology/);
    expect(() => largest('moe-attention:domains=1x2,experts=2', { experts: 3 }, { experts: 3 })).toThrow(/scale_min: experts 3 is more than topology/);
    expect(() => largest('colocated:dp=2', { experts: 4 })).toThrow(/has its experts on the NPUs that have attention/);
  });

  it('should be of the task executor that is named', () => {
    const text = formatTopology(parseTopology('pd:prefill=1,decode=1'));
    expect(largest(text, { executor: 'decode', attention: 3 })).not.toBe(largest(text, { executor: 'prefill', attention: 3 }));
    expect(largest(text, { executor: 1, attention: 3 })).toBe(largest(text, { executor: 'decode', attention: 3 }));
    expect(() => largest(text, { attention: 3 })).toThrow(/has 2 task executors: say which is meant/);
    expect(() => largest(text, { executor: 2, attention: 3 })).toThrow(/has no task executor 2/);
  });
});
