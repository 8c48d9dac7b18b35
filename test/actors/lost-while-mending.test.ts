/** A rank that is lost while its DP group rolls back a step which memory had gone bad under: what goes on has lost its KV there, and nobody may go on from it. */
import { expect, it } from 'vitest';
import { enqueueSequence, rankBack, rankLost, rankReset, stepDone, stepFailed } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { StepPlan } from '../../src/protocol/steps.ts';
import { greedySequence } from '../golden/greedy.ts';
import { LoneGroup } from './lone-group.ts';

const SELF = 'dp-group/0';
const RANKS = [0, 1];
const BAD: ErrorRecord = { code: 'worker_failed', message: 'a block went bad', param: null };
const LOST: ErrorRecord = { code: 'worker_lost', message: 'worker 1 failed', param: null };
const PROMPT = Array.from({ length: 10 }, (_, at) => at);

/** A group of two ranks whose sequence has a token, and whose next step is launched; `bad`: the block of its prompt. */
function mending() {
  const plans: StepPlan[] = [];
  const failed: string[] = [];
  const resets = new Map<string, number>();
  const group = new LoneGroup(SELF, ['npu/0', 'npu/1'], {}, (to, sent) => {
    if (sent.type === 'STEP' && to === 'npu/0') plans.push(sent.plan);
    if (sent.type === 'RESET') resets.set(to, sent.reset);
    if (sent.type === 'GENERATION_FAILED') failed.push(`${to} ${sent.error.code}`);
  });
  const resetRanks = (): void => {
    for (const rank of RANKS) group.tell(rankReset(rank, resets.get(`npu/${rank}`) as number));
  };
  const last = (): StepPlan => plans.at(-1) as StepPlan;
  resetRanks();
  group.tell(enqueueSequence('task/1', greedySequence(1, PROMPT, 8)));
  const [bad = -1] = last().entries[0]?.blocks ?? [];
  const token = { token: 9, logprobs: null, prompt_logprobs: null, error: null, more: [], drafts: [] };
  const { step } = last();
  for (const rank of RANKS) group.tell(stepDone(rank, step, [token], 0, 0, 0));
  return { group, failed, resetRanks, last, bad };
}

it('fails what would go on, and computes the next prompt from its beginning', () => {
  const { group, failed, resetRanks, last, bad } = mending();
  group.tell(stepFailed(0, last().step, BAD, [bad]));
  expect(group.state).toBe('rolling-back');
  expect(failed).toEqual([]);
  group.tell(rankLost(1, LOST));
  expect(failed).toEqual(['task/1 worker_lost']);
  group.tell(rankBack(1));
  resetRanks();
  expect(group.state).toBe('idle');
  group.tell(enqueueSequence('task/2', greedySequence(2, PROMPT, 8)));
  expect(last().entries[0]).toMatchObject({ start: 0, shared: 0 });
});

it('a rank that fails at the step that is given up costs nobody anything: that step is computed again', () => {
  const { group, failed, resetRanks, last, bad } = mending();
  const { step } = last();
  group.tell(stepFailed(0, step, BAD, [bad]));
  group.tell(stepFailed(1, step, BAD, []));
  expect([group.state, failed]).toEqual(['rolling-back', []]);
  resetRanks();
  expect([group.state, failed]).toEqual(['stepping', []]);
  // What lay in the block, from the beginning.
  expect(last().entries[0]).toMatchObject({ start: 0 });
});
