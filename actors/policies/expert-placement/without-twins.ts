/**
 * Takes out of a plan what it places twice on one rank, whose weights take a slot and a move for nothing. DeepSeek's packing looks at loads alone and does it where
 * there is much room; xDeepServe §4.5 does not forbid it. *Ours*: plans that are installed have no twins.
 *
 *   plan   A B A | C D E        →   A B D | C A E        a twin changes places with a replica on another rank of its node: the one that leaves both the evenest
 *   plan   A A   | B A          →   A ·   | B A          and where there is none, its slot stays empty
 *
 * To empty all of them would be simpler and is worse, since a twin gives its rank a greater share of the expert's tokens: of OLMoE's loads on github (EP32, one
 * redundant slot a rank) the global policy's 1.086 comes to 1.142 by one slot that is emptied.
 */
import { addWindows, type ExpertLoads } from './expert-loads.ts';
import { type ExpertMap, expertMap, NO_EXPERT, replicaCount } from './expert-map.ts';
import { slotsOfRank } from './placement-shape.ts';

/** The map itself where it has none. `isFixed`: of a slot, all layers' numbered through: it keeps what it has. */
export function withoutTwins(map: ExpertMap, loads: ExpertLoads, isFixed: (at: number) => boolean = () => false): ExpertMap {
  const { layers, slots } = map.shape;
  const each = slotsOfRank(map.shape);
  const expertOfSlot = map.expertOfSlot.slice();
  const isWithin = (at: number, first: number, expert: number): boolean => {
    for (let other = first; other < first + each; other++) if (other !== at && expertOfSlot[other] === expert) return true;
    return false;
  };
  let isChanged = false;
  for (let layer = 0; layer < layers; layer++) {
    let planned: PlannedLayer | null = null;
    for (let at = layer * slots; at < (layer + 1) * slots; at++) {
      const expert = expertOfSlot[at] as number;
      if (expert === NO_EXPERT || isFixed(at) || !isWithin(at, at - (at % each), expert)) continue;
      planned ??= new PlannedLayer(map, loads, layer, expertOfSlot, isFixed);
      planned.separate(at);
      isChanged = true;
    }
  }
  return isChanged ? expertMap(map.shape, expertOfSlot) : map;
}

/** One layer, and what its ranks have to do. */
class PlannedLayer {
  readonly #expertOfSlot: Int32Array;
  readonly #isFixed: (at: number) => boolean;
  readonly #first: number;
  readonly #each: number;
  /** Slots of a node. */
  readonly #node: number;
  /** By expert: its tokens, and its replicas. */
  readonly #tokens: Float64Array;
  readonly #counts: Int32Array;
  /** By rank. */
  readonly #loads: Float64Array;

  constructor(map: ExpertMap, loads: ExpertLoads, layer: number, expertOfSlot: Int32Array, isFixed: (at: number) => boolean) {
    const { experts, slots, ranks, nodes } = map.shape;
    this.#expertOfSlot = expertOfSlot;
    this.#isFixed = isFixed;
    this.#first = layer * slots;
    this.#each = slotsOfRank(map.shape);
    this.#node = slots / nodes;
    this.#tokens = new Float64Array(experts);
    addWindows(loads, layer, this.#tokens);
    this.#counts = Int32Array.from({ length: experts }, (_, expert) => replicaCount(map, layer, expert));
    this.#loads = new Float64Array(ranks);
    this.#addUp();
  }

  /** Of the twins on its rank, the one in this slot goes elsewhere. */
  separate(at: number): void {
    const slots = this.#expertOfSlot;
    const expert = slots[at] as number;
    const other = this.#partnerOf(at, expert);
    if (other >= 0) {
      slots[at] = slots[other] as number;
      slots[other] = expert;
    } else {
      slots[at] = NO_EXPERT;
      (this.#counts[expert] as number)--;
    }
    this.#addUp();
  }

  /** −1: there is none. */
  #partnerOf(at: number, expert: number): number {
    const from = this.#rankOf(at);
    const share = this.#shareOf(expert);
    const node = at - ((at - this.#first) % this.#node);
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    for (let other = node; other < node + this.#node; other++) {
      const taken = this.#expertOfSlot[other] as number;
      const to = this.#rankOf(other);
      if (to === from || this.#isFixed(other) || this.#holds(to, expert) || (taken !== NO_EXPERT && this.#holds(from, taken))) continue;
      const more = share - this.#shareOf(taken);
      const most = Math.max((this.#loads[from] as number) - more, (this.#loads[to] as number) + more);
      if (most >= least) continue;
      best = other;
      least = most;
    }
    return best;
  }

  #addUp(): void {
    this.#loads.fill(0);
    const end = this.#first + this.#loads.length * this.#each;
    for (let at = this.#first; at < end; at++) {
      const rank = this.#rankOf(at);
      this.#loads[rank] = (this.#loads[rank] as number) + this.#shareOf(this.#expertOfSlot[at] as number);
    }
  }

  #shareOf(expert: number): number {
    return expert === NO_EXPERT ? 0 : (this.#tokens[expert] as number) / (this.#counts[expert] as number);
  }

  #rankOf(at: number): number {
    return Math.floor((at - this.#first) / this.#each);
  }

  #holds(rank: number, expert: number): boolean {
    const first = this.#first + rank * this.#each;
    for (let at = first; at < first + this.#each; at++) if (this.#expertOfSlot[at] === expert) return true;
    return false;
  }
}
