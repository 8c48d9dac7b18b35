/**
 * How even ranks would be under a map, were the loads to come again: a layer waits for its busiest rank, so its time goes as the most that a rank gets.
 * Replicas of an expert share its tokens evenly.
 * @module
 */
import type { ExpertLoads } from './expert-loads.ts';
import { type ExpertMap, NO_EXPERT, replicaCount } from './expert-map.ts';
import { checkLoads, slotsOfRank } from './placement-shape.ts';

/** Tokens that each rank gets in one window of a layer, into `tokens`, by rank. */
function fillRankLoads(map: ExpertMap, loads: ExpertLoads, window: number, layer: number, tokens: Float64Array): void {
  const { layers, experts, slots } = map.shape;
  const each = slotsOfRank(map.shape);
  const row = (window * layers + layer) * experts;
  tokens.fill(0);
  for (let slot = 0; slot < slots; slot++) {
    const expert = map.expertOfSlot[layer * slots + slot] as number;
    if (expert === NO_EXPERT) continue;
    const rank = Math.floor(slot / each);
    tokens[rank] = (tokens[rank] as number) + (loads.tokens[row + expert] as number) / replicaCount(map, layer, expert);
  }
}

/** By layer: the busiest rank's tokens over the mean rank's, each added up over the windows. 1: even; as many as there are ranks: one does it all. */
export function imbalanceByLayer(map: ExpertMap, loads: ExpertLoads): Float64Array {
  checkLoads(loads, map.shape);
  const { layers, ranks } = map.shape;
  const tokens = new Float64Array(ranks);
  return Float64Array.from({ length: layers }, (_, layer) => {
    let most = 0;
    let all = 0;
    for (let window = 0; window < loads.windows; window++) {
      fillRankLoads(map, loads, window, layer, tokens);
      let busiest = 0;
      for (let rank = 0; rank < ranks; rank++) {
        busiest = Math.max(busiest, tokens[rank] as number);
        all += tokens[rank] as number;
      }
      most += busiest;
    }
    return all === 0 ? 1 : (most * ranks) / all;
  });
}

/** The mean over the layers. */
export function imbalance(map: ExpertMap, loads: ExpertLoads): number {
  return mean(imbalanceByLayer(map, loads));
}

export const mean = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;
