/** A step that was planned while the one before it ran goes on from what that has drawn. */
import { describe, expect, it } from 'vitest';
import type { Drafter } from '../../../src/flowserve/drafters/drafter.ts';
import { SlotTokens } from '../../../src/flowserve/steps/slot-tokens.ts';
import { LAST_SAMPLED, type StepEntry, type StepPlan } from '../../../src/protocol/steps.ts';

const entry = (change: Partial<StepEntry>): StepEntry => ({
  ...{ slot: 2, start: 10, tokens: [LAST_SAMPLED], first_block: 0, blocks: [], shared: 0, generated: 4, samples: true, drafts: 0, foresees: -1 },
  ...{ attach: null, output: [] },
  ...change,
});
const planOf = (...entries: StepEntry[]): StepPlan => ({ step: 3, entries }) as unknown as StepPlan;

/** Drafts so many tokens from 100 on, as far as it may. */
const drafterOf = (found: number): Drafter & { readonly drawn: number[][] } => ({
  drawn: [],
  attach: () => {},
  detach: () => {},
  reset: () => {},
  drew(slot, token) {
    this.drawn.push([slot, token]);
  },
  draft: (_slot, max, drafts) => {
    for (let at = 0; at < Math.min(found, max); at++) drafts.push(100 + at);
  },
  goesThrough: () => false,
  tail: () => [],
});

describe('the tokens of a slot', () => {
  it('should be filled in where a step goes on from what was drawn, as far as the sequence has got', () => {
    const tokens = new SlotTokens(drafterOf(2));
    // Planned from position 10 with four generated; the step before has drawn three.
    tokens.drew(2, 77, 13);
    const [resolved] = tokens.resolve(planOf(entry({ drafts: 4 }))).entries;
    expect(resolved).toMatchObject({ start: 13, tokens: [77, 100, 101], generated: 7, drafts: 2 });
  });

  it('should be left as they are where the plan says them, with drafts behind them', () => {
    const tokens = new SlotTokens(drafterOf(3));
    const own = entry({ start: 12, tokens: [55], generated: 6, drafts: 1 });
    const prefill = entry({ slot: 0, start: 0, tokens: [1, 2, 3], generated: 0 });
    expect(tokens.resolve(planOf(own, prefill)).entries).toEqual([{ ...own, tokens: [55, 100], drafts: 1 }, prefill]);
    const plan = planOf(prefill);
    expect(tokens.resolve(plan)).toBe(plan);
  });

  it('should not be drafts where none are asked for, wherever the sequence has got', () => {
    const tokens = new SlotTokens(drafterOf(3));
    const plan = planOf(entry({ drafts: 0 }));
    tokens.drew(2, 77, 10);
    expect(tokens.resolve(plan)).toBe(plan);
    tokens.drew(2, 78, 12);
    expect(tokens.resolve(plan).entries[0]).toMatchObject({ start: 12, tokens: [78], drafts: 0, generated: 6 });
  });

  it('should be told to the drafter, but for one that could not be drawn: that one is computed for nobody', () => {
    const drafter = drafterOf(0);
    const tokens = new SlotTokens(drafter);
    tokens.drew(2, 0, 9);
    tokens.drew(2, -1, 10);
    expect([drafter.drawn, tokens.lastOf(2)]).toEqual([[[2, 0]], 0]);
  });
});
