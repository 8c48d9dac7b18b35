/**
 * Where experts lie from now on whose NPUs are lost for good (ReviveMoE; xDeepServe §6): what others have of them stays where it is, and what is nowhere else goes
 * into slots of those that are left, free ones first, then those of experts that keep another replica. Nothing else moves: it is service that is wanted, not balance.
 *
 *   A B · | C A · | D B ·    rank 2 is gone     ─▶   A B D | C A · | · · ·
 */
import { type ExpertMap, expertMap, NO_EXPERT } from './expert-map.ts';
import { slotsOfRank } from './placement-shape.ts';

/** Layers as maps count them. */
export type LostExpert = { readonly layer: number; readonly expert: number };

/**
 * `there`: the map without what the lost ranks have beside others. `wanted`: the one to come to. `loaded`: those that are nowhere, and get a slot; `lost`: those for which
 * there is none: they stay where they are, on ranks that are gone.
 */
export type Rehomed = { readonly there: ExpertMap; readonly wanted: ExpertMap; readonly loaded: readonly LostExpert[]; readonly lost: readonly LostExpert[] };

/** `gone`: ranks that are lost for good; `away`: all that are lost; `room`: lists of ranks whose slots may be used, the first ones first. */
export function rehomeExperts(map: ExpertMap, gone: ReadonlySet<number>, away: ReadonlySet<number>, room: readonly (readonly number[])[]): Rehomed {
  const { shape } = map;
  const { layers, experts, slots } = shape;
  const each = slotsOfRank(shape);
  const rankOf = (slot: number): number => Math.floor(slot / each);
  const there = map.expertOfSlot.slice();
  const wanted = map.expertOfSlot.slice();
  const loaded: LostExpert[] = [];
  const lost: LostExpert[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const first = layer * slots;
    const copies = new Int32Array(experts);
    /** On ranks that are lost, but not for good. */
    const waiting = new Uint8Array(experts);
    for (let slot = 0; slot < slots; slot++) {
      const expert = map.expertOfSlot[first + slot] as number;
      if (expert === NO_EXPERT) continue;
      if (!away.has(rankOf(slot))) copies[expert] = (copies[expert] as number) + 1;
      else if (!gone.has(rankOf(slot))) waiting[expert] = 1;
    }
    const nowhere = new Set<number>();
    for (let slot = 0; slot < slots; slot++) {
      const expert = map.expertOfSlot[first + slot] as number;
      if (expert === NO_EXPERT || !gone.has(rankOf(slot))) continue;
      if (copies[expert] === 0 && waiting[expert] === 0) nowhere.add(expert);
      else there[first + slot] = wanted[first + slot] = NO_EXPERT;
    }
    for (const expert of [...nowhere].sort((a, b) => a - b)) {
      const slot = room.map((ranks) => slotFor(wanted, first, each, ranks, copies)).find((found) => found >= 0) ?? -1;
      if (slot < 0) {
        lost.push({ layer, expert });
        continue;
      }
      const held = wanted[first + slot] as number;
      if (held !== NO_EXPERT) copies[held] = (copies[held] as number) - 1;
      for (let other = 0; other < slots; other++) if (wanted[first + other] === expert) wanted[first + other] = NO_EXPERT;
      wanted[first + slot] = expert;
      copies[expert] = 1;
      loaded.push({ layer, expert });
    }
  }
  return { there: expertMap(shape, there), wanted: expertMap(shape, wanted), loaded, lost };
}

/** A free slot of the rank that has most of them; else one of the expert with most replicas, of which one is left at least. −1: there is none. */
function slotFor(expertOfSlot: Int32Array, first: number, each: number, ranks: readonly number[], copies: Int32Array): number {
  let [best, most] = [-1, 0];
  for (const rank of ranks) {
    const own = expertOfSlot.subarray(first + rank * each, first + (rank + 1) * each);
    const free = own.reduce((count, expert) => count + (expert === NO_EXPERT ? 1 : 0), 0);
    if (free > most) [best, most] = [rank * each + own.indexOf(NO_EXPERT), free];
  }
  if (best >= 0) return best;
  most = 1;
  for (const rank of ranks)
    for (let slot = rank * each; slot < (rank + 1) * each; slot++) {
      const count = copies[expertOfSlot[first + slot] as number] as number;
      if (count > most) [best, most] = [slot, count];
    }
  return best;
}

/** The map, with what a rank that is back had before it was gone, as far as its slots are free. */
export function withReturned(map: ExpertMap, rank: number, had: Int32Array): ExpertMap {
  const each = slotsOfRank(map.shape);
  const expertOfSlot = map.expertOfSlot.map((expert, at) => {
    const slot = at % map.shape.slots;
    if (expert !== NO_EXPERT || Math.floor(slot / each) !== rank) return expert;
    return had[Math.floor(at / map.shape.slots) * each + (slot % each)] as number;
  });
  return expertMap(map.shape, expertOfSlot);
}

/** What a rank's slots hold, layer by layer. */
export function slotsOf({ shape, expertOfSlot }: ExpertMap, rank: number): Int32Array {
  const each = slotsOfRank(shape);
  const own = new Int32Array(shape.layers * each);
  for (let layer = 0; layer < shape.layers; layer++) {
    const first = layer * shape.slots + rank * each;
    own.set(expertOfSlot.subarray(first, first + each), layer * each);
  }
  return own;
}
