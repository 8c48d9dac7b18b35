/**
 * Each expert on two ranks, as far as slots go, so that the loss of one leaves the other to serve (ReviveMoE: redundant experts). *Ours*: primaries stay where the
 * checkpoint has them, and what a rank holds is copied to the one behind it; where slots are fewer, the lowest ids alone. It is not for balance, and knows no loads.
 *
 *   ranks   0 2 4 | 1 3 5      →   0 2 4 1 3 5 | 1 3 5 0 2 4
 */
import { type ExpertMap, expertMap, NO_EXPERT } from './expert-map.ts';
import { nativeSlots, primaryRank } from './native.ts';
import { checkShape, type PlacementShape, slotsOfRank } from './placement-shape.ts';

export function mirroredMap(shape: PlacementShape): ExpertMap {
  checkShape(shape);
  const { layers, experts, slots, ranks } = shape;
  const each = slotsOfRank(shape);
  const expertOfSlot = nativeSlots(shape);
  const freeOn = (layer: number, rank: number): number => {
    const first = layer * slots + rank * each;
    const free = expertOfSlot.subarray(first, first + each).indexOf(NO_EXPERT);
    return free < 0 ? -1 : first + free;
  };
  for (let layer = 0; layer < layers; layer++)
    for (let expert = 0; expert < experts; expert++)
      for (let behind = 1; behind < ranks; behind++) {
        const slot = freeOn(layer, (primaryRank(expert, shape) + behind) % ranks);
        if (slot < 0) continue;
        expertOfSlot[slot] = expert;
        break;
      }
  return expertMap(shape, expertOfSlot);
}
