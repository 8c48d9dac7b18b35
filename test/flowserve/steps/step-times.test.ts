/** What steps and the gaps between them are told to take. */
import { expect, it } from 'vitest';
import { StepClock } from '../../../src/flowserve/steps/step-times.ts';
import type { StepPlan } from '../../../src/protocol/steps.ts';

const DECODE = { step: 1, after: 0, detach: [], entries: [{ tokens: [7], drafts: 0, attach: null }] } as unknown as StepPlan;

it('an NPU whose host computes for others between two of its steps does not stand still', () => {
  let now_us = 0;
  const clock = new StepClock(() => now_us);
  const compute = (us: number): void => {
    clock.resume();
    now_us += us;
    clock.pause();
  };
  const step = (npu: number): void => {
    clock.resume();
    clock.begin(npu);
    now_us += 100;
    clock.pause();
    now_us += 30;
    compute(50);
    clock.end(npu, DECODE);
  };
  step(0);
  now_us += 20;
  compute(40);
  step(1);
  now_us += 5;
  step(0);
  const { decodes, gaps, last_us } = clock.timesOf(0);
  expect(decodes.sum_us).toBe(180 + 180);
  // 40 for others and the 150 that NPU 1 computed are none; the 30 that it waited for its peers meanwhile are.
  expect(gaps.sum_us).toBe(20 + 5 + 30);
  expect(last_us).toBe(20 + 40 + 180 + 5 + 180);
});
