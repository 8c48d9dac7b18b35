/**
 * Whether a plan is worth its moves. Layer by layer: one is installed only where it is predicted better than the map that is there, so a plan may be installed
 * in part; where no layer is, the whole is not installed, and the reason says so.
 * @module
 */
import type { ExpertLoads } from './expert-loads.ts';
import { type ExpertMap, expertMap } from './expert-map.ts';
import { type MapMoves, movesBetween } from './map-moves.ts';
import { imbalanceByLayer, mean } from './predicted-balance.ts';

/**
 * `before` and `after`: the predicted imbalance, a mean over all layers. `layers`: those that get another placement, ascending. `now` and `planned`: by layer, of
 * the map that is there and of the plan.
 */
export type PlanVerdict = {
  /** What is to be installed: the plan in `layers`, the present map elsewhere. Null: nothing is. */
  readonly map: ExpertMap | null;
  readonly layers: readonly number[];
  readonly before: number;
  readonly after: number;
  readonly now: Float64Array;
  readonly planned: Float64Array;
  readonly moves: MapMoves;
  readonly reason: string;
};

/** Sums of the same shares in another order differ by less. */
const ROUNDING = 1e-9;

/** `gain_min`: by how much a layer's predicted imbalance must fall, in units of the mean rank's load; 0: at all. `loads`: best others than the plan was made on. */
export function judgePlan(present: ExpertMap, plan: ExpertMap, loads: ExpertLoads, gain_min: number): PlanVerdict {
  const now = imbalanceByLayer(present, loads);
  const planned = imbalanceByLayer(plan, loads);
  const then = now.slice();
  const { slots } = present.shape;
  const expertOfSlot = present.expertOfSlot.slice();
  const layers: number[] = [];
  for (const [layer, imbalance] of now.entries()) {
    if (imbalance - (planned[layer] as number) < Math.max(gain_min, ROUNDING)) continue;
    layers.push(layer);
    expertOfSlot.set(plan.expertOfSlot.subarray(layer * slots, (layer + 1) * slots), layer * slots);
    then[layer] = planned[layer] as number;
  }
  const before = mean(now);
  if (layers.length === 0) {
    const reason = `no layer is predicted better by ${gain_min > 0 ? `${gain_min} or more` : 'anything'}: busiest rank over mean now ${text(before)}, planned ${text(mean(planned))}`;
    return { map: null, layers, before, after: before, now, planned, moves: { slots: 0, weights: 0 }, reason };
  }
  const map = expertMap(present.shape, expertOfSlot);
  const after = mean(then);
  const reason = `${layers.length} of ${now.length} layers are predicted better: busiest rank over mean ${text(before)} → ${text(after)}`;
  return { map, layers, before, after, now, planned, moves: movesBetween(present, map), reason };
}

const text = (imbalance: number): string => imbalance.toFixed(3);
