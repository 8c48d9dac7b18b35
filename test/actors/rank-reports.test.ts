/** A step of a DP group is done when all ranks are, and they must have found the same; who failed forgets all, once, and is heard for its last call alone. */
import { describe, expect, it } from 'vitest';
import { RankReports } from '../../actors/policies/rank-reports.ts';
import type { StepOutcome } from '../../src/protocol/steps.ts';

const outcome = (token: number, ...more: number[]): StepOutcome => ({
  ...{ token, logprobs: null, prompt_logprobs: null, error: null, drafts: [] },
  more: more.map((drawn) => ({ token: drawn, logprobs: null })),
});
const report = (npu: number, step: number, { us = 1, digest = 7, outcomes = [outcome(5, 6)] } = {}) => ({ npu, step, outcomes, digest, us, draft_us: us / 10 });

describe('reports of ranks', () => {
  it('should make a step done with the last of them, and say what the first rank found, whoever was last', () => {
    const reports = new RankReports([4, 5]);
    const first = report(4, 9, { us: 40 });
    expect(reports.othersAreAt(first)).toBe(true);
    reports.note(first);
    // The next step is under way already.
    reports.note(report(4, 10, { us: 50 }));
    const last = report(5, 9, { us: 60 });
    expect([reports.othersAreAt(last), reports.differs(last)]).toEqual([false, false]);
    expect(reports.take(last)).toMatchObject({ outcomes: first.outcomes, us: 40, draft_us: 4 });
    expect(reports.take(report(5, 10))).toMatchObject({ outcomes: first.outcomes, us: 50, draft_us: 5 });
    expect(reports.take(report(4, 11, { us: 70 })).us).toBe(70);
  });

  it.each([
    ['another digest', { digest: 8 }],
    ['another token', { outcomes: [outcome(4, 6)] }],
    ['another draft', { outcomes: [outcome(5, 7)] }],
    ['a draft less', { outcomes: [outcome(5)] }],
    ['another number of sequences', { outcomes: [outcome(5, 6), outcome(5, 6)] }],
  ])('should tell what differs: %s', (_, other) => {
    const reports = new RankReports([4, 5]);
    reports.note(report(4, 9));
    expect([reports.differs(report(5, 9)), reports.differs(report(5, 9, other)), reports.differs(report(5, 8, other))]).toEqual([false, true, false]);
  });
});

describe('ranks that are to forget', () => {
  it('should each be called, and be clean when they have answered their last call', () => {
    const reports = new RankReports([4, 5]);
    expect(reports.resetAll()).toEqual([
      { npu: 4, reset: 1 },
      { npu: 5, reset: 2 },
    ]);
    reports.resetAll();
    reports.noteReset(4, 1);
    reports.noteReset(4, 3);
    expect(reports.areClean).toBe(false);
    reports.noteReset(5, 4);
    expect(reports.areClean).toBe(true);
  });

  it('should not be called while they are gone, and keep the group from being clean until they are back', () => {
    const reports = new RankReports([4, 5]);
    reports.lose(5);
    expect([reports.areClean, reports.resetAll().map(({ npu }) => npu)]).toEqual([false, [4]]);
    reports.noteReset(4, 1);
    expect(reports.areClean).toBe(false);
    expect(reports.reset(5)).toEqual({ npu: 5, reset: 2 });
    reports.noteReset(5, 2);
    expect(reports.areClean).toBe(true);
  });

  it('should be none where a group has one NPU', () => {
    const reports = new RankReports([4]);
    expect([reports.isAlone, reports.resetAll(), reports.areClean]).toEqual([true, [], true]);
  });
});
