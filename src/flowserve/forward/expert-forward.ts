/**
 * A layer's experts as kernel calls: all that an expert NPU computes, and what other NPUs compute of them themselves.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { Kernels } from '../../model/kernels/kernels.ts';
import { invariantBroken } from '../../protocol/errors.ts';
import type { WireKernels } from '../../xccl/wire-format.ts';
import type { ExpertScratch } from '../layouts/expert-layout.ts';
import type { ExpertWeights, MlpWeights } from '../layouts/npu-layout.ts';
import type { DieLayout } from '../layouts/step-layout.ts';
import type { ExpertArithmetic, GuardSeat } from './arithmetic.ts';
import { narrowRows } from './narrow-rows.ts';
import { Products } from './products.ts';

/** Of an expert NPU, or of one that has them beside its attention. */
type Layout = DieLayout & { readonly scratch: Omit<ExpertScratch, 'computed'> & Partial<ExpertScratch> };

export class ExpertForward<Place extends Layout = Layout> implements ExpertArithmetic {
  readonly config: ModelConfig;
  readonly layout: Place;
  /** Offsets within the NPU's segment. */
  readonly at: Layout['scratch'];
  readonly wire: WireKernels;
  readonly #layers: readonly (ExpertWeights | null)[];
  readonly kernels: Kernels;
  readonly products: Products;
  readonly guard: GuardSeat = { weights: null };

  /** `layers`: null for a dense layer. */
  constructor(config: ModelConfig, layout: Place, layers: readonly (ExpertWeights | null)[], kernels: Kernels) {
    const { gathered, gateUp, activated, computed, quantized, quantizedScales } = layout.scratch;
    this.config = config;
    this.layout = layout;
    this.at = {
      ...{ gathered: offsetOf(gathered), gateUp: offsetOf(gateUp), activated: offsetOf(activated) },
      ...{ quantized: offsetOf(quantized), quantizedScales: offsetOf(quantizedScales) },
      ...(computed !== undefined && { computed: offsetOf(computed) }),
    };
    this.products = new Products(kernels, layout.scratch);
    this.#layers = layers;
    this.kernels = kernels;
    this.wire = kernels;
  }

  gatherRows(to: number, from: number, indices: number, count: number): void {
    this.kernels.gatherRows(to, from, indices, count, this.layout.row_bytes);
  }

  expert(layer: number, slot: number, y: number, x: number, count: number): void {
    const weights = this.#weightsOf(layer, slot);
    if (weights === null) invariantBroken(`NPU ${this.layout.npu} was asked for slot ${slot} of layer ${layer}, which it does not have`);
    this.mlp(weights, y, x, count);
    this.narrowAnswers(y, count);
    this.guard.weights?.slot(layer, slot);
  }

  /** What an expert answers, before anybody sums it: as it is after it has travelled. */
  narrowAnswers(y: number, rows: number): void {
    const { narrow } = this.layout;
    if (narrow.back === 'int8') narrowRows(this.kernels, narrow, y, rows, this.config.hiddenSize);
  }

  /** y = down(silu(gate(x)) · up(x)) */
  mlp({ gateUp, down }: MlpWeights, y: number, x: number, rows: number): void {
    const { gateUp: both, activated } = this.at;
    const { hiddenSize } = this.config;
    const inter = down.inDim;
    this.products.multiply(both, 2 * inter, x, hiddenSize, rows, gateUp);
    this.kernels.siluMul(activated, inter, both, 2 * inter, rows, inter);
    this.products.multiply(y, hiddenSize, activated, inter, rows, down);
  }

  /** The shared expert comes after the slots. */
  #weightsOf(layer: number, slot: number): MlpWeights | null {
    const weights = this.#layers[layer];
    return (slot === this.layout.expertSlots.each ? weights?.shared : weights?.slots[slot]) ?? null;
  }
}
