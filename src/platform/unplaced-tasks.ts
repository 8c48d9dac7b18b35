/**
 * Tasks that wait for a DP group: for the one that a leader will choose, or for one that serves again. No group's scheduler knows of them.
 * @module
 */
import type { TaskPlacement } from '../../actors/policies/placement.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { address } from '../protocol/address.ts';
import type { Cast } from '../runtime/cast.ts';

/** `dp_group`: who keeps the queue; where nobody leads, its task executor's first. */
export type UnplacedTasks = { readonly dp_group: number; readonly tasks: number };

export const unplacedTasks = (cast: Pick<Cast, 'contextOf'>, { hosting }: AnyPodPlan): { readonly unplaced: readonly UnplacedTasks[] } => ({
  unplaced: hosting.deployment.executors.flatMap(({ id, groups: [first] }) => {
    const { placement, leader } = cast.contextOf(address('task-executor', id)) as { placement: TaskPlacement; leader: number };
    return placement.waiting === 0 ? [] : [{ dp_group: leader < 0 ? (first as number) : leader, tasks: placement.waiting }];
  }),
});
