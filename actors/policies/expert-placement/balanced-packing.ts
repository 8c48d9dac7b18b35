/**
 * Packs items into packs of equally many, as even in weight as one pass gets them: from the heaviest item down, each goes to the lightest pack that is not
 * full (DeepSeek EPLB, `balanced_packing`). Of equal items and of equal packs the first comes first, and sums are of single precision, so that the result
 * is DeepSeek's own to the last slot.
 * @module
 */
import { assert } from '../../../src/protocol/errors.ts';
import { HeaviestFirst } from './heaviest-first.ts';
import { LeastLoaded } from './least-loaded.ts';

/** Of so many items into so many packs, again and again, in memory of its own. */
export class BalancedPacking {
  readonly items: number;
  readonly packs: number;
  /** By item, until the next `pack`: where it went, and as the how manieth. */
  readonly packOf: Int32Array;
  readonly placeOf: Int32Array;
  /** The weights of an item, to be written before `pack`: finite, none negative. */
  readonly weights: Float32Array;
  readonly #order: HeaviestFirst;
  readonly #open: LeastLoaded;
  readonly #filled: Int32Array;

  constructor(items: number, packs: number) {
    assert(items % packs === 0, `${items} items do not fill ${packs} packs alike`);
    this.items = items;
    this.packs = packs;
    this.packOf = new Int32Array(items);
    this.placeOf = new Int32Array(items);
    this.#order = new HeaviestFirst(items);
    this.weights = this.#order.weights;
    this.#open = new LeastLoaded(packs);
    this.#filled = new Int32Array(packs);
  }

  pack(): void {
    const { items, packs, packOf, placeOf, weights } = this;
    const each = items / packs;
    if (each === 1) {
      for (let item = 0; item < items; item++) packOf[item] = item;
      return;
    }
    const [open, filled] = [this.#open, this.#filled];
    const order = this.#order.sort();
    open.loads.fill(0, 0, packs);
    open.rebuild();
    filled.fill(0);
    for (let turn = 0; turn < items; turn++) {
      const item = order[turn] as number;
      const pack = open.least;
      const place = filled[pack] as number;
      packOf[item] = pack;
      placeOf[item] = place;
      filled[pack] = place + 1;
      // Infinite: full, so never the lightest again.
      open.set(pack, place + 1 === each ? Number.POSITIVE_INFINITY : Math.fround((open.loads[pack] as number) + (weights[item] as number)));
    }
  }
}
