/**
 * Products of rows and weights, y = x Wᵀ, whatever the weights are kept as. In INT8 (xDeepServe §4.7) rows are quantised first, each by itself and whole, whichever
 * of the outputs are computed here: a token has the same scale at every rank, expert and peer.
 * @module
 */

import { offsetOf } from '../../fabric/address.ts';
import type { Arena } from '../../fabric/arena.ts';
import type { ModelConfig } from '../../model/config.ts';
import type { Kernels } from '../../model/kernels/kernels.ts';
import type { Linear } from '../layouts/npu-layout.ts';

/** Rows that INT8 weights are multiplied with: i16, as wide as the widest, and the scale of each. */
export type ProductScratch = { readonly quantized: number; readonly quantizedScales: number };

/** `width`: of the widest row. Nothing where no weights are INT8. */
export const layoutProducts = ({ quantization }: ModelConfig, rows: number, width: number, arena: Arena): ProductScratch =>
  quantization === undefined
    ? { quantized: 0, quantizedScales: 0 }
    : { quantized: arena.allocate(rows * width * 2), quantizedScales: arena.allocate(rows * 4) };

/** One of several products of the same rows. */
export type Product = { readonly y: number; readonly yStride: number; readonly weights: Linear };

export class Products {
  readonly kernels: Kernels;
  readonly #q: number;
  readonly #scales: number;

  constructor(kernels: Kernels, { quantized, quantizedScales }: ProductScratch) {
    this.kernels = kernels;
    this.#q = offsetOf(quantized);
    this.#scales = offsetOf(quantizedScales);
  }

  multiply(y: number, yStride: number, x: number, xStride: number, rows: number, weights: Linear): void {
    if (weights.format === 'int8') this.#quantize(x, xStride, rows, weights.inDim);
    this.#multiply(y, yStride, x, xStride, rows, weights);
  }

  /** Several products of the same rows, which are quantised once for all of them. */
  multiplyAll(products: readonly Product[], x: number, xStride: number, rows: number): void {
    const quantized = products.find(({ weights }) => weights.format === 'int8');
    if (quantized !== undefined) this.#quantize(x, xStride, rows, quantized.weights.inDim);
    for (const { y, yStride, weights } of products) this.#multiply(y, yStride, x, xStride, rows, weights);
  }

  /** Each head's product of rows that are its own, or, `xHead` 0, all heads'. */
  multiplyHeads(y: number, yRow: number, yHead: number, x: number, xRow: number, xHead: number, rows: number, weights: Linear): void {
    const { address, inDim, outDim, heads, head_bytes, format } = weights;
    const w = offsetOf(address);
    if (format === 'int8') {
      this.#quantize(x, xRow, rows, inDim);
      this.kernels.matmulHeadsInt8(y, yRow, yHead, this.#q, this.#scales, rows, heads, w, head_bytes, inDim, outDim);
    } else if (format === 'bf16') this.kernels.matmulHeadsBf16(y, yRow, yHead, x, xRow, xHead, rows, heads, w, head_bytes, inDim, outDim);
    else this.kernels.matmulHeadsF32(y, yRow, yHead, x, xRow, xHead, rows, heads, w, head_bytes, inDim, outDim);
  }

  /** Two parts of each head's outputs, of rows that are all heads'. */
  multiplyHeadsInTwo(first: HeadPart, second: HeadPart, x: number, xRow: number, rows: number): void {
    this.multiplyHeads(first.y, first.yRow, first.yHead, x, xRow, 0, rows, first.weights);
    const { y, yRow, yHead, weights } = second;
    if (weights.format !== 'int8') this.multiplyHeads(y, yRow, yHead, x, xRow, 0, rows, weights);
    else {
      const { address, inDim, outDim, heads, head_bytes } = weights;
      this.kernels.matmulHeadsInt8(y, yRow, yHead, this.#q, this.#scales, rows, heads, offsetOf(address), head_bytes, inDim, outDim);
    }
  }

  #quantize(x: number, xStride: number, rows: number, dim: number): void {
    this.kernels.quantizeRows(this.#q, this.#scales, x, xStride, rows, dim);
  }

  #multiply(y: number, yStride: number, x: number, xStride: number, rows: number, { address, inDim, outDim, format }: Linear): void {
    if (format === 'int8') this.kernels.matmulInt8(y, yStride, this.#q, this.#scales, rows, offsetOf(address), inDim, outDim);
    else if (format === 'bf16') this.kernels.matmulBf16(y, yStride, x, xStride, rows, offsetOf(address), inDim, outDim);
    else this.kernels.matmulF32(y, yStride, x, xStride, rows, offsetOf(address), inDim, outDim);
  }
}

/** Some outputs of each head: one tensor, whose rows of a head are cut in two, has one format. */
export type HeadPart = { readonly y: number; readonly yRow: number; readonly yHead: number; readonly weights: Linear };
