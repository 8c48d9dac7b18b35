/**
 * A plan says who shares a rank, and in part it does not matter which rank that is, nor which of its slots. Here such a plan is turned so that as much as
 * possible lies where it lay: the predicted loads stay as they are, fewer weights move. *Ours*; neither paper nor DeepSeek's code has it.
 *
 *   plan   nodes [A B] [C D]    present   nodes [c d] [b a]    →   [C D] [B A]
 *
 * From the outside in: nodes are matched with the nodes that they have most in common with, then ranks within each, then slots within each.
 * @module
 */
import { BlockMatching } from './block-matching.ts';
import { type ExpertMap, expertMap } from './expert-map.ts';
import { movesBetween } from './map-moves.ts';
import { type PlacementShape, slotsOfRank } from './placement-shape.ts';

/** What of a policy's plan may change places: slots within their rank, ranks among each other, or nodes, and the ranks within each. */
const FREEDOMS = ['slots', 'ranks', 'nodes'] as const;
export type Freedom = (typeof FREEDOMS)[number];

/** The plan, or one that is predicted as good and moves less. */
export function keepInPlace(plan: ExpertMap, present: Pick<ExpertMap, 'expertOfSlot'>, freedom: Freedom): ExpertMap {
  const { shape } = plan;
  const expertOfSlot = plan.expertOfSlot.slice();
  const sizes = blockSizes(shape, freedom);
  const matching = new BlockMatching(shape.experts, shape.slots, Math.max(shape.ranks, slotsOfRank(shape)));
  for (const [level, size] of sizes.entries()) {
    const outer = sizes[level - 1] ?? size;
    if (outer === size) continue;
    for (let first = 0; first < expertOfSlot.length; first += outer) matching.match(expertOfSlot, present.expertOfSlot, first, outer / size, size);
  }
  const kept = expertMap(shape, expertOfSlot);
  return movesBetween(present, kept).weights <= movesBetween(present, plan).weights ? kept : plan;
}

/** Blocks of each size change places within the block of the size before. */
function blockSizes(shape: PlacementShape, freedom: Freedom): number[] {
  const rank = slotsOfRank(shape);
  if (freedom === 'slots') return [rank, 1];
  return freedom === 'ranks' ? [shape.slots, rank, 1] : [shape.slots, shape.slots / shape.nodes, rank, 1];
}
