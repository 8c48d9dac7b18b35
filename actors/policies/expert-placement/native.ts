/**
 * Experts as the checkpoint lays them out, neighbours apart and without replicas: what balancing is compared with (xDeepServe figure 11, "native"), and
 * where the primaries of fixed-primaries.ts are. A rank's primaries lie in its first slots; those behind are empty.
 * @module
 */
import { type ExpertMap, expertMap, NO_EXPERT } from './expert-map.ts';
import { checkShape, type PlacementShape, slotsOfRank } from './placement-shape.ts';

/** As `npuOfExpert` of the protocol has it. */
export const primaryRank = (expert: number, { ranks }: PlacementShape): number => expert % ranks;

/** How many experts have their primary on the rank: the first `experts % ranks` ranks have one more. */
export const primariesOf = (rank: number, { experts, ranks }: PlacementShape): number => Math.ceil((experts - rank) / ranks);

/** `ranks`: so many of the first have them; those behind are empty. */
export function nativeMap(shape: PlacementShape, ranks = shape.ranks): ExpertMap {
  checkShape(shape);
  return expertMap(shape, nativeSlots(shape, ranks));
}

/** [layer][slot] → expert; redundant slots are empty. */
export function nativeSlots(shape: PlacementShape, ranks = shape.ranks): Int32Array {
  const { layers, experts, slots } = shape;
  const expertOfSlot = new Int32Array(layers * slots).fill(NO_EXPERT);
  for (let layer = 0; layer < layers; layer++)
    for (let expert = 0; expert < experts; expert++) expertOfSlot[layer * slots + (expert % ranks) * slotsOfRank(shape) + Math.floor(expert / ranks)] = expert;
  return expertOfSlot;
}
