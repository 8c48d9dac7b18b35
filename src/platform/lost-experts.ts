/** Which task executors can compute nothing for now, since experts are lost for good; which do without; and which NPUs are gone. @module */
import type { TaskPlacement } from '../../actors/policies/placement.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { address } from '../protocol/address.ts';
import type { Cast } from '../runtime/cast.ts';

export type LostExperts = { readonly task_executor: number; readonly reason: string };

export type MaskedExperts = { readonly task_executor: number; readonly npus: readonly number[] };
type Actors = Pick<Cast, 'contextOf'>;
const placementOf = (cast: Actors, executor: number): TaskPlacement =>
  (cast.contextOf(address('task-executor', executor)) as { placement: TaskPlacement }).placement;

export const expertLosses = (
  cast: Actors,
  { hosting }: AnyPodPlan,
): { readonly experts_lost: readonly LostExperts[]; readonly experts_masked: readonly MaskedExperts[]; readonly npus_gone: readonly number[] } => {
  const executors = hosting.deployment.executors.map(({ id }) => ({ task_executor: id, placement: placementOf(cast, id) }));
  return {
    experts_lost: executors.flatMap(({ task_executor, placement: { expertsLost: error } }) =>
      error === null ? [] : [{ task_executor, reason: error.message }],
    ),
    experts_masked: executors.flatMap(({ task_executor, placement: { masked: npus } }) => (npus.length === 0 ? [] : [{ task_executor, npus }])),
    npus_gone: executors.flatMap(({ placement: { goneNpus } }) => goneNpus),
  };
};
