/** Experts that are on other ranks by one map than by another: what a change came to, whatever way it went. @module */
import { type ExpertMap, replicasOf } from './expert-map.ts';
import { slotsOfRank } from './placement-shape.ts';

/** `onto`: ranks that have it now and had not; `off`: the other way. Layers are counted from 0. */
export type RanksMoved = { readonly layer: number; readonly expert: number; readonly onto: readonly number[]; readonly off: readonly number[] };

export function ranksMoved(from: ExpertMap, to: ExpertMap): RanksMoved[] {
  const { layers, experts } = to.shape;
  const each = slotsOfRank(to.shape);
  const ranksIn = (map: ExpertMap, layer: number, expert: number): number[] => [
    ...new Set([...replicasOf(map, layer, expert)].map((slot) => Math.floor(slot / each))),
  ];
  const moved: RanksMoved[] = [];
  for (let layer = 0; layer < layers; layer++) {
    // Most changes leave most layers as they are.
    if (isSame(from, to, layer)) continue;
    for (let expert = 0; expert < experts; expert++) {
      const [had, has] = [ranksIn(from, layer, expert), ranksIn(to, layer, expert)];
      const onto = has.filter((rank) => !had.includes(rank));
      const off = had.filter((rank) => !has.includes(rank));
      if (onto.length + off.length > 0) moved.push({ layer, expert, onto, off });
    }
  }
  return moved;
}

function isSame({ expertOfSlot: had }: ExpertMap, { shape: { slots }, expertOfSlot: has }: ExpertMap, layer: number): boolean {
  for (let at = layer * slots; at < (layer + 1) * slots; at++) if (had[at] !== has[at]) return false;
  return true;
}
