/** When calls of a run were open, as the pod has it (who reads late hears of an end late), and of which nobody watched how long they take. @module */
import { callId } from '../calls/calls.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { address } from '../protocol/address.ts';

/** States in which a request goes on (actors/request.ts). */
const GOES_ON: ReadonlySet<string> = new Set(['admitted', 'queued', 'running', 'streaming', 'replacing']);

/** From when to when, in virtual time; one that has not ended ends never. */
export type Span = { readonly since_ms: number; readonly until_ms: number };
type Opened = { readonly span: { readonly since_ms: number; until_ms: number }; request: number };

export class CallTimes {
  readonly #pod: { readonly control: Pick<VirtualControl, 'frontend' | 'host'> };
  readonly #open = new Map<number, Opened>();
  readonly #opened = new Map<string, Opened>();
  readonly #unwatched = new Set<string>();

  constructor(pod: { readonly control: Pick<VirtualControl, 'frontend' | 'host'> }) {
    this.#pod = pod;
  }

  /** To be called whenever something may have happened. */
  look(): void {
    const { frontend, host } = this.#pod.control;
    for (const [call, opened] of this.#open) {
      const now = frontend.open.get(call);
      if (now === undefined) {
        opened.span.until_ms = host.clock.now_ms();
        this.#open.delete(call);
      } else if (now.id !== opened.request) {
        opened.request = now.id;
        this.#lookAtDeadline(call, now.id);
      }
    }
    if (frontend.open.size === this.#open.size) return;
    for (const [call, { id }] of frontend.open) if (!this.#open.has(call)) this.#open.set(call, this.#openedNow(call, id));
  }

  /** By the id that its report bears; null: it came to nothing. */
  spanOf(id: string): Span | null {
    return this.#opened.get(id)?.span ?? null;
  }

  /** It went on as another request, which had no timer of a deadline. */
  isUnwatched(id: string): boolean {
    return this.#unwatched.has(id);
  }

  /** One that goes on from what its caller has of it has been open all along. */
  #openedNow(call: number, request: number): Opened {
    const id = callId(call);
    const opened = this.#opened.get(id) ?? { span: { since_ms: this.#pod.control.host.clock.now_ms(), until_ms: 0 }, request };
    opened.span.until_ms = Number.POSITIVE_INFINITY;
    opened.request = request;
    this.#opened.set(id, opened);
    return opened;
  }

  /** It is born with one, or was given one before anybody else heard of it. */
  #lookAtDeadline(call: number, request: number): void {
    const { host } = this.#pod.control;
    const self = address('request', request);
    if (GOES_ON.has(host.cast.stateOf(self) ?? '') && !host.hasTimer(self, 'deadline')) this.#unwatched.add(callId(call));
  }
}
