/**
 * Experts of the hash model (hash-forward.ts), as an NPU computes them for whoever asks, itself among them.
 *
 *   reply e = H(layer, e, W of e, normed)        e by the slot's table, W by its weights; the shared expert: H(layer, W, normed)
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { invariantBroken } from '../../protocol/errors.ts';
import type { WireKernels } from '../../xccl/wire-format.ts';
import { expertIn } from '../experts/expert-slots.ts';
import type { ExpertArithmetic, GuardSeat } from '../forward/arithmetic.ts';
import type { DieLayout, ModelShape } from '../layouts/step-layout.ts';
import { Hash } from './hash.ts';
import type { HashExpertLayout } from './hash-layout.ts';

const KIND = { expert: 17, shared: 18 } as const;

type Layout = DieLayout & { readonly scratch: ExpertArithmetic['at'] } & Pick<HashExpertLayout, 'weights' | 'hasShared'>;

export class HashExperts<Place extends Layout = Layout> implements ExpertArithmetic {
  readonly config: ModelShape;
  readonly layout: Place;
  readonly at: ExpertArithmetic['at'];
  readonly wire: WireKernels;
  readonly guard: GuardSeat = { weights: null };
  readonly #words: Int32Array;
  readonly #hash = new Hash();
  /** Index of the replicated weights; an expert's lie behind it. */
  readonly #weights: number;

  constructor(config: ModelShape, layout: Place, space: AddressSpace) {
    this.config = config;
    this.layout = layout;
    const { gathered, computed } = layout.scratch;
    this.at = { gathered: offsetOf(gathered), ...(computed !== undefined && { computed: offsetOf(computed) }) };
    this.#words = space.wordsOf(layout.base);
    this.wire = hashWire(this.#words);
    this.#weights = offsetOf(layout.weights) >>> 2;
  }

  gatherRows(to: number, from: number, indices: number, count: number): void {
    const words = this.#words;
    const target = to >>> 2;
    const source = from >>> 2;
    const index = indices >>> 2;
    for (let row = 0; row < count; row++) {
      const at = source + 2 * (words[index + row] as number);
      words[target + 2 * row] = words[at] as number;
      words[target + 2 * row + 1] = words[at + 1] as number;
    }
  }

  expert(layer: number, slot: number, y: number, x: number, count: number): void {
    const { expertSlots } = this.layout;
    if (slot === expertSlots.each) this.shared(layer, y, x, count);
    else this.#routed(layer, slot, y, x, count);
    this.guard.weights?.slot(layer, slot);
  }

  #routed(layer: number, slot: number, y: number, x: number, count: number): void {
    const { expertSlots } = this.layout;
    const words = this.#words;
    const expert = expertIn(words, expertSlots, layer, slot);
    if (expert < 0) invariantBroken(`NPU ${this.layout.npu} was asked for slot ${slot} of layer ${layer}, which holds nothing`);
    const weights = this.#weights + 2 * (1 + layer * expertSlots.each + slot);
    const target = y >>> 2;
    const source = x >>> 2;
    for (let row = 0; row < 2 * count; row += 2) {
      this.#hash.begin(KIND.expert, layer, expert);
      this.#hash.absorb(words[weights] as number, words[weights + 1] as number);
      this.#hash.absorb(words[source + row] as number, words[source + row + 1] as number);
      this.#hash.write(words, target + row);
    }
  }

  /** The shared expert of `count` rows. */
  shared(layer: number, y: number, x: number, count: number): void {
    if (!this.layout.hasShared) invariantBroken(`NPU ${this.layout.npu} was asked for the shared expert of layer ${layer}, which it does not have`);
    const words = this.#words;
    const target = y >>> 2;
    const source = x >>> 2;
    for (let row = 0; row < 2 * count; row += 2) {
      this.#hash.begin(KIND.shared, layer, 0);
      this.#hash.absorb(words[this.#weights] as number, words[this.#weights + 1] as number);
      this.#hash.absorb(words[source + row] as number, words[source + row + 1] as number);
      this.#hash.write(words, target + row);
    }
  }
}

/** A hash is two numbers of 32 bits, which travel as they are: any other format would be another hash. */
function hashWire(words: Int32Array): WireKernels {
  const refuse = (): void => invariantBroken('rows of the hash model travel as f32, and nobody sums them');
  return {
    quantizeInt8: refuse,
    dequantizeInt8: refuse,
    packRowsBf16: refuse,
    unpackRowsBf16: refuse,
    combineRowsAt: refuse,
    gatherRows: (to, from, indices, count, row_bytes) => {
      const size = row_bytes >>> 2;
      for (let row = 0; row < count; row++) {
        const source = (from >>> 2) + size * (words[(indices >>> 2) + row] as number);
        for (let word = 0; word < size; word++) words[(to >>> 2) + row * size + word] = words[source + word] as number;
      }
    },
  };
}
