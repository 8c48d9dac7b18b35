/** What is judged is judged right: what is promised to go wrong is no violation. */
import { describe, expect, it } from 'vitest';
import { parsePlan } from '../../src/chaos/fault-plan.ts';
import { type CallReport, chaos, type FaultInput } from '../../src/chaos/index.ts';
import { violationsOfCall } from '../../src/chaos/invariants.ts';

const TWO_GROUPS = { topology: 'colocated:dp=2', workers: 2 };

describe('rows that go bad again and again', () => {
  const flips = (times: number): FaultInput[] => Array.from({ length: times }, () => ({ kind: 'row-bit-flip', npu: 0, at: { ms: 0 } }));

  it.each([
    [8, TWO_GROUPS, 'finished'],
    [9, TWO_GROUPS, 'worker_failed'],
    [64, { topology: 'moe-attention:domains=1x2,experts=2', schedule: 'domains' }, 'worker_failed'],
  ])('%i times in a row, of %o, should have a call end as it is said to: %s', async (times, pod, end) => {
    const { calls, violations } = await chaos.run({ pod, calls: [{ prompt_tokens: 8, max_tokens: 4 }], faults: flips(times) });
    expect([calls.map(({ code }) => code), violations]).toEqual([[end], []]);
  });

  it('should explain no failure if it was more seldom', () => {
    const message = 'rows of NPU 0 were 9 times in one step not what was left there';
    const report: CallReport = { id: 'cmpl-1', code: 'worker_failed', message, tokens: 0, chunks: 0, wrong: [] };
    const violations = (times: number): number => {
      const plan = parsePlan({ pod: TWO_GROUPS, calls: [{}], faults: flips(times) });
      const effective = plan.faults.map(({ kind }) => ({ kind, phase: 'time' as const, struck: true, effect: 1 }));
      return violationsOfCall(plan, effective, 0, report).length;
    };
    expect([violations(8), violations(9)]).toEqual([1, 0]);
  });
});
