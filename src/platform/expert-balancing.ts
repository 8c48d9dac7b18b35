/**
 * Expert maps as their host sees them: how they do, and whom it asks to balance.
 * @module
 */
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import type { ExpertMap } from '../../actors/policies/expert-placement/expert-map.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { type Address, address } from '../protocol/address.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { type RebalancedMessage, type RebalanceOutcome, rebalance } from '../protocol/expert-maps.ts';
import type { Message } from '../protocol/messages.ts';
import type { Cast } from '../runtime/cast.ts';

/** One task executor's. `state`: `gone`, if it is. `progress_ms`: when a period or a rebalance ended last, by the pod's clock. `last`: of the latest. */
export type BalancingReport = {
  readonly executor: number;
  readonly state: string;
  readonly epoch: number;
  readonly progress: number;
  readonly progress_ms: number;
  /** It has made no progress for two periods. */
  readonly stalled: boolean;
  readonly last: RebalanceOutcome | null;
};

type Actors = Pick<Cast, 'stateOf' | 'contextOf'>;

const balancerOf = (cast: Actors, self: Address): ExpertBalancer | null => (cast.contextOf(self) as { balancer: ExpertBalancer } | null)?.balancer ?? null;

/** Where an executor's experts lie by the last good map; null: where they did at first. */
export const lastGoodMap = (cast: Actors, executor: number): ExpertMap | null => balancerOf(cast, address('expert-map', executor))?.map ?? null;

const PERIODS_TO_STALL = 2;

export function balancingReports(cast: Actors, { hosting, options }: AnyPodPlan, now_ms: number): BalancingReport[] {
  const { expert_balancing } = options;
  if (expert_balancing === undefined) return [];
  return hosting.deployment.executors.map(({ id: executor }) => {
    const self = address('expert-map', executor);
    const balancer = balancerOf(cast, self);
    if (balancer === null) return { executor, state: 'gone', epoch: 0, progress: 0, progress_ms: 0, stalled: true, last: null };
    const { epoch, progress, outcomes } = balancer;
    const progress_ms = Math.max(0, balancer.progress_ms);
    // Whatever it says of itself: one that has died says nothing.
    const stalled = now_ms - progress_ms > PERIODS_TO_STALL * expert_balancing.period_ms;
    return { executor, state: cast.stateOf(self) ?? 'gone', epoch, progress, progress_ms, stalled, last: outcomes.at(-1) ?? null };
  });
}

/** Questions to expert maps, by number, and their answers. */
export class Rebalances {
  readonly #open = new Map<number, (outcome: RebalanceOutcome) => void>();
  #query = 0;

  /** @throws `invalid_request` where experts stay where they are */
  async ask({ hosting, options }: AnyPodPlan, force: boolean, send: (to: Address, message: Message) => void): Promise<RebalanceOutcome[]> {
    if (options.expert_balancing === undefined)
      throw new MinipodError('invalid_request', 'experts of this pod stay where they are: start it with expert_balancing (--enable-eplb)', {
        param: 'expert_balancing',
      });
    return Promise.all(
      hosting.deployment.executors.map(({ id }) => {
        const { promise, resolve } = Promise.withResolvers<RebalanceOutcome>();
        this.#open.set(++this.#query, resolve);
        send(address('expert-map', id), rebalance(this.#query, force));
        return promise;
      }),
    );
  }

  hear(message: Message): void {
    assert(message.type === 'REBALANCED', `control was sent ${message.type}`);
    const { query, outcome } = message as RebalancedMessage;
    this.#open.get(query)?.(outcome);
    this.#open.delete(query);
  }
}
