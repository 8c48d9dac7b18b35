/**
 * The control plane's side of `pod.scale`: one change at a time is asked for, and its end is told to who asked.
 * @module
 */
import { countsOf } from '../../actors/policies/shape-choice.ts';
import type { Scaling } from '../../actors/scaling.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { maybeCleared, type ScaleOptions, type Shape, shapeAskedFor } from '../flowserve/scale-shapes.ts';
import { heldWeights } from '../flowserve/weights/held-weights.ts';
import { type Address, address } from '../protocol/address.ts';
import { scale } from '../protocol/constructors.ts';
import { fromErrorRecord, MinipodError } from '../protocol/errors.ts';
import type { Message } from '../protocol/messages.ts';
import { NOTHING_FURNISHED, type ScaledMessage } from '../protocol/scaling.ts';
import type { Executor } from '../protocol/topology.ts';
import type { Cast } from '../runtime/cast.ts';
import type { Directory, Scaled } from '../runtime/directory.ts';
import type { ScaleReport, ScalingStats } from '../stats.ts';
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

type Waiting = {
  readonly began_ms: number;
  readonly was: Shape;
  readonly resolve: (report: ScaleReport) => void;
  readonly reject: (error: MinipodError) => void;
};

const DEADLINE_MS = 30_000;

export class ScaleRequests {
  readonly #plan: AnyPodPlan;
  readonly #host: ScalingHost;
  readonly #ports: ScalingPorts;
  /** Null: the pod's shape does not change. */
  readonly #scaled: Scaled | null;
  #waiting: Waiting | null = null;
  #changes = 0;
  #last_error: string | null = null;

  constructor(plan: AnyPodPlan, host: ScalingHost, ports: ScalingPorts) {
    this.#plan = plan;
    this.#host = host;
    this.#ports = ports;
    this.#scaled = plan.hosting.scaled ?? null;
  }

  /** One was asked for and is not answered. */
  get isUnderWay(): boolean {
    return this.#waiting !== null;
  }

  /** What serves of those that there are. `experts`: 0: always all that the executor has. */
  servingNow({ id, groups, experts }: Executor): ServingNow {
    if (this.#scaled?.executor !== id) return { groups: groups.length, experts: experts.npus };
    const serving = this.#serving;
    return { groups: serving.attention, experts: serving.experts || experts.npus };
  }

  /** Whether an NPU that runs steps has the weights for them, or is to have them in a moment. */
  holdsWeights(npu: number): boolean {
    const { deployment } = this.#plan.hosting;
    const place = deployment.npus[npu];
    if (place?.kind !== 'attention' || place.executor !== this.#scaled?.executor || this.#waiting !== null) return true;
    const executor = this.#executor(place.executor);
    const first = executor.groups.slice(0, this.#scaled.groups);
    return !maybeCleared(executor) || (this.#actor?.serving ?? first).includes(place.group);
  }

  /** What a lost worker's successor is to hold. */
  get weightsNow(): WeightsNow {
    return { mapOf: (executor) => lastGoodMap(this.#host.cast, executor), holds: (npu) => this.holdsWeights(npu) };
  }

  /** @throws `invalid_request` for what cannot be done, `overloaded` while another change is under way; whatever else it fails for, the shape is the old one */
  ask(options: ScaleOptions): Promise<ScaleReport> {
    const { hosting, options: planned } = this.#plan;
    const nodes = planned.expert_balancing?.nodes ?? 1;
    const { attention, experts } = shapeAskedFor(options, hosting.deployment, this.#scaled === null ? null : { executor: this.#scaled.executor, nodes });
    if (this.#waiting !== null)
      throw new MinipodError('overloaded', 'scale: another change is under way, and there is one at a time; ask again when it is done');
    const { promise, resolve, reject } = Promise.withResolvers<ScaleReport>();
    this.#waiting = { began_ms: this.#ports.now_ms(), was: this.#serving, resolve, reject };
    this.#host.send(this.#self, 'control/0', scale(attention, experts, options.deadline_ms ?? DEADLINE_MS));
    this.#ports.wake();
    return promise;
  }

  answered({ attention, experts, error }: ScaledMessage): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    this.#last_error = error?.message ?? null;
    if (error === null) this.#changes++;
    if (waiting === null) return;
    if (error !== null) waiting.reject(fromErrorRecord(error));
    else waiting.resolve({ ...this.#told({ attention, experts }), was: this.#told(waiting.was), duration_ms: this.#ports.now_ms() - waiting.began_ms });
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
      copied: this.#actor?.copied ?? NOTHING_FURNISHED,
      changes: this.#changes,
      last_error: this.#last_error,
    };
  }

  /** Null: it has not begun. */
  get #actor(): Scaling | null {
    return this.#host.cast.contextOf(this.#self) as Scaling | null;
  }

  /** `experts`: 0: they are not apart, or their number does not change. */
  get #serving(): Shape {
    const actor = this.#actor;
    return actor === null ? { attention: this.#scaled?.groups ?? 0, experts: this.#scaled?.experts?.serving ?? 0 } : countsOf(actor);
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
    return { attention, experts: split === undefined ? null : holders.serving === undefined ? holders.npus : experts };
  }
}
