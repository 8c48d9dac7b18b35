/** Where a task executor places its tasks, as its actor has it. @module */
import type { TaskPlacement } from '../../actors/policies/placement.ts';
import { address } from '../protocol/address.ts';
import type { Cast } from '../runtime/cast.ts';

/** `leader`: the DP group that keeps its queue, −1: none. Null: it does not live here, so it has nothing to tell. */
export const placementOf = (cast: Pick<Cast, 'contextOf'>, executor: number): { readonly placement: TaskPlacement; readonly leader: number } | null =>
  cast.contextOf(address('task-executor', executor)) as { placement: TaskPlacement; leader: number } | null;
