/** A DP group that told its leader that it has no room tells it when it has, also where no step's end makes that room. */
import { expect, it } from 'vitest';
import { abandon, enqueueSequence, handBack, offered, statusWanted, stepDone, stopFound } from '../../src/protocol/constructors.ts';
import type { DpGroupMessage } from '../../src/protocol/messages.ts';
import { greedySequence } from '../golden/greedy.ts';
import { LoneGroup } from './lone-group.ts';

const SELF = 'dp-group/1';
const LEADER = 'dp-group/0';
it.each<DpGroupMessage>([abandon('task/2'), stopFound('task/2'), handBack('task-executor/0', true)])('tells of it while nothing runs: $type', (message) => {
  const backlogs: number[] = [];
  const group = new LoneGroup(SELF, ['npu/1'], { batch_tokens_max: 8, batch_requests_max: 1 }, (to, sent) => {
    if (to === LEADER && sent.type === 'GROUP_STATUS') backlogs.push(sent.state.backlog_tokens);
  });
  group.tell(statusWanted(LEADER, 1));
  group.tell(enqueueSequence('task/1', greedySequence(1, [1, 2, 3], 4), 'prefill'));
  group.tell(stepDone(1, 1, [{ token: 9, logprobs: null, prompt_logprobs: null, error: null, more: [], drafts: [] }], 0, 0, 0));
  group.tell(offered(1, { npu: 1, die: 1, epoch: 1, slot: 0, serial: 1, blocks: [0] }));
  // Until somebody pulls what is lent, it may lend no more, so it computes none of this.
  group.tell(enqueueSequence('task/2', greedySequence(2, Array(20).fill(7), 4), 'prefill'));
  expect(group.state).toBe('idle');
  expect(backlogs.at(-1)).toBe(20);
  group.tell(message);
  expect(group.state).toBe('idle');
  expect(backlogs.at(-1)).toBe(0);
});

it('says nothing unasked: neither where it had room all the time, nor before it has', () => {
  const told: number[] = [];
  const group = new LoneGroup(SELF, ['npu/1'], { batch_tokens_max: 8, batch_requests_max: 1 }, (to, sent) => {
    if (to === LEADER && sent.type === 'GROUP_STATUS') told.push(sent.state.backlog_tokens);
  });
  const outcome = { token: -1, logprobs: null, prompt_logprobs: null, error: null, more: [], drafts: [] };
  group.tell(statusWanted(LEADER, 1));
  group.tell(enqueueSequence('task/1', greedySequence(1, Array(40).fill(7), 4)));
  const backlog = told.at(-1) ?? 0;
  expect(told).toEqual([0, backlog]);
  expect(backlog).toBeGreaterThan(3 * 8);
  group.tell(stepDone(1, 1, [outcome], 0, 0, 0));
  expect(told).toHaveLength(2);
  for (let step = 2; step <= 4; step++) group.tell(stepDone(1, step, [outcome], 0, 0, 0));
  // Once there is room, and no more.
  expect(told).toHaveLength(3);
  expect(told.at(-1)).toBeLessThan(2 * 8);
});

it('says so as soon as a step takes of what came, while more may be given to it', () => {
  const told: number[] = [];
  const group = new LoneGroup(SELF, ['npu/1'], { batch_tokens_max: 8, batch_requests_max: 1 }, (to, sent) => {
    if (to === LEADER && sent.type === 'GROUP_STATUS') told.push(sent.state.backlog_tokens);
  });
  group.tell(statusWanted(LEADER, 1));
  group.tell(enqueueSequence('task/1', greedySequence(1, Array(2 * 8).fill(7), 4)));
  expect(group.state).toBe('stepping');
  expect(told).toEqual([0, 2 * 8, 8]);
});
