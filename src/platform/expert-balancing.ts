/**
 * Expert maps as their host sees them: how they do, and whom it asks to balance.
 * @module
 */
import { STATE_MS_MAX } from '../../actors/expert-map.ts';
import type { ExpertBalancer, LastRebalance } from '../../actors/policies/expert-balancer.ts';
import type { ExpertMap } from '../../actors/policies/expert-placement/expert-map.ts';
import type { MapCount } from '../../actors/policies/map-log.ts';
import { layersWithExperts } from '../flowserve/experts/expert-slots.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { type Address, address } from '../protocol/address.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { type RebalancedMessage, type RebalanceOutcome, type RebalanceReport, rebalance } from '../protocol/expert-maps.ts';
import { type LostExperts, type MapEntry, NOTHING_COPIED, type WeightsCopied } from '../protocol/map-log.ts';
import type { Message } from '../protocol/messages.ts';
import type { Cast } from '../runtime/cast.ts';
import { hasExpertMap } from './births.ts';

/**
 * One task executor's. `state`: `gone`, if it is. `progress`: periods and changes that have ended; `progress_ms`: when it last came to another state, by the pod's
 * clock; `state_ms`: so long it may take to the next one. `last`: of the latest rebalance, and `lastPlan`, what it planned and moved. `log`: the latest changes of the
 * map, of all sorts, the last one perhaps open; `counts`: of all that have ended; `copied`: weights, for all there were.
 */
export type BalancingReport = {
  readonly executor: number;
  readonly state: string;
  readonly epoch: number;
  readonly progress: number;
  readonly progress_ms: number;
  readonly state_ms: number;
  /** It has been in that state for twice as long. */
  readonly stalled: boolean;
  readonly last: RebalanceOutcome | null;
  readonly lastPlan: LastRebalance;
  readonly lost: LostExperts;
  readonly log: readonly MapEntry[];
  readonly counts: readonly MapCount[];
  readonly copied: WeightsCopied;
};

type Actors = Pick<Cast, 'stateOf' | 'contextOf'>;

const balancerOf = (cast: Actors, self: Address): ExpertBalancer | null => (cast.contextOf(self) as { balancer: ExpertBalancer } | null)?.balancer ?? null;

/** Where an executor's experts lie by the last good map; null: where they did at first. */
export const lastGoodMap = (cast: Actors, executor: number): ExpertMap | null => balancerOf(cast, address('expert-map', executor))?.map ?? null;

/** Of its period, or of the longest that its state may take. */
const TIMES_TO_STALL = 2;
/** However short a period is, its end may be heard so late, where the thread has to wait for a processor. */
const LATE_MS_MAX = 500;
const GONE = {
  state: 'gone',
  epoch: 0,
  progress: 0,
  progress_ms: 0,
  state_ms: 0,
  stalled: true,
  last: null,
  lastPlan: { layers: [], moved: [] },
  log: [],
  counts: [],
  copied: NOTHING_COPIED,
  lost: { experts: [], shared: false },
} as const;

const stateMsMax = (state: string): number => (STATE_MS_MAX as Readonly<Record<string, number>>)[state] ?? LATE_MS_MAX;

/** While requests wait for an attention NPU that takes the lost one's role, somebody is to bring them back. */
const areAwaited = (cast: Actors, executor: number): boolean =>
  (cast.contextOf(address('role-switch', executor)) as { readonly told: object | null } | null)?.told === null;
const lostOf = ({ config }: AnyPodPlan, { lostExperts, rehoming }: ExpertBalancer, isAwaited: boolean): LostExperts =>
  isAwaited
    ? { experts: [], shared: false }
    : {
        experts: lostExperts.map(({ layer, expert }) => ({ layer: layersWithExperts(config)[layer] as number, expert })),
        shared: rehoming.isSharedLost,
      };

/** Of executors whose experts may move. */
export function balancingReports(cast: Actors, plan: AnyPodPlan, now_ms: number): BalancingReport[] {
  // Where nobody balances, there is nothing that has to happen by itself.
  const period_ms = plan.options.expert_balancing?.period_ms ?? Number.POSITIVE_INFINITY;
  return plan.hosting.deployment.executors
    .filter((executor) => hasExpertMap(plan, executor))
    .map(({ id: executor }) => {
      const self = address('expert-map', executor);
      const balancer = balancerOf(cast, self);
      if (balancer === null) return { executor, ...GONE };
      const { epoch, progress, outcomes, log } = balancer;
      const progress_ms = Math.max(0, balancer.progress_ms);
      const state = cast.stateOf(self) ?? 'gone';
      const state_ms = Math.max(period_ms, stateMsMax(state));
      return {
        executor,
        state,
        epoch,
        progress,
        progress_ms,
        state_ms,
        // Whatever it says of itself: one that has died says nothing.
        stalled: now_ms - progress_ms > TIMES_TO_STALL * state_ms,
        last: outcomes.at(-1) ?? null,
        lastPlan: balancer.last,
        log: log.entries,
        lost: lostOf(plan, balancer, areAwaited(cast, executor)),
        counts: log.counts,
        copied: log.copied,
      };
    });
}

/** Questions to expert maps, by number, and their answers. */
export class Rebalances {
  readonly #open = new Map<number, (report: RebalanceReport) => void>();
  #query = 0;

  /** @throws `invalid_request` where experts stay where they are */
  async ask({ hosting, options }: AnyPodPlan, force: boolean, send: (to: Address, message: Message) => void): Promise<RebalanceReport[]> {
    if (options.expert_balancing === undefined)
      throw new MinipodError('invalid_request', 'experts of this pod stay where they are: start it with expert_balancing (--enable-eplb)', {
        param: 'expert_balancing',
      });
    return Promise.all(
      hosting.deployment.executors.map(({ id }) => {
        const { promise, resolve } = Promise.withResolvers<RebalanceReport>();
        this.#open.set(++this.#query, resolve);
        send(address('expert-map', id), rebalance(this.#query, force));
        return promise;
      }),
    );
  }

  hear(message: Message): void {
    assert(message.type === 'REBALANCED', `control was sent ${message.type}`);
    const { query, report } = message as RebalancedMessage;
    this.#open.get(query)?.(report);
    this.#open.delete(query);
  }
}
