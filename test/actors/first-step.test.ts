/** What a DP group that idles begins with. */
import { expect, it } from 'vitest';
import { abandon, enqueueSequence } from '../../src/protocol/constructors.ts';
import { greedySequence } from '../golden/greedy.ts';
import { LoneGroup } from './lone-group.ts';

/** Slots' counts of each step, and the group. */
function makeGroup(): { readonly steps: number[]; readonly group: LoneGroup } {
  const steps: number[] = [];
  const group = new LoneGroup('dp-group/1', ['npu/1'], { batch_requests_max: 8 }, (to, sent) => {
    if (to === 'npu/1' && sent.type === 'STEP') steps.push(sent.plan.entries.length);
  });
  return { steps, group };
}
const enqueued = (request: number) => enqueueSequence(`task/${request}`, greedySequence(request, [1, 2, request], 4));

it('should begin with all that came at once', () => {
  const { steps, group } = makeGroup();
  group.tell(enqueued(1), enqueued(2), enqueued(3));
  expect(steps).toEqual([3]);
  group.tell(enqueued(4));
  expect(steps).toEqual([3]);
});

it('should begin nothing where all that came has gone before it began', () => {
  const { steps, group } = makeGroup();
  group.tell(enqueued(1), abandon('task/1'));
  expect(steps).toEqual([]);
  expect(group.state).toBe('idle');
  group.tell(enqueued(2));
  expect(steps).toEqual([1]);
});
