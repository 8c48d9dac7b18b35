/**
 * A layer's attention as kernel calls, from its normed input to what its heads put out; keys and values go through the KV cache on the way.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { ModelConfig } from '../../model/config.ts';
import { gqaCellBytes, type Kernels } from '../../model/kernels/kernels.ts';
import { assert } from '../../protocol/errors.ts';
import type { GqaWeights, LayerWeights, MlaWeights, NpuLayout } from '../layouts/npu-layout.ts';
import { type Scratch, storesOf } from '../layouts/scratch-layout.ts';
import type { Span } from './arithmetic.ts';
import type { Product, Products } from './products.ts';
import { type HeadRun, headRuns } from './rank-split.ts';

export class AttentionForward {
  readonly #config: ModelConfig;
  readonly #layout: NpuLayout;
  readonly #kernels: Kernels;
  readonly #products: Products;
  readonly #at: Scratch;
  readonly #hidden: number;
  readonly #ropeTable: number;
  readonly #headRuns: readonly HeadRun[];

  /** `at`: offsets of the layout's scratch. */
  constructor(config: ModelConfig, layout: NpuLayout, kernels: Kernels, products: Products, at: Scratch) {
    this.#config = config;
    this.#layout = layout;
    this.#kernels = kernels;
    this.#products = products;
    this.#at = at;
    this.#hidden = config.hiddenSize;
    this.#ropeTable = offsetOf(layout.ropeTable);
    this.#headRuns = config.attention.kind === 'gqa' ? headRuns(layout.split.heads, config.heads / config.attention.kvHeads) : [];
  }

  /** What the heads put out of `normed`, whose cells are written first. */
  attend(layer: number, rows: number, spans: readonly Span[]): void {
    const weights = this.#weightsOf(layer);
    if (weights.kind === 'mla') this.#mla(layer, weights, rows, spans);
    else this.#gqa(layer, weights, rows, spans);
  }

  /** The cells of `normed` alone, for rows that nobody computes further. */
  writeCells(layer: number, rows: number, spans: readonly Span[]): void {
    const weights = this.#weightsOf(layer);
    if (weights.kind === 'mla') {
      this.#products.multiplyAll([this.#latentOf(weights)], this.#at.normed, this.#hidden, rows);
      this.#storeLatents(layer, weights, rows, spans);
    } else {
      this.#products.multiplyAll(this.#keysAndValuesOf(weights), this.#at.normed, this.#hidden, rows);
      this.#storeKeys(layer, weights, rows, spans);
    }
  }

  #weightsOf(layer: number): LayerWeights['attention'] {
    const weights = this.#layout.layers[layer];
    assert(weights, `the model has no layer ${layer}`);
    return weights.attention;
  }

  /** Absorbed MLA for every position: the cache holds the latent and the rope key, nothing else. */
  #mla(layer: number, w: MlaWeights, rows: number, spans: readonly Span[]): void {
    const [kernels, products, at] = [this.#kernels, this.#products, this.#at];
    const { kvLoraRank: latent, ropeDim, nopeDim, vDim, softmaxScale } = this.#mlaShape;
    const { first, count: heads } = this.#layout.split.heads;
    const wide = latent + ropeDim;
    let queryIn = at.normed;
    let queryInDim = this.#hidden;
    const down = w.qA === null ? [] : [{ y: at.qA, yStride: w.qA.outDim, weights: w.qA }];
    products.multiplyAll([...down, this.#latentOf(w)], at.normed, this.#hidden, rows);
    if (w.qA !== null && w.qANorm !== null) {
      kernels.rmsNorm(at.qA, w.qA.outDim, at.qA, w.qA.outDim, rows, w.qA.outDim, offsetOf(w.qANorm.address), this.#config.rmsNormEps);
      queryIn = at.qA;
      queryInDim = w.qA.outDim;
    }
    const nope = { y: at.qNope, yRow: heads * nopeDim, yHead: nopeDim, weights: w.qNope };
    const rope = { y: at.q + latent * 4, yRow: heads * wide, yHead: wide, weights: w.qRope };
    products.multiplyHeadsInTwo(nope, rope, queryIn, queryInDim, rows);
    products.multiplyHeads(at.q, heads * wide, wide, at.qNope, heads * nopeDim, nopeDim, rows, w.absorb);
    kernels.ropeInterleaved(at.q + latent * 4, heads * wide, wide, heads, rows, ropeDim, at.positions, this.#ropeTable);
    this.#storeLatents(layer, w, rows, spans);

    const { block_size, layer_bytes } = this.#layout.kv;
    const attend = this.#layout.kvFormat === 'int8' ? kernels.mlaAttentionSpansInt8 : kernels.mlaAttentionSpans;
    attend(
      at.attention,
      heads * latent,
      at.q,
      heads * wide,
      at.spans,
      spans.length,
      heads,
      latent,
      ropeDim,
      block_size,
      layer * layer_bytes,
      at.positions,
      softmaxScale,
      at.attentionScratch,
    );
    products.multiplyHeads(at.values + first * vDim * 4, this.#config.heads * vDim, vDim, at.attention, heads * latent, latent, rows, w.expand);
  }

  #latentOf({ kvA }: MlaWeights): Product {
    const { kvLoraRank: latent, ropeDim } = this.#mlaShape;
    return { y: this.#at.kv, yStride: latent + ropeDim, weights: kvA };
  }

  #storeLatents(layer: number, w: MlaWeights, rows: number, spans: readonly Span[]): void {
    const [kernels, at] = [this.#kernels, this.#at];
    const { kvLoraRank: latent, ropeDim } = this.#mlaShape;
    const wide = latent + ropeDim;
    kernels.rmsNorm(at.kv, wide, at.kv, wide, rows, latent, offsetOf(w.kvANorm.address), this.#config.rmsNormEps);
    kernels.ropeInterleaved(at.kv + latent * 4, wide, wide, 1, rows, ropeDim, at.positions, this.#ropeTable);
    const { block_size, layer_bytes } = this.#layout.kv;
    const store = this.#layout.kvFormat === 'int8' ? kernels.mlaStoreSpansInt8 : kernels.mlaStoreSpans;
    store(at.kv, wide, at.kv + latent * 4, wide, storesOf(at, spans), spans.length, latent, ropeDim, block_size, layer * layer_bytes, at.positions);
  }

  get #mlaShape() {
    const { attention } = this.#config;
    assert(attention.kind === 'mla', 'MLA weights of a model without MLA');
    return attention;
  }

  #gqa(layer: number, w: GqaWeights, rows: number, spans: readonly Span[]): void {
    const [kernels, at] = [this.#kernels, this.#at];
    const { first, count: heads } = this.#layout.split.heads;
    const { headDim, softmaxScale } = this.#gqaShape;
    const [qWidth, outWidth] = [heads * headDim, this.#config.heads * headDim];
    this.#products.multiplyAll([{ y: at.q, yStride: qWidth, weights: w.q }, ...this.#keysAndValuesOf(w)], at.normed, this.#hidden, rows);
    kernels.rmsNormHeads(at.q, qWidth, headDim, heads, rows, headDim, offsetOf(w.qNorm.address), this.#config.rmsNormEps);
    kernels.ropeHalves(at.q, qWidth, headDim, heads, rows, headDim, at.positions, this.#ropeTable);
    this.#storeKeys(layer, w, rows, spans);

    const { block_size, layer_bytes } = this.#layout.kv;
    const { kvFormat } = this.#layout;
    const attend = kvFormat === 'int8' ? kernels.gqaAttentionSpansInt8 : kernels.gqaAttentionSpans;
    for (const run of this.#headRuns) {
      const skip = run.first * headDim * 4;
      attend(
        at.attention + first * headDim * 4 + skip,
        outWidth,
        at.q + skip,
        qWidth,
        at.spans,
        spans.length,
        run.heads,
        run.kvHeads,
        headDim,
        block_size,
        layer * layer_bytes + run.firstKvHead * block_size * gqaCellBytes(headDim, kvFormat),
        at.positions,
        softmaxScale,
        at.attentionScratch,
      );
    }
  }

  #keysAndValuesOf({ k, v }: GqaWeights): Product[] {
    const { kvHeads, headDim } = this.#gqaShape;
    return [
      { y: this.#at.kv, yStride: kvHeads * headDim, weights: k },
      { y: this.#at.v, yStride: kvHeads * headDim, weights: v },
    ];
  }

  #storeKeys(layer: number, { kNorm }: GqaWeights, rows: number, spans: readonly Span[]): void {
    const [kernels, at] = [this.#kernels, this.#at];
    const { kvHeads, headDim } = this.#gqaShape;
    const width = kvHeads * headDim;
    kernels.rmsNormHeads(at.kv, width, headDim, kvHeads, rows, headDim, offsetOf(kNorm.address), this.#config.rmsNormEps);
    kernels.ropeHalves(at.kv, width, headDim, kvHeads, rows, headDim, at.positions, this.#ropeTable);
    const { block_size, layer_bytes } = this.#layout.kv;
    const store = this.#layout.kvFormat === 'int8' ? kernels.gqaStoreSpansInt8 : kernels.gqaStoreSpans;
    store(at.kv, width, at.v, width, storesOf(at, spans), spans.length, kvHeads, headDim, block_size, layer * layer_bytes, at.positions);
  }

  get #gqaShape() {
    const { attention } = this.#config;
    assert(attention.kind === 'gqa', 'GQA weights of a model without GQA');
    return attention;
  }
}
