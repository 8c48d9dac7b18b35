/**
 * Maps of which some ranks hold nothing: NPUs that stand by, or that are lost. Plans are made for the others as if they were all there are.
 *
 *   slots   A B · | · · · | C D A | · · ·      of ranks 0 and 2:   A B · | C D A
 */
import type { ExpertLoads } from './expert-loads.ts';
import { type ExpertMap, expertMap, NO_EXPERT, replicasOf } from './expert-map.ts';
import { keepInPlace } from './keep-in-place.ts';
import { nativeMap } from './native.ts';
import { type PlacementShape, slotsOfRank } from './placement-shape.ts';
import { FREEDOM_OF, installablePlan, type PlacementPolicy } from './policies.ts';

/** Nodes are those of all ranks: of some of them they are one. */
function shapeAmong(shape: PlacementShape, ranks: readonly number[]): PlacementShape {
  if (ranks.length === shape.ranks) return shape;
  return { ...shape, ranks: ranks.length, slots: ranks.length * slotsOfRank(shape), nodes: 1, groups: 1 };
}

/** The slots of these ranks, layer by layer. */
function slotsAmong({ shape, expertOfSlot }: ExpertMap, ranks: readonly number[]): Int32Array {
  const { layers, slots } = shape;
  const each = slotsOfRank(shape);
  const among = new Int32Array(layers * ranks.length * each);
  for (let layer = 0; layer < layers; layer++)
    for (const [index, rank] of ranks.entries()) {
      const first = layer * slots + rank * each;
      among.set(expertOfSlot.subarray(first, first + each), (layer * ranks.length + index) * each);
    }
  return among;
}

/** As if these ranks were all. @throws `invalid_request` where an expert is on none of them */
export function mapAmong(map: ExpertMap, ranks: readonly number[]): ExpertMap {
  return ranks.length === map.shape.ranks ? map : expertMap(shapeAmong(map.shape, ranks), slotsAmong(map, ranks));
}

/** The other way: what these ranks hold, and nothing on all others. */
export function mapWithOthers({ shape: among, expertOfSlot }: ExpertMap, ranks: readonly number[], shape: PlacementShape): ExpertMap {
  const each = slotsOfRank(shape);
  const all = new Int32Array(shape.layers * shape.slots).fill(NO_EXPERT);
  for (let layer = 0; layer < shape.layers; layer++)
    for (const [index, rank] of ranks.entries()) {
      const first = layer * among.slots + index * each;
      all.set(expertOfSlot.subarray(first, first + each), layer * shape.slots + rank * each);
    }
  return expertMap(shape, all);
}

/** Ranks that hold anything. */
export function ranksOf({ shape, expertOfSlot }: ExpertMap): number[] {
  const each = slotsOfRank(shape);
  const holds = new Set<number>();
  for (const [at, expert] of expertOfSlot.entries()) if (expert !== NO_EXPERT) holds.add(Math.floor((at % shape.slots) / each));
  return [...holds].sort((a, b) => a - b);
}

/** The map, were these ranks to hold nothing; null: some expert is nowhere else. */
export function mapWithout(map: ExpertMap, ranks: ReadonlySet<number>): ExpertMap | null {
  const { shape } = map;
  const each = slotsOfRank(shape);
  const expertOfSlot = map.expertOfSlot.map((expert, at) => (ranks.has(Math.floor((at % shape.slots) / each)) ? NO_EXPERT : expert));
  const isThere = new Set<number>();
  for (const [at, expert] of expertOfSlot.entries()) if (expert !== NO_EXPERT) isThere.add(Math.floor(at / shape.slots) * shape.experts + expert);
  return isThere.size === shape.layers * shape.experts ? expertMap(shape, expertOfSlot) : null;
}

/** The map as it serves while these ranks are away: their replicas are left out of whatever has others; what is nowhere else stays. */
export function mapSparing(map: ExpertMap, ranks: ReadonlySet<number>): ExpertMap {
  if (ranks.size === 0) return map;
  const { shape } = map;
  const each = slotsOfRank(shape);
  const isAway = (slot: number): boolean => ranks.has(Math.floor(slot / each));
  const expertOfSlot = map.expertOfSlot.map((expert, at) => {
    if (expert === NO_EXPERT || !isAway(at % shape.slots)) return expert;
    const isElsewhere = replicasOf(map, Math.floor(at / shape.slots), expert).some((slot) => !isAway(slot));
    return isElsewhere ? NO_EXPERT : expert;
  });
  return expertMap(shape, expertOfSlot);
}

/** All experts on these ranks alone, by the policy, turned so that as much as possible stays where it is. Without loads: as the checkpoint lays them out. */
export function planAmong(present: ExpertMap, ranks: readonly number[], policy: PlacementPolicy, loads: ExpertLoads | null): ExpertMap {
  const shape = shapeAmong(present.shape, ranks);
  // Ranks of one node are one another's equals, whatever the policy; none of it depends on where groups lie.
  const by = loads === null ? 'native' : policy === 'hierarchical' && shape !== present.shape ? 'global' : policy;
  const plan = loads === null ? nativeMap(shape) : installablePlan(by, loads, shape);
  return mapWithOthers(keepInPlace(plan, { expertOfSlot: slotsAmong(present, ranks) }, FREEDOM_OF[by]), ranks, present.shape);
}
