/**
 * Packs items into packs of equally many, as even in weight as one pass gets them: from the heaviest item down, each goes to the lightest pack that is not
 * full (DeepSeek EPLB, `balanced_packing`). Of equal items and of equal packs the first comes first, and sums are of single precision, so that the result
 * is DeepSeek's own to the last slot.
 * @module
 */
import { assert } from '../../../src/protocol/errors.ts';
import { LeastLoaded } from './least-loaded.ts';
import { SLOTS_MAX } from './placement-shape.ts';

/** Of so many items into so many packs, again and again, in memory of its own. */
export class BalancedPacking {
  readonly items: number;
  readonly packs: number;
  /** By item, until the next `pack`: where it went, and as the how manieth. */
  readonly packOf: Int32Array;
  readonly placeOf: Int32Array;
  /** The weights of an item, to be written before `pack`: finite, none negative. */
  readonly weights: Float32Array;
  readonly #bits: Uint32Array;
  readonly #order: Float64Array;
  readonly #open: LeastLoaded;
  readonly #filled: Int32Array;

  constructor(items: number, packs: number) {
    assert(items % packs === 0 && items <= SLOTS_MAX, `${items} items do not fill ${packs} packs alike`);
    this.items = items;
    this.packs = packs;
    this.packOf = new Int32Array(items);
    this.placeOf = new Int32Array(items);
    this.weights = new Float32Array(items);
    this.#bits = new Uint32Array(this.weights.buffer);
    this.#order = new Float64Array(items);
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
    this.#sort();
    const [order, open, filled] = [this.#order, this.#open, this.#filled];
    open.loads.fill(0, 0, packs);
    open.rebuild();
    filled.fill(0);
    for (let turn = items - 1; turn >= 0; turn--) {
      const key = order[turn] as number;
      const item = SLOTS_MAX - 1 - (key - Math.floor(key / SLOTS_MAX) * SLOTS_MAX);
      const pack = open.least;
      const place = filled[pack] as number;
      packOf[item] = pack;
      placeOf[item] = place;
      filled[pack] = place + 1;
      // Infinite: full, so never the lightest again.
      open.set(pack, place + 1 === each ? Number.POSITIVE_INFINITY : Math.fround((open.loads[pack] as number) + (weights[item] as number)));
    }
  }

  /** Ascending by weight, equal ones by descending index: the bits of floats that are not negative sort as the floats do, and a number holds both exactly. */
  #sort(): void {
    const [order, bits] = [this.#order, this.#bits];
    for (let item = 0; item < this.items; item++) order[item] = (bits[item] as number) * SLOTS_MAX + (SLOTS_MAX - 1 - item);
    order.sort();
  }
}
