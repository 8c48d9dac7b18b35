/**
 * A plan says who shares a rank, and in part it does not matter which rank that is, nor which of its slots. Here such a plan is turned so that as much as
 * possible lies where it lay: the predicted loads stay as they are, fewer weights move. *Ours*; neither paper nor DeepSeek's code has it.
 *
 *   plan   nodes [A B] [C D]    present   nodes [c d] [b a]    →   [C D] [B A]
 *
 * From the outside in: nodes are matched with the nodes that they have most in common with, then ranks within each, then slots within each. Greedily: from
 * the pair with the most in common down, of equals the first.
 * @module
 */
import { type ExpertMap, expertMap, NO_EXPERT } from './expert-map.ts';
import { movesBetween } from './map-moves.ts';
import { type PlacementShape, slotsOfRank } from './placement-shape.ts';

/** What of a policy's plan may change places: slots within their rank, ranks among each other, or nodes, and the ranks within each. */
export const FREEDOMS = ['slots', 'ranks', 'nodes'] as const;
export type Freedom = (typeof FREEDOMS)[number];

/** The plan, or one that is predicted as good and moves less. */
export function keepInPlace(plan: ExpertMap, present: ExpertMap, freedom: Freedom): ExpertMap {
  const { shape } = plan;
  const expertOfSlot = plan.expertOfSlot.slice();
  const sizes = blockSizes(shape, freedom);
  for (let layer = 0; layer < shape.layers; layer++) {
    const [first, end] = [layer * shape.slots, (layer + 1) * shape.slots];
    for (let level = 1; level < sizes.length; level++) {
      const [outer, inner] = [sizes[level - 1] as number, sizes[level] as number];
      if (outer === inner) continue;
      for (let at = first; at < end; at += outer)
        matchBlocks(expertOfSlot.subarray(at, at + outer), present.expertOfSlot.subarray(at, at + outer), inner, shape.experts);
    }
  }
  const kept = expertMap(shape, expertOfSlot);
  return movesBetween(present, kept).weights <= movesBetween(present, plan).weights ? kept : plan;
}

/** Blocks of each size change places within the block before. */
function blockSizes(shape: PlacementShape, freedom: Freedom): number[] {
  const rank = slotsOfRank(shape);
  if (freedom === 'slots') return [rank, 1];
  return freedom === 'ranks' ? [shape.slots, rank, 1] : [shape.slots, shape.slots / shape.nodes, rank, 1];
}

/** Reorders the blocks of `plan` in place. */
function matchBlocks(plan: Int32Array, present: Int32Array, size: number, experts: number): void {
  const blocks = plan.length / size;
  const alike = countAlike(plan, present, size, experts);
  const blockAt = new Int32Array(blocks).fill(-1);
  const isPlaced = new Uint8Array(blocks);
  for (let most = alike.reduce((a, b) => Math.max(a, b), 0); most >= 0; most--) {
    for (let block = 0; block < blocks; block++) {
      if (isPlaced[block] === 1) continue;
      for (let at = 0; at < blocks; at++) {
        if (blockAt[at] !== -1 || alike[block * blocks + at] !== most) continue;
        blockAt[at] = block;
        isPlaced[block] = 1;
        break;
      }
    }
  }
  const before = plan.slice();
  for (let at = 0; at < blocks; at++) {
    const from = (blockAt[at] as number) * size;
    plan.set(before.subarray(from, from + size), at * size);
  }
}

/** [block of the plan][block of the present map]: how many slots they could have alike, empty ones too. */
function countAlike(plan: Int32Array, present: Int32Array, size: number, experts: number): Int32Array {
  const blocks = plan.length / size;
  const alike = new Int32Array(blocks * blocks);
  /** By expert, empty slots before them: how many slots of the present block are not yet matched. */
  const left = new Int32Array(experts - NO_EXPERT);
  for (let at = 0; at < blocks; at++) {
    for (let block = 0; block < blocks; block++) {
      for (let slot = at * size; slot < (at + 1) * size; slot++) left[(present[slot] as number) - NO_EXPERT] = 0;
      for (let slot = at * size; slot < (at + 1) * size; slot++) {
        const held = (present[slot] as number) - NO_EXPERT;
        left[held] = (left[held] as number) + 1;
      }
      let count = 0;
      for (let slot = block * size; slot < (block + 1) * size; slot++) {
        const held = (plan[slot] as number) - NO_EXPERT;
        const free = left[held] as number;
        if (free === 0) continue;
        left[held] = free - 1;
        count++;
      }
      alike[block * blocks + at] = count;
    }
    for (let slot = at * size; slot < (at + 1) * size; slot++) left[(present[slot] as number) - NO_EXPERT] = 0;
  }
  return alike;
}
