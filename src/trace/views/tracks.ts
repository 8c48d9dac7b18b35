/**
 * Where an act is shown: an NPU and its DP group share a track, a choice has one with its task, and its request and job stand on that of choice 0.
 * @module
 */
import { type Address, idOf, roleOf } from '../../protocol/address.ts';
import { CHOICES_MAX } from '../../protocol/messages.ts';

export type Track =
  | { readonly kind: 'npu'; readonly npu: number }
  | { readonly kind: 'choice'; readonly request: number; readonly choice: number }
  /** An actor of the control plane, or all experts: `task-executor/0`, `experts`. */
  | { readonly kind: 'control'; readonly name: string };

export function trackOf(actor: Address): Track {
  switch (roleOf(actor)) {
    case 'npu':
    case 'dp-group':
      return { kind: 'npu', npu: idOf(actor) };
    case 'request':
    case 'job':
      return { kind: 'choice', request: idOf(actor), choice: 0 };
    case 'task':
      return { kind: 'choice', request: Math.floor(idOf(actor) / CHOICES_MAX), choice: idOf(actor) % CHOICES_MAX };
    case 'expert':
      return { kind: 'control', name: 'experts' };
    default:
      return { kind: 'control', name: actor };
  }
}
