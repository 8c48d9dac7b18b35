/**
 * The attention kernels, as kernels.ts binds them.
 * @module
 */
import type { Address } from './kernels.ts';

/** Rows of one sequence over its paged KV. */
export type Attention = {
  /**
   * Multi-head latent attention in absorbed form, rows of one sequence. q row: per head [q_latent | q_rope]; out row: per head `latent` floats.
   * Row r sees positions 0..positions[r]. `latent` and `rope` are multiples of 4, blockSize of 16. scratch: attentionScratchBytes(rows, heads).
   */
  mlaAttention(
    out: Address,
    outStride: number,
    q: Address,
    qStride: number,
    rows: number,
    heads: number,
    latent: number,
    rope: number,
    blockTable: Address,
    blockSize: number,
    layerOffset: number,
    positions: Address,
    scale: number,
    scratch: Address,
  ): void;
  /** Grouped-query attention: head h reads KV head h / (heads / kvHeads). q and out rows: heads × headDim (a multiple of 4). scratch as for MLA. */
  gqaAttention(
    out: Address,
    outStride: number,
    q: Address,
    qStride: number,
    rows: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    blockTable: Address,
    blockSize: number,
    layerOffset: number,
    positions: Address,
    scale: number,
    scratch: Address,
  ): void;
  /** Writes rows into the layer's part of their blocks: [position in block][latent | roped key]. */
  mlaStore(
    latent: Address,
    latentStride: number,
    ropeKey: Address,
    ropeStride: number,
    rows: number,
    latentDim: number,
    ropeDim: number,
    blockTable: Address,
    blockSize: number,
    layerOffset: number,
    positions: Address,
  ): void;
  /** Writes rows of k and v ([kvHeads][headDim]) into the layer's part of their blocks: [kv head][position in block][key | value]. */
  gqaStore(
    k: Address,
    kStride: number,
    v: Address,
    vStride: number,
    rows: number,
    kvHeads: number,
    headDim: number,
    blockTable: Address,
    blockSize: number,
    layerOffset: number,
    positions: Address,
  ): void;
  /** Rotates pairs (2i, 2i + 1) in place. Head h of row r at x + r * rowStride + h * headStride; table by rope-table.ts. */
  ropeInterleaved(x: Address, rowStride: number, headStride: number, heads: number, rows: number, ropeDim: number, positions: Address, table: Address): void;
  /** Rotates pairs (i, i + ropeDim / 2) in place. */
  ropeHalves(x: Address, rowStride: number, headStride: number, heads: number, rows: number, ropeDim: number, positions: Address, table: Address): void;
};

/**
 * The four above for all sequences of a step in one call, each by itself. spans: u32 [count][3], (first row, rows, address of the block table).
 * scratch: attentionScratchBytes of the longest span.
 */
export type AttentionOfSpans = {
  mlaAttentionSpans(
    out: Address,
    outStride: number,
    q: Address,
    qStride: number,
    spans: Address,
    count: number,
    heads: number,
    latent: number,
    rope: number,
    blockSize: number,
    layerOffset: number,
    positions: Address,
    scale: number,
    scratch: Address,
  ): void;
  gqaAttentionSpans(
    out: Address,
    outStride: number,
    q: Address,
    qStride: number,
    spans: Address,
    count: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    blockSize: number,
    layerOffset: number,
    positions: Address,
    scale: number,
    scratch: Address,
  ): void;
  mlaStoreSpans(
    latent: Address,
    latentStride: number,
    ropeKey: Address,
    ropeStride: number,
    spans: Address,
    count: number,
    latentDim: number,
    ropeDim: number,
    blockSize: number,
    layerOffset: number,
    positions: Address,
  ): void;
  gqaStoreSpans(
    k: Address,
    kStride: number,
    v: Address,
    vStride: number,
    spans: Address,
    count: number,
    kvHeads: number,
    headDim: number,
    blockSize: number,
    layerOffset: number,
    positions: Address,
  ): void;
};
