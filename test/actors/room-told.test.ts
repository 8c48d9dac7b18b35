/** A DP group that told its leader that it has no room tells it when it has, also where no step's end makes that room. */
import { expect, it } from 'vitest';
import { dpGroup } from '../../actors/dp-group.ts';
import { abandon, enqueueSequence, handBack, offered, statusWanted, stepDone, stopFound } from '../../src/protocol/constructors.ts';
import type { DpGroupMessage, Message } from '../../src/protocol/messages.ts';
import { ActorHost } from '../../src/runtime/actor-host.ts';
import { greedySequence } from '../golden/greedy.ts';

const SELF = 'dp-group/1';
const LEADER = 'dp-group/0';
const LIMITS = {
  ...{ kv_blocks: 100, kv_block_size: 4, batch_tokens_max: 8, batch_requests_max: 1, has_prefix_cache: true, is_asynchronous: false, has_priorities: true },
  ...{ dram_blocks: 0, cache_costs: null, lends_by_layer: false, offers_max: 1, shares_prefixes: false, drafts_max: 0, drafts_as_pays: false, foresight: 0 },
};

it.each<DpGroupMessage>([abandon('task/2'), stopFound('task/2'), handBack('task-executor/0')])('tells of it while nothing runs: $type', (message) => {
  const backlogs: number[] = [];
  const host = new ActorHost({
    clock: { now_ms: () => 0 },
    isLocal: (to) => to === SELF,
    transmit: (to, _, sent: Message) => {
      if (to === LEADER && sent.type === 'GROUP_STATUS') backlogs.push(sent.state.backlog_tokens);
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
  host.spawn(SELF, { machine: dpGroup, input: { self: SELF, npus: ['npu/1'], limits: LIMITS, lease_ms: 30_000 } });
  tell(statusWanted(LEADER, 1));
  tell(enqueueSequence('task/1', greedySequence(1, [1, 2, 3], 4), 'prefill'));
  tell(stepDone(1, 1, [{ token: 9, logprobs: null, prompt_logprobs: null, error: null, more: [], drafts: [] }], 0, 0, 0));
  tell(offered(1, { npu: 1, die: 1, epoch: 1, slot: 0, serial: 1, blocks: [0] }));
  // Until somebody pulls what is lent, it may lend no more, so it computes none of this.
  tell(enqueueSequence('task/2', greedySequence(2, Array(20).fill(7), 4), 'prefill'));
  expect(host.cast.stateOf(SELF)).toBe('idle');
  expect(backlogs.at(-1)).toBe(20);
  tell(message);
  expect(host.cast.stateOf(SELF)).toBe('idle');
  expect(backlogs.at(-1)).toBe(0);
});
