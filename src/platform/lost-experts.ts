/** Which task executors can compute nothing for now, since experts are lost for good. @module */
import type { TaskPlacement } from '../../actors/policies/placement.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { address } from '../protocol/address.ts';
import type { Cast } from '../runtime/cast.ts';

export type LostExperts = { readonly task_executor: number; readonly reason: string };

export const lostExperts = (cast: Pick<Cast, 'contextOf'>, { hosting }: AnyPodPlan): LostExperts[] =>
  hosting.deployment.executors.flatMap(({ id }) => {
    const { placement } = cast.contextOf(address('task-executor', id)) as { placement: TaskPlacement };
    const error = placement.expertsLost;
    return error === null ? [] : [{ task_executor: id, reason: error.message }];
  });
