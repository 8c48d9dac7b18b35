/** Which task executors can compute nothing for now, since experts are lost for good; which do without; and which NPUs are gone. @module */
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import type { Cast } from '../runtime/cast.ts';
import { placementOf } from './task-placement.ts';

export type LostExperts = { readonly task_executor: number; readonly reason: string };

export type MaskedExperts = { readonly task_executor: number; readonly npus: readonly number[] };

export const expertLosses = (
  cast: Pick<Cast, 'contextOf'>,
  { hosting }: AnyPodPlan,
): { readonly experts_lost: readonly LostExperts[]; readonly experts_masked: readonly MaskedExperts[]; readonly npus_gone: readonly number[] } => {
  const executors = hosting.deployment.executors.flatMap(({ id }) => {
    const placed = placementOf(cast, id);
    return placed === null ? [] : [{ task_executor: id, placement: placed.placement }];
  });
  return {
    experts_lost: executors.flatMap(({ task_executor, placement: { expertsLost: error } }) =>
      error === null ? [] : [{ task_executor, reason: error.message }],
    ),
    experts_masked: executors.flatMap(({ task_executor, placement: { masked: npus } }) => (npus.length === 0 ? [] : [{ task_executor, npus }])),
    npus_gone: executors.flatMap(({ placement: { goneNpus } }) => goneNpus),
  };
};
