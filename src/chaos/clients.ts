/**
 * Clients of a run that may leave at any time, and which of them a message is about.
 * @module
 */
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { callId } from '../calls/calls.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { type Address, idOf, roleOf } from '../protocol/address.ts';
import { callOf, requestOfTask } from '../protocol/request-ids.ts';
import type { Mail } from '../runtime/cast.ts';

/** By their call's place in the plan. */
export class Clients {
  readonly #reading = new Map<number, AbortController>();
  readonly #calls = new Map<string, number>();

  /** It has asked, and its call has an id. */
  enter(call: number, id: string, abort: AbortController): void {
    this.#reading.set(call, abort);
    this.#calls.set(id, call);
  }

  /** Whether it was there: it has asked, and has not left. */
  leave(call: number): boolean {
    const abort = this.#reading.get(call);
    this.#reading.delete(call);
    abort?.abort();
    return abort !== undefined;
  }

  /** All calls have ended. */
  close(): void {
    this.#reading.clear();
  }

  /** Of whose call a message is, or, where it is none's, of one that its DP group computes; of those that have not left. */
  metBy({ to, from, message }: Mail, control: VirtualControl): number | undefined {
    const actors = ['task' in message && typeof message.task === 'string' ? (message.task as Address) : to, to, from];
    const ids = actors.flatMap((actor) => idsOf(actor));
    const group = groupOf(to, control);
    return [...ids, ...(group === undefined ? [] : callsComputedBy(group, control))]
      .map((id) => this.#calls.get(id))
      .find((call) => call !== undefined && this.#reading.has(call));
  }
}

/** Ids of the calls that a DP group holds; none, where it is lost just now. */
export function callsComputedBy(group: Address, { host }: VirtualControl): string[] {
  const held = host.cast.contextOf(group) as { scheduler: StepScheduler } | null;
  if (held === null) return [];
  const { running } = held.scheduler.toJSON() as { running: readonly { task: Address }[] };
  return running.flatMap(({ task }) => idsOf(task));
}

function groupOf(actor: Address, { plan }: VirtualControl): Address | undefined {
  if (roleOf(actor) === 'dp-group') return actor;
  const place = roleOf(actor) === 'npu' ? plan.hosting.deployment.npus[idOf(actor)] : undefined;
  return place?.kind === 'attention' ? `dp-group/${place.group}` : undefined;
}

function idsOf(actor: Address): string[] {
  switch (roleOf(actor)) {
    case 'request':
    case 'job':
      return [callId(callOf(idOf(actor)))];
    case 'task':
      return [callId(callOf(requestOfTask(actor)))];
    default:
      return [];
  }
}
