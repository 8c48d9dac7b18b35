/**
 * The control plane's side of `pod.scale`: one change at a time is asked for, and its end is told to who asked.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import { heldWeights } from '../flowserve/held-weights.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { maybeCleared, type ScaleOptions, type Shape, shapeAskedFor } from '../flowserve/scale-shapes.ts';
import { type Address, address } from '../protocol/address.ts';
import { scale } from '../protocol/constructors.ts';
import { fromErrorRecord, MinipodError } from '../protocol/errors.ts';
import type { Message } from '../protocol/messages.ts';
import { NOTHING_FURNISHED, type ScaledMessage, type WeightsFurnished } from '../protocol/scaling.ts';
import type { Executor } from '../protocol/topology.ts';
import type { ScaleReport, ScalingStats } from '../results.ts';
import type { Cast } from '../runtime/cast.ts';
import type { Directory, Scaled } from '../runtime/directory.ts';
import { lastGoodMap } from './expert-balancing.ts';
import type { ServingNow } from './step-costs.ts';
import type { WeightsNow } from './weights.ts';

/** Where its actor lives. */
export type ScalingHost = { readonly send: (to: Address, from: Address, message: Message) => void; readonly cast: Pick<Cast, 'stateOf' | 'contextOf'> };

export type ScalingPorts = {
  readonly space: AddressSpace;
  readonly directory: Directory;
  readonly now_ms: () => number;
  /** The host's thread, which may sleep. */
  readonly wake: () => unknown;
};

type Waiting = { readonly began_ms: number; readonly resolve: (report: ScaleReport) => void; readonly reject: (error: MinipodError) => void };

const DEADLINE_MS = 30_000;

/** `experts`: 0: they are not apart, or their number does not change. */
const firstShape = ({ groups, experts }: Scaled): Shape => ({ attention: groups, experts: experts?.serving ?? 0 });

export class ScaleRequests {
  readonly #plan: AnyPodPlan;
  readonly #host: ScalingHost;
  readonly #ports: ScalingPorts;
  /** Null: the pod's shape does not change. */
  readonly #scaled: Scaled | null;
  #serving: Shape;
  #waiting: Waiting | null = null;
  #changes = 0;
  #last_error: string | null = null;

  constructor(plan: AnyPodPlan, host: ScalingHost, ports: ScalingPorts) {
    this.#plan = plan;
    this.#host = host;
    this.#ports = ports;
    this.#scaled = plan.hosting.scaled ?? null;
    this.#serving = this.#scaled === null ? { attention: 0, experts: 0 } : firstShape(this.#scaled);
  }

  /** One was asked for and is not answered. */
  get isUnderWay(): boolean {
    return this.#waiting !== null;
  }

  /** Expert NPUs that have an executor's experts; null: always all that it has. */
  expertsServing(executor: number): number | null {
    return this.#scaled?.executor === executor && this.#serving.experts > 0 ? this.#serving.experts : null;
  }

  /** So it is from the moment on at which a change is done. */
  servingNow({ id, groups, experts }: Executor): ServingNow {
    return { groups: this.#scaled?.executor === id ? this.#serving.attention : groups.length, experts: this.expertsServing(id) ?? experts.npus };
  }

  /** Whether an NPU that runs steps has the weights for them, or is to have them in a moment. */
  holdsWeights(npu: number): boolean {
    const { deployment } = this.#plan.hosting;
    const place = deployment.npus[npu];
    if (place?.kind !== 'attention' || place.executor !== this.#scaled?.executor || this.#waiting !== null) return true;
    const executor = this.#executor(place.executor);
    return !maybeCleared(executor) || executor.groups.indexOf(place.group) < this.#serving.attention;
  }

  /** What a lost worker's successor is to hold. */
  get weightsNow(): WeightsNow {
    return { mapOf: (executor) => lastGoodMap(this.#host.cast, executor), holds: (npu) => this.holdsWeights(npu) };
  }

  /** @throws `invalid_request` for what cannot be done, `overloaded` while another change is under way; whatever else it fails for, the shape is the old one */
  ask(options: ScaleOptions): Promise<ScaleReport> {
    const { hosting, options: planned } = this.#plan;
    const nodes = planned.expert_balancing?.nodes ?? 1;
    const { attention, experts } = shapeAskedFor(
      options,
      hosting.deployment,
      this.#scaled === null ? null : { ...this.#serving, executor: this.#scaled.executor, nodes },
    );
    if (this.#waiting !== null)
      throw new MinipodError('overloaded', 'scale: another change is under way, and there is one at a time; ask again when it is done');
    const { promise, resolve, reject } = Promise.withResolvers<ScaleReport>();
    this.#waiting = { began_ms: this.#ports.now_ms(), resolve, reject };
    this.#host.send(this.#self, 'control/0', scale(attention, experts, options.deadline_ms ?? DEADLINE_MS));
    this.#ports.wake();
    return promise;
  }

  answered({ attention, experts, error }: ScaledMessage): void {
    const waiting = this.#waiting;
    const was = this.#serving;
    this.#waiting = null;
    this.#serving = { attention, experts };
    this.#last_error = error?.message ?? null;
    if (error === null) this.#changes++;
    if (waiting === null) return;
    if (error !== null) waiting.reject(fromErrorRecord(error));
    else waiting.resolve({ ...this.#told(this.#serving), was: this.#told(was), duration_ms: this.#ports.now_ms() - waiting.began_ms });
  }

  /** Null: the pod's shape does not change. */
  stats(): ScalingStats | null {
    if (this.#scaled === null) return null;
    const { executor } = this.#scaled;
    const { groups, experts } = this.#executor(executor);
    const { attention, experts: serving } = this.#told(this.#serving);
    return {
      state: this.#host.cast.stateOf(this.#self) ?? 'gone',
      task_executor: executor,
      attention: { serving: attention, reserved: groups.length },
      experts: serving === null ? null : { serving, reserved: experts.npus, fewest: experts.fewest ?? experts.npus },
      weights: heldWeights(this.#plan, this.#ports.space, this.#ports.directory, this.#executor(executor), (npu) => this.holdsWeights(npu)),
      copied: (this.#host.cast.contextOf(this.#self) as { readonly copied: WeightsFurnished } | null)?.copied ?? NOTHING_FURNISHED,
      changes: this.#changes,
      last_error: this.#last_error,
    };
  }

  get #self(): Address {
    return address('scaling', this.#scaled?.executor ?? 0);
  }

  #executor(executor: number): Executor {
    return this.#plan.hosting.deployment.executors[executor] as Executor;
  }

  /** As callers know it: expert NPUs that always are the same number are told too. */
  #told({ attention, experts }: Shape): { readonly attention: number; readonly experts: number | null } {
    const { split, experts: holders } = this.#executor(this.#scaled?.executor ?? 0);
    return { attention, experts: split === undefined ? null : experts || holders.npus };
  }
}
