/** A rank that is lost while its DP group rolls back a step which memory had gone bad under: what goes on has lost its KV there, and nobody may go on from it. */
import { expect, it } from 'vitest';
import { dpGroup } from '../../actors/dp-group.ts';
import { enqueueSequence, rankBack, rankLost, rankReset, stepDone, stepFailed } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { DpGroupMessage, Message } from '../../src/protocol/messages.ts';
import type { StepPlan } from '../../src/protocol/steps.ts';
import { ActorHost } from '../../src/runtime/actor-host.ts';
import { greedySequence } from '../golden/greedy.ts';

const SELF = 'dp-group/0';
const RANKS = [0, 1];
const LIMITS = {
  ...{ kv_blocks: 100, kv_block_size: 4, batch_tokens_max: 32, batch_requests_max: 2, has_prefix_cache: true, is_asynchronous: false, has_priorities: true },
  ...{ dram_blocks: 0, cache_costs: null, lends_by_layer: false, offers_max: 1, shares_prefixes: false, drafts_max: 0, drafts_as_pays: false, foresight: 0 },
};
const BAD: ErrorRecord = { code: 'worker_failed', message: 'a block went bad', param: null };
const LOST: ErrorRecord = { code: 'worker_lost', message: 'worker 1 failed', param: null };

it('fails what would go on, and computes the next prompt from its beginning', () => {
  const plans: StepPlan[] = [];
  const failed: string[] = [];
  const resets = new Map<string, number>();
  const host = new ActorHost({
    clock: { now_ms: () => 0 },
    isLocal: (to) => to === SELF,
    transmit: (to, _, sent: Message) => {
      if (sent.type === 'STEP' && to === 'npu/0') plans.push(sent.plan);
      if (sent.type === 'RESET') resets.set(to, sent.reset);
      if (sent.type === 'GENERATION_FAILED') failed.push(`${to} ${sent.error.code}`);
    },
    birthOf: () => null,
    hands: new Map(),
    launch: () => {},
    transfer: () => {},
    claim: () => {},
    onUnexpected: (_, { type }, state) => expect.fail(`${type} in ${state}`),
  });
  const tell = (told: DpGroupMessage): void => {
    host.send(SELF, SELF, told);
    host.turn();
  };
  const resetRanks = (): void => {
    for (const rank of RANKS) tell(rankReset(rank, resets.get(`npu/${rank}`) as number));
  };
  const done = (): void => {
    const { step } = plans.at(-1) as StepPlan;
    for (const rank of RANKS) tell(stepDone(rank, step, [{ token: 9, logprobs: null, prompt_logprobs: null, error: null, more: [], drafts: [] }], 0, 0, 0));
  };

  host.spawn(SELF, { machine: dpGroup, input: { self: SELF, npus: ['npu/0', 'npu/1'], limits: LIMITS, lease_ms: 30_000 } });
  host.turn();
  resetRanks();
  const prompt = Array.from({ length: 10 }, (_, at) => at);
  tell(enqueueSequence('task/1', greedySequence(1, prompt, 8)));
  const [bad = -1] = (plans.at(-1) as StepPlan).entries[0]?.blocks ?? [];
  done();
  tell(stepFailed(0, (plans.at(-1) as StepPlan).step, BAD, [bad]));
  expect(host.cast.stateOf(SELF)).toBe('rolling-back');
  expect(failed).toEqual([]);
  tell(rankLost(1, LOST));
  expect(failed).toEqual(['task/1 worker_lost']);
  tell(rankBack(1));
  resetRanks();
  expect(host.cast.stateOf(SELF)).toBe('idle');
  tell(enqueueSequence('task/2', greedySequence(2, prompt, 8)));
  expect((plans.at(-1) as StepPlan).entries[0]).toMatchObject({ start: 0, shared: 0 });
});
