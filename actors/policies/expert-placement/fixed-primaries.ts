/**
 * xDeepServe's own balancer (§4.5): every expert stays where it is, and the redundant slots of each rank take copies of the busiest.
 *
 *   select   R experts that get a replica each, R being the redundant slots     select-replicas.ts
 *   place    from the replica with the most tokens down, each onto the least loaded rank that has a redundant slot free
 *
 * A replica may come to lie on a rank that holds the expert already; the paper does not forbid it, and on real loads it is rare. It is not installed (without-twins.ts).
 * @module
 */
import { addWindows, type ExpertLoads } from './expert-loads.ts';
import { type ExpertMap, expertMap } from './expert-map.ts';
import { LeastLoaded } from './least-loaded.ts';
import { nativeSlots, primariesOf, primaryRank } from './native.ts';
import { checkLoads, checkShape, type PlacementShape, slotsOfRank } from './placement-shape.ts';
import { ReplicaSelection } from './select-replicas.ts';

export function fixedPrimariesMap(loads: ExpertLoads, shape: PlacementShape): ExpertMap {
  checkShape(shape);
  checkLoads(loads, shape);
  const { layers, experts, slots, ranks } = shape;
  const each = slotsOfRank(shape);
  const expertOfSlot = nativeSlots(shape);
  const selection = new ReplicaSelection(loads, slots - experts);
  const { chosen, counts } = selection;
  /** By expert: what one of its replicas gets over all windows. */
  const share = new Float64Array(experts);
  /** Ranks; infinite where no slot is free. */
  const open = new LeastLoaded(ranks);
  const { loads: load } = open;
  const filled = new Int32Array(ranks);
  const byLoad = (a: number, b: number): number => (share[b] as number) - (share[a] as number) || a - b;

  for (let layer = 0; layer < layers; layer++) {
    selection.select(loads, layer);
    addWindows(loads, layer, share);
    load.fill(0, 0, ranks);
    for (let expert = 0; expert < experts; expert++) {
      const tokens = (share[expert] as number) / (counts[expert] as number);
      const rank = primaryRank(expert, shape);
      share[expert] = tokens;
      load[rank] = (load[rank] as number) + tokens;
    }
    for (let rank = 0; rank < ranks; rank++) {
      const primaries = primariesOf(rank, shape);
      filled[rank] = primaries;
      if (primaries === each) load[rank] = Number.POSITIVE_INFINITY;
    }
    open.rebuild();
    chosen.sort(byLoad);
    for (let turn = 0; turn < chosen.length; turn++) {
      const expert = chosen[turn] as number;
      const rank = open.least;
      const place = filled[rank] as number;
      expertOfSlot[layer * slots + rank * each + place] = expert;
      filled[rank] = place + 1;
      open.set(rank, place + 1 === each ? Number.POSITIVE_INFINITY : (load[rank] as number) + (share[expert] as number));
    }
  }
  return expertMap(shape, expertOfSlot);
}
