/**
 * The attention kernels, as kernels.ts binds them: each for the rows of one sequence, whose block table it is given, and for those of all sequences of a step
 * in one call, each by itself. `Rows` and `Table` are what the two differ in.
 * @module
 */
import type { Address } from './kernels.ts';

type OfSequence = { readonly rows: [rows: number]; readonly table: [blockTable: Address]; readonly first: [first: number] };
/** spans: u32 [count][4], (first row, rows, address of the block table, `first` of MLA). Scratch is that of the longest span. */
type OfSpans = { readonly rows: [spans: Address, count: number]; readonly table: []; readonly first: [] };
type Which = OfSequence | OfSpans;

/** Where the rows' blocks are, what of each block is the layer's, and the rows' positions. */
type Cells<Of extends Which> = [...table: Of['table'], blockSize: number, layerOffset: number, positions: Address];

/**
 * Multi-head latent attention in absorbed form. q row: per head [q_latent | q_rope]; out row: per head `latent` floats. Row r sees positions first..positions[r],
 * `first` being 0, or where an MTP layer's rows begin. `latent` and `rope` are multiples of 4, blockSize of 16. scratch: attentionScratchBytes(rows, heads).
 */
type MlaAttention<Of extends Which> = (
  ...operands: [
    ...[out: Address, outStride: number, q: Address, qStride: number],
    ...rows: Of['rows'],
    ...[heads: number, latent: number, rope: number],
    ...cells: Cells<Of>,
    ...first: Of['first'],
    ...[scale: number, scratch: Address],
  ]
) => void;

/** Grouped-query attention: head h reads KV head h / (heads / kvHeads). q and out rows: heads × headDim (a multiple of 4). scratch as for MLA. */
type GqaAttention<Of extends Which> = (
  ...operands: [
    ...[out: Address, outStride: number, q: Address, qStride: number],
    ...rows: Of['rows'],
    ...[heads: number, kvHeads: number, headDim: number],
    ...cells: Cells<Of>,
    ...[scale: number, scratch: Address],
  ]
) => void;

/** Writes rows into the layer's part of their blocks: [position in block][latent | roped key]. */
type MlaStore<Of extends Which> = (
  ...operands: [
    ...[latent: Address, latentStride: number, ropeKey: Address, ropeStride: number],
    ...rows: Of['rows'],
    ...[latentDim: number, ropeDim: number],
    ...cells: Cells<Of>,
  ]
) => void;

/** Writes rows of k and v ([kvHeads][headDim]) into the layer's part of their blocks: [kv head][position in block][key | value]. */
type GqaStore<Of extends Which> = (
  ...operands: [...[k: Address, kStride: number, v: Address, vStride: number], ...rows: Of['rows'], ...[kvHeads: number, headDim: number], ...cells: Cells<Of>]
) => void;

export type Attention = {
  readonly mlaAttention: MlaAttention<OfSequence>;
  readonly mlaAttentionSpans: MlaAttention<OfSpans>;
  readonly gqaAttention: GqaAttention<OfSequence>;
  readonly gqaAttentionSpans: GqaAttention<OfSpans>;
  readonly mlaStore: MlaStore<OfSequence>;
  readonly mlaStoreSpans: MlaStore<OfSpans>;
  readonly gqaStore: GqaStore<OfSequence>;
  readonly gqaStoreSpans: GqaStore<OfSpans>;
  /** The same with cells in INT8 (assembly/kv-int8.ts); scratch has a tile before it: kvTileBytes. */
  readonly mlaAttentionSpansInt8: MlaAttention<OfSpans>;
  readonly gqaAttentionSpansInt8: GqaAttention<OfSpans>;
  readonly mlaStoreSpansInt8: MlaStore<OfSpans>;
  readonly gqaStoreSpansInt8: GqaStore<OfSpans>;
  /** Rotates pairs (2i, 2i + 1) in place. Head h of row r at x + r * rowStride + h * headStride; table by rope-table.ts. */
  ropeInterleaved(x: Address, rowStride: number, headStride: number, heads: number, rows: number, ropeDim: number, positions: Address, table: Address): void;
  /** Rotates pairs (i, i + ropeDim / 2) in place. */
  ropeHalves(x: Address, rowStride: number, headStride: number, heads: number, rows: number, ropeDim: number, positions: Address, table: Address): void;
};
