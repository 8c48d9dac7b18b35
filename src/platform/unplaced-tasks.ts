/**
 * Tasks that wait for a DP group: for the one that a leader will choose, or for one that serves again. No group's scheduler knows of them.
 * @module
 */
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import type { Cast } from '../runtime/cast.ts';
import { placementOf } from './task-placement.ts';

/** `dp_group`: who keeps the queue; where nobody leads, its task executor's first. */
export type UnplacedTasks = { readonly dp_group: number; readonly tasks: number };

export const unplacedTasks = (cast: Pick<Cast, 'contextOf'>, { hosting }: AnyPodPlan): { readonly unplaced: readonly UnplacedTasks[] } => ({
  unplaced: hosting.deployment.executors.flatMap(({ id, groups: [first] }) => {
    const placed = placementOf(cast, id);
    if (placed === null || placed.placement.waiting === 0) return [];
    return [{ dp_group: placed.leader < 0 ? (first as number) : placed.leader, tasks: placed.placement.waiting }];
  }),
});
