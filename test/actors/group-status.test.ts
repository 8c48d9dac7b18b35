/** What a group has to do, as its leader hears it. */
import { expect, it } from 'vitest';
import { enqueueSequence, statusWanted, stepDone } from '../../src/protocol/constructors.ts';
import { greedySequence } from '../golden/greedy.ts';
import { LoneGroup } from './lone-group.ts';

const LEADER = 'dp-group/0';
const drawn = (token: number) => ({ token, logprobs: null, prompt_logprobs: null, error: null, more: [], drafts: [] });

it('should be the tokens of prompts, whoever runs or waits, the longest of them, and how many decode beside', () => {
  const told: object[] = [];
  const group = new LoneGroup('dp-group/1', ['npu/1'], { batch_tokens_max: 8, batch_requests_max: 2 }, (to, sent) => {
    if (to === LEADER && sent.type === 'GROUP_STATUS') told.push(sent.state);
  });
  const ask = (): object | undefined => {
    group.tell(statusWanted(LEADER, 1));
    return told.at(-1);
  };
  expect(ask()).toEqual({ group: 1, backlog_tokens: 0, longest_tokens: 0, decodes: 0 });
  group.tell(enqueueSequence('task/1', greedySequence(1, [1, 2, 3], 9)));
  group.tell(stepDone(1, 1, [drawn(9)], 0, 0, 0));
  expect(ask()).toEqual({ group: 1, backlog_tokens: 0, longest_tokens: 0, decodes: 1 });
  group.tell(enqueueSequence('task/2', greedySequence(2, Array(12).fill(7), 9)), enqueueSequence('task/3', greedySequence(3, Array(5).fill(8), 9)));
  // One token of the next step is its own.
  group.tell(stepDone(1, 2, [drawn(9)], 0, 0, 0));
  expect(ask()).toEqual({ group: 1, backlog_tokens: 12 - 7 + 5, longest_tokens: 5, decodes: 1 });
});
