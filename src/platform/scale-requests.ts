/**
 * The control plane's side of `pod.scale`: one change at a time is asked for, and its end is told to who asked.
 * @module
 */
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { groupsAskedFor, type ScaleOptions } from '../flowserve/scale-shapes.ts';
import type { Address } from '../protocol/address.ts';
import { scale } from '../protocol/constructors.ts';
import { fromErrorRecord, MinipodError } from '../protocol/errors.ts';
import type { Message } from '../protocol/messages.ts';
import type { ScaledMessage } from '../protocol/scaling.ts';
import type { ScaleReport, ScalingStats } from '../results.ts';
import type { Cast } from '../runtime/cast.ts';
import { SCALING } from '../runtime/directory.ts';

/** Where its actor lives. */
export type ScalingHost = { readonly send: (to: Address, from: Address, message: Message) => void; readonly cast: Pick<Cast, 'stateOf'> };

type Waiting = { readonly began_ms: number; readonly resolve: (report: ScaleReport) => void; readonly reject: (error: MinipodError) => void };

export class ScaleRequests {
  readonly #plan: AnyPodPlan;
  readonly #host: ScalingHost;
  readonly #now_ms: () => number;
  /** The host's thread, which may sleep. */
  readonly #wake: () => void;
  #serving: number | null;
  #waiting: Waiting | null = null;
  #changes = 0;
  #last_error: string | null = null;

  constructor(plan: AnyPodPlan, host: ScalingHost, now_ms: () => number, wake: () => void) {
    this.#plan = plan;
    this.#host = host;
    this.#now_ms = now_ms;
    this.#wake = wake;
    this.#serving = plan.hosting.groups_serving ?? null;
  }

  /** @throws `invalid_request` for what cannot be done, `overloaded` while another change is under way, `deadline_exceeded` if it took too long: the shape is the old one */
  ask(options: ScaleOptions): Promise<ScaleReport> {
    const attention = groupsAskedFor(options, this.#plan.hosting.deployment, this.#serving);
    if (this.#waiting !== null)
      throw new MinipodError('overloaded', 'scale: another change is under way, and there is one at a time; ask again when it is done');
    const { promise, resolve, reject } = Promise.withResolvers<ScaleReport>();
    this.#waiting = { began_ms: this.#now_ms(), resolve, reject };
    this.#host.send(SCALING, 'control/0', scale(attention));
    this.#wake();
    return promise;
  }

  answered({ attention, error }: ScaledMessage): void {
    const waiting = this.#waiting;
    const was = this.#serving ?? attention;
    this.#waiting = null;
    this.#serving = attention;
    this.#last_error = error?.message ?? null;
    if (error === null) this.#changes++;
    if (waiting === null) return;
    if (error !== null) waiting.reject(fromErrorRecord(error));
    else waiting.resolve({ attention, was, duration_ms: this.#now_ms() - waiting.began_ms });
  }

  /** Null: the pod's shape does not change. */
  stats(): ScalingStats | null {
    if (this.#serving === null) return null;
    const reserved = this.#plan.hosting.deployment.groups.length;
    const state = this.#host.cast.stateOf(SCALING) ?? 'gone';
    return { state, attention: { serving: this.#serving, reserved }, changes: this.#changes, last_error: this.#last_error };
  }
}
