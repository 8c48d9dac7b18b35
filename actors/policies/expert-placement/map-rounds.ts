/**
 * The way from one expert map to another, in rounds: what changes at once takes no expert its last slot, and exchanges the expert of no more than one slot a rank, so
 * that one slot's weights are all that a rank has to set aside. Empty slots are filled, and others emptied, as many as there are: nothing is set aside for them. *Ours*: the paper moves single replicas into slots that are free, DeepSeek's code says nothing of it.
 *
 *   present  A B C  ·      plan  B C A  ·      every slot that would change holds an expert's only weights: the free one lends itself
 *   round 1        A       2  B . . A       3  . C . A       4  . . A A      the lent slot comes last
 */
import { type ExpertMap, expertMap, NO_EXPERT } from './expert-map.ts';
import { slotsOfRank } from './placement-shape.ts';

/** `slot` gets `expert`, whose weights `source` has; NO_EXPERT: it is emptied. Slots are the group's. */
export type SlotChange = { readonly layer: number; readonly slot: number; readonly expert: number; readonly source: number };

/** Null: there is no way, since every slot is needed where it is. `away`: ranks that are lost, whose slots take in nothing. */
export function planRounds(present: ExpertMap, plan: ExpertMap, away: ReadonlySet<number> = new Set()): readonly (readonly SlotChange[])[] | null {
  const { layers, slots, ranks, experts } = present.shape;
  const each = slotsOfRank(present.shape);
  const holds = present.expertOfSlot.slice();
  const wanted = plan.expertOfSlot;
  const counts = new Int32Array(layers * experts);
  for (const [at, expert] of holds.entries()) if (expert !== NO_EXPERT) (counts[Math.floor(at / slots) * experts + expert] as number)++;
  /** By layer: the slot that is lent, or −1. */
  const lent = new Int32Array(layers).fill(-1);
  const rounds: SlotChange[][] = [];
  const rankOf = (layer: number, at: number): number => Math.floor((at - layer * slots) / each);
  const countOf = (layer: number, expert: number): number => counts[layer * experts + expert] as number;
  /** What each slot held as the round began: nothing moves before all is copied. */
  let before = holds;
  const isSettled = (layer: number, expert: number): boolean => {
    for (let at = layer * slots; at < (layer + 1) * slots; at++) if (before[at] === expert && wanted[at] === expert) return true;
    return false;
  };
  const mayChange = (layer: number, at: number): boolean => {
    const expert = holds[at] as number;
    if (expert === NO_EXPERT) return true;
    if (at === lent[layer]) return isSettled(layer, expert);
    return countOf(layer, expert) > 1;
  };

  for (;;) {
    const changes: SlotChange[] = [];
    const busy = new Uint8Array(ranks);
    before = holds.slice();
    const change = (layer: number, at: number, expert: number): void => {
      const old = holds[at] as number;
      if (old !== NO_EXPERT) (counts[layer * experts + old] as number)--;
      const source = expert === NO_EXPERT ? -1 : before.indexOf(expert, layer * slots) - layer * slots;
      changes.push({ layer, slot: at - layer * slots, expert, source });
      holds[at] = expert;
      if (old !== NO_EXPERT && expert !== NO_EXPERT) busy[rankOf(layer, at)] = 1;
    };
    const rankIsBusy = (layer: number, at: number, expert: number): boolean => holds[at] !== NO_EXPERT && expert !== NO_EXPERT && busy[rankOf(layer, at)] === 1;
    let isOver = true;
    for (let layer = 0; layer < layers; layer++) {
      const arrived: number[] = [];
      let isStuck = false;
      // For its rank, which changes something else in this round.
      let waits = false;
      for (let at = layer * slots; at < (layer + 1) * slots; at++) {
        const expert = wanted[at] as number;
        if (holds[at] === expert) continue;
        isOver = false;
        if (!mayChange(layer, at)) isStuck = true;
        else if (!rankIsBusy(layer, at, expert)) {
          change(layer, at, expert);
          if (at === lent[layer]) lent[layer] = -1;
          if (expert !== NO_EXPERT) arrived.push(expert);
        } else waits = true;
      }
      if (isStuck && !waits && !changes.some((one) => one.layer === layer) && lent[layer] === -1 && !lend(layer, rankIsBusy, change, arrived)) return null;
      // They count from the next round on, when they are there.
      for (const expert of arrived) (counts[layer * experts + expert] as number)++;
    }
    if (isOver) return rounds;
    if (changes.length === 0) return null;
    rounds.push(changes);
  }

  /** A slot whose expert is elsewhere too takes in one that is stuck. True also where all such slots are busy: another round has one. */
  function lend(
    layer: number,
    rankIsBusy: (layer: number, at: number, expert: number) => boolean,
    change: (layer: number, at: number, expert: number) => void,
    arrived: number[],
  ): boolean {
    const stuck = inCircle(layer);
    let isThere = false;
    for (let at = layer * slots; at < (layer + 1) * slots; at++) {
      const expert = holds[at] as number;
      if (at === stuck || away.has(rankOf(layer, at)) || (expert !== NO_EXPERT && countOf(layer, expert) < 2)) continue;
      isThere = true;
      const taken = holds[stuck] as number;
      if (rankIsBusy(layer, at, taken)) continue;
      change(layer, at, taken);
      arrived.push(taken);
      lent[layer] = at;
      return true;
    }
    return isThere;
  }

  /**
   * One of those slots that wait for one another in a circle. Where nothing may change, each slot that should holds an expert's only weights, and some other such
   * slot wants them: so following them leads into one.
   */
  function inCircle(layer: number): number {
    const all = Array.from({ length: slots }, (_, slot) => layer * slots + slot);
    let at = all.find((slot) => holds[slot] !== wanted[slot]) as number;
    for (let step = 0; step < slots; step++) at = all.find((slot) => wanted[slot] === holds[at] && holds[slot] !== wanted[slot]) ?? at;
    return at;
  }
}

/** The map with these slots as they are after the round; `isDisabled`: while it is under way, when nobody may ask for them. */
export function mapAfter(map: ExpertMap, changes: readonly SlotChange[], isDisabled: boolean): ExpertMap {
  const expertOfSlot = map.expertOfSlot.slice();
  for (const { layer, slot, expert } of changes) expertOfSlot[layer * map.shape.slots + slot] = isDisabled ? NO_EXPERT : expert;
  return expertMap(map.shape, expertOfSlot);
}
