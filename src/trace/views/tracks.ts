/**
 * Where an act is shown: an NPU and its DP group share a track, a choice has one with its tasks, and its request and job stand on that of choice 0.
 * @module
 */
import { type Address, idOf, roleOf } from '../../protocol/address.ts';
import { choiceOfTask } from '../../protocol/messages.ts';
import type { DpGroups } from './dp-groups.ts';

export type Track =
  | { readonly kind: 'npu'; readonly npu: number }
  | { readonly kind: 'choice'; readonly request: number; readonly choice: number }
  /** An actor of the control plane, or all experts: `task-executor/0`, `experts`. */
  | { readonly kind: 'control'; readonly name: string };

/** A DP group of several NPUs is shown with the first. */
export function trackOf(actor: Address, groups: DpGroups): Track {
  switch (roleOf(actor)) {
    case 'npu':
      return { kind: 'npu', npu: idOf(actor) };
    case 'dp-group':
      return { kind: 'npu', npu: groups.firstNpuOf(idOf(actor)) };
    case 'request':
    case 'job':
      return { kind: 'choice', request: idOf(actor), choice: 0 };
    case 'task':
      return { kind: 'choice', ...choiceOfTask(idOf(actor)) };
    case 'expert':
      return { kind: 'control', name: 'experts' };
    default:
      return { kind: 'control', name: actor };
  }
}
