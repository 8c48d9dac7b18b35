/** What a pod's figures say of task executors, also while one of them does not live. */
import { expect, it } from 'vitest';
import type { AnyPodPlan } from '../../src/flowserve/pod-plan.ts';
import { expertLosses } from '../../src/platform/lost-experts.ts';
import { unplacedTasks } from '../../src/platform/unplaced-tasks.ts';

const executors = [0, 1, 2].map((id) => ({ id, groups: [2 * id, 2 * id + 1] }));
const plan = { hosting: { deployment: { executors } } } as unknown as AnyPodPlan;
const placement = (of: object) => ({ waiting: 0, expertsLost: null, masked: [], goneNpus: [], ...of });

const contexts: Readonly<Record<string, object>> = {
  'task-executor/0': { leader: -1, placement: placement({ waiting: 3, expertsLost: new Error('gone'), goneNpus: [1] }) },
  'task-executor/2': { leader: 5, placement: placement({ waiting: 2, masked: [4] }) },
};
const cast = { contextOf: (of: string): unknown => contexts[of] ?? null };

it('each that lives tells of its tasks and its experts; one that does not, of nothing', () => {
  expect(unplacedTasks(cast, plan).unplaced).toEqual([
    { dp_group: 0, tasks: 3 },
    { dp_group: 5, tasks: 2 },
  ]);
  expect(expertLosses(cast, plan)).toEqual({
    experts_lost: [{ task_executor: 0, reason: 'gone' }],
    experts_masked: [{ task_executor: 2, npus: [4] }],
    npus_gone: [1],
  });
});
