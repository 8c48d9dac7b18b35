/**
 * Where the experts of a group are to lie next, as rounds that lead there, or why they stay: for a rebalance, and for an entry of the map's log that names who
 * is to hold them.
 * @module
 */
import type { RebalanceTrigger } from '../../src/protocol/expert-maps.ts';
import type { MapCause } from '../../src/protocol/map-log.ts';
import { mapAmong, mapWithOthers, mapWithout, planAmong, ranksOf } from './expert-placement/among-ranks.ts';
import type { ExpertLoads } from './expert-placement/expert-loads.ts';
import type { ExpertMap } from './expert-placement/expert-map.ts';
import { planRounds, type SlotChange } from './expert-placement/map-rounds.ts';
import { slotsOfRank } from './expert-placement/placement-shape.ts';
import { type PlacementPolicy, planFrom } from './expert-placement/policies.ts';
import { imbalance } from './expert-placement/predicted-balance.ts';
import { judgePlan } from './expert-placement/worth-installing.ts';

export type BalancerSettings = {
  readonly policy: PlacementPolicy;
  /** Windows of time that a plan is made on, at most. */
  readonly windows: number;
  /** Busiest rank over mean: below, a period ends without a plan. */
  readonly threshold: number;
};

export type Rounds = readonly (readonly SlotChange[])[];
/** Of one layer, busiest rank over mean, predicted: by the map that is there, and by the plan. `isChosen`: it is to get what was planned. */
export type LayerPlan = { readonly before: number; readonly planned: number; readonly isChosen: boolean };

/** Busiest rank over mean, predicted; 0: of nothing. No rounds: nothing moves, for that reason. `layers`: empty where nothing was planned. */
export type RebalancePlan = {
  readonly rounds: Rounds;
  readonly layers: readonly LayerPlan[];
  readonly before: number;
  readonly after: number;
  readonly cause: MapCause;
  readonly reason: string;
};

const NO_ROOM = { cause: 'no_room', reason: 'every slot is needed where it is: a redundant one would make room to move' } as const;

/** `loads`: null: none yet. `isForced`: install what is predicted no better. `lost`: ranks. */
export function planRebalance(
  map: ExpertMap,
  lost: readonly number[],
  { policy, threshold }: BalancerSettings,
  loads: ExpertLoads | null,
  trigger: RebalanceTrigger,
  isForced: boolean,
): RebalancePlan {
  if (loads === null) return { rounds: [], layers: [], before: 0, after: 0, cause: 'no_tokens', reason: 'no token was routed yet' };
  // NPUs that hold nothing stand by: they stay out of it.
  const ranks = ranksOf(map);
  const present = mapAmong(map, ranks);
  const before = imbalance(present, loads);
  const stays = (cause: MapCause, reason: string, layers: readonly LayerPlan[] = []): RebalancePlan => ({
    ...{ rounds: [], layers, before, after: before, cause, reason },
  });
  // Two places are what is wanted, and those are there from the first.
  if (policy === 'mirrored' && !isForced && ranks.length === map.shape.ranks) return stays('no_better', 'experts are mirrored, whatever they are asked for');
  if (trigger === 'period' && before < threshold)
    return stays('below_threshold', `busiest rank over mean is ${before.toFixed(3)}, below the threshold of ${threshold}`);
  const plan = ranks.length === map.shape.ranks ? planFrom(present, policy, loads) : mapAmong(planAmong(map, ranks, policy, loads), ranks);
  const verdict = judgePlan(present, plan, loads, 0);
  const target = isForced ? plan : verdict.map;
  const layers = [...verdict.now].map(
    (now, layer): LayerPlan => ({ before: now, planned: verdict.planned[layer] as number, isChosen: isForced || verdict.layers.includes(layer) }),
  );
  if (target === null) return stays('no_better', verdict.reason, layers);
  const rounds = planRounds(map, mapWithOthers(target, ranks, map.shape), new Set(lost));
  if (rounds === null) return stays(NO_ROOM.cause, NO_ROOM.reason);
  const after = imbalance(target, loads);
  if (!isForced) return { rounds, layers, before, after, cause: 'better', reason: verdict.reason };
  // All layers are installed, those too that are predicted worse.
  const isBetter = after < before;
  const reason = isBetter
    ? `predicted better: busiest rank over mean ${before.toFixed(3)} → ${after.toFixed(3)}`
    : 'asked for, though it is predicted no better';
  return { rounds, layers, before, after, cause: isBetter ? 'better' : 'forced', reason };
}

/** `map`: where experts lie that count, from which the rounds lead on. */
export type PlacementPlan = { readonly map: ExpertMap; readonly rounds: Rounds };

/** Ranks that are lost, and those of them for good. */
export type Losses = { readonly lost: readonly number[]; readonly gone: readonly number[] };

/** All experts onto these ranks alone, from wherever they are but those that are lost. */
export function planPlacement(
  map: ExpertMap,
  ranks: readonly number[],
  { lost, gone }: Losses,
  policy: PlacementPolicy,
  loads: ExpertLoads | null,
): PlacementPlan | { readonly cause: MapCause; readonly reason: string } {
  const away = ranks.find((rank) => lost.includes(rank));
  if (away !== undefined)
    return gone.includes(away)
      ? { cause: 'npu_gone', reason: `expert NPU ${away} of the group is lost for good` }
      : { cause: 'npu_lost', reason: `expert NPU ${away} of the group is lost` };
  const there = lost.length === 0 ? map : mapWithout(map, new Set(lost));
  if (there === null)
    return {
      cause: mapWithout(map, new Set(gone)) === null ? 'npu_gone' : 'npu_lost',
      reason: `expert NPUs ${lost.join(', ')} of the group are lost, with experts that are nowhere else`,
    };
  const room = ranks.length * slotsOfRank(map.shape);
  if (room < map.shape.experts) return { cause: 'no_room', reason: `${room} slots on ${ranks.length} expert NPUs are fewer than ${map.shape.experts} experts` };
  const rounds = planRounds(
    there,
    planAmong(
      there,
      ranks.toSorted((a, b) => a - b),
      policy,
      loads,
    ),
    new Set(lost),
  );
  if (rounds === null) return NO_ROOM;
  // A map without those who are lost is told, also where nobody else changes.
  return { map: there, rounds: rounds.length === 0 && lost.length > 0 ? [[]] : rounds };
}
