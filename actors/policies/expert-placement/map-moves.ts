/**
 * What it takes to get from one expert map to another.
 * @module
 */
import { assert } from '../../../src/protocol/errors.ts';
import { type ExpertMap, NO_EXPERT } from './expert-map.ts';
import { slotsOfRank } from './placement-shape.ts';

/** `slots`: those that get another expert. `weights`: of these, whose weights must come from another rank; the others have them in a slot of their own rank. */
export type MapMoves = { readonly slots: number; readonly weights: number };

export function movesBetween(present: Pick<ExpertMap, 'expertOfSlot'>, plan: ExpertMap): MapMoves {
  const size = present.expertOfSlot.length;
  assert(size === plan.expertOfSlot.length, `maps of ${size} and ${plan.expertOfSlot.length} slots do not compare`);
  const each = slotsOfRank(plan.shape);
  let slots = 0;
  let weights = 0;
  for (let at = 0; at < size; at++) {
    const expert = plan.expertOfSlot[at] as number;
    if (expert === NO_EXPERT || expert === present.expertOfSlot[at]) continue;
    slots++;
    // Slots of a layer are a whole number of ranks', so ranks do not straddle layers.
    const first = at - (at % each);
    if (!isWithin(present.expertOfSlot, expert, first, first + each) && !isWithin(plan.expertOfSlot, expert, first, at)) weights++;
  }
  return { slots, weights };
}

function isWithin(expertOfSlot: Int32Array, expert: number, first: number, end: number): boolean {
  for (let at = first; at < end; at++) if (expertOfSlot[at] === expert) return true;
  return false;
}
