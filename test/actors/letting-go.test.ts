/** A step that was launched for who has ended is waited for by nobody. */
import { expect, it } from 'vitest';
import { enqueueSequence, stepDone } from '../../src/protocol/constructors.ts';
import type { Sequence } from '../../src/protocol/messages.ts';
import { greedySequence } from '../golden/greedy.ts';
import { LoneGroup } from './lone-group.ts';

const STOP = 2;
const stopping = (request: number): Sequence => {
  const sequence = greedySequence(request, [5, 6, request], 8);
  return { ...sequence, sampling: { ...sequence.sampling, stop_token_ids: [STOP] } };
};
const drawn = (token: number) => ({ token, logprobs: null, prompt_logprobs: null, error: null, more: [], drafts: [] });

/** What a group that plans ahead tells its NPU when each of its sequences has drawn its token: steps, and up to which it need not go on. */
function told(...tokens: readonly number[]): string[] {
  const sent: string[] = [];
  const group = new LoneGroup('dp-group/0', ['npu/0'], { is_asynchronous: true }, (to, message) => {
    if (to !== 'npu/0') return;
    if (message.type === 'STEP') sent.push(`step ${message.plan.step}`);
    if (message.type === 'LET_GO') sent.push(`let go of ${message.step}`);
  });
  group.tell(...tokens.map((_, request) => enqueueSequence(`task/${request}`, stopping(request))));
  // The second one is planned while the first one after the prompts runs.
  group.tell(
    stepDone(
      0,
      1,
      tokens.map(() => drawn(9)),
      0,
      0,
      0,
    ),
  );
  sent.splice(0);
  group.tell(stepDone(0, 2, tokens.map(drawn), 0, 0, 0));
  return sent;
}

it('is let go of where a stop token has ended the last who waits', () => {
  expect(told(STOP)).toEqual(['let go of 3']);
  expect(told(STOP, STOP)).toEqual(['let go of 3']);
});

it('goes on where somebody is left', () => {
  expect(told(STOP, 9)).toEqual(['step 4']);
});
