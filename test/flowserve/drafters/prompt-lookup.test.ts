/** Prompt lookup drafts what followed the longest, and of equals the last, place that ends as the sequence does. */
import { describe, expect, it } from 'vitest';
import { type LookupLimits, PromptLookup } from '../../../src/flowserve/drafters/prompt-lookup.ts';
import { greedySequence } from '../../golden/greedy.ts';

function draftsFor(tokens: readonly number[], max: number, limits: LookupLimits = { lookup_max: 3, lookup_min: 2 }): number[] {
  const drafter = new PromptLookup(limits);
  const prompt = tokens.slice(0, 3);
  drafter.attach(0, { ...greedySequence(1, prompt, 99), drafts: true }, tokens.slice(3, -1));
  drafter.drew(0, tokens.at(-1) as number);
  const drafts: number[] = [];
  drafter.draft(0, max, drafts);
  return drafts;
}

describe('prompt lookup', () => {
  it('should draft what followed the same tokens before', () => {
    expect(draftsFor([1, 2, 3, 4, 5, 6, 7, 2, 3], 3)).toEqual([4, 5, 6]);
    expect(draftsFor([1, 2, 3, 4, 5, 6, 7, 2, 3], 1)).toEqual([4]);
  });

  it('should want as many tokens found again as it is told, and no fewer, also at the very beginning', () => {
    expect(draftsFor([9, 3, 4, 5, 6, 7, 2, 3], 2)).toEqual([]);
    expect(draftsFor([9, 3, 4, 5, 6, 7, 2, 3], 2, { lookup_max: 3, lookup_min: 1 })).toEqual([4, 5]);
    expect(draftsFor([2, 3, 4, 5, 6, 7, 2, 3], 2)).toEqual([4, 5]);
    expect(draftsFor([2, 3, 4, 5, 6, 7, 2, 3], 2, { lookup_max: 3, lookup_min: 3 })).toEqual([]);
    expect(draftsFor([3, 4, 5, 6, 7, 3], 2, { lookup_max: 1, lookup_min: 1 })).toEqual([4, 5]);
  });

  it('should prefer the longer agreement, and of equals the last place', () => {
    expect(draftsFor([1, 2, 3, 50, 9, 2, 3, 60, 1, 2, 3], 1)).toEqual([50]);
    expect(draftsFor([8, 2, 3, 50, 9, 2, 3, 60, 1, 2, 3], 1)).toEqual([60]);
    // More than is looked for does not count.
    expect(draftsFor([1, 2, 3, 50, 9, 2, 3, 60, 1, 2, 3], 1, { lookup_max: 2, lookup_min: 2 })).toEqual([60]);
  });

  it('should go on with what repeats itself at the end', () => {
    expect(draftsFor([5, 1, 2, 1, 2], 5)).toEqual([1, 2, 1, 2, 1]);
  });

  it('should draft for nobody who wants none, has gone, or was reset, and keep texts that outgrow their room', () => {
    const drafter = new PromptLookup({ lookup_max: 2, lookup_min: 2 });
    const drafted = (slot: number): number[] => {
      const drafts: number[] = [];
      drafter.draft(slot, 2, drafts);
      return drafts;
    };
    const text = Array.from({ length: 200 }, (_, at) => at);
    drafter.attach(0, { ...greedySequence(1, [500, 501, 502], 999), drafts: true }, []);
    drafter.attach(1, { ...greedySequence(1, [500, 501, 502, 500, 501], 999), drafts: false }, []);
    for (const token of [...text, 500, 501]) drafter.drew(0, token);
    expect([drafted(0), drafted(1), drafted(2)]).toEqual([[502, 0], [], []]);
    drafter.detach(0);
    expect(drafted(0)).toEqual([]);
    drafter.attach(0, { ...greedySequence(1, [7, 8, 9, 7, 8], 999), drafts: true }, []);
    expect(drafted(0)).toEqual([9, 7]);
    drafter.reset();
    expect(drafted(0)).toEqual([]);
  });
});
