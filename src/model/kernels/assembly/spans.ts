// What kv-store.ts and attention.ts do for the rows of one sequence, for all sequences of a step in one call, each by itself: the same bits.
//
//   spans   u32 [count][4]   first row, rows, address of the sequence's block table, the first position that MLA's rows see
import { gqaAttention, mlaAttention } from './attention';
import { gqaAttentionInt8, gqaStoreInt8, mlaAttentionInt8, mlaStoreInt8 } from './kv-int8';
import { gqaStore, mlaStore } from './kv-store';

const SPAN_BYTES: usize = 16;

// @ts-ignore: decorator
@inline
function rowsOf(span: usize): i32 {
  return load<i32>(span, 4);
}

// @ts-ignore: decorator
@inline
function tableOf(span: usize): usize {
  return <usize>load<u32>(span, 8);
}

// @ts-ignore: decorator
@inline
function seenFrom(span: usize): i32 {
  return load<i32>(span, 12);
}

/** Where the span's first row lies in rows of `stride` floats from `base` on. */
// @ts-ignore: decorator
@inline
function firstRow(span: usize, base: usize, stride: i32): usize {
  return base + (<usize>load<u32>(span) * <usize>stride << 2);
}

export function mlaStoreSpans(
  latent: usize, latentStride: i32, ropeKey: usize, ropeStride: i32, spans: usize, count: i32, latentDim: i32, ropeDim: i32,
  blockSize: i32, layerOffset: i32, positions: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    mlaStore(
      firstRow(spans, latent, latentStride), latentStride, firstRow(spans, ropeKey, ropeStride), ropeStride, rowsOf(spans), latentDim, ropeDim,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1));
  }
}

export function gqaStoreSpans(
  k: usize, kStride: i32, v: usize, vStride: i32, spans: usize, count: i32, kvHeads: i32, headDim: i32,
  blockSize: i32, layerOffset: i32, positions: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    gqaStore(
      firstRow(spans, k, kStride), kStride, firstRow(spans, v, vStride), vStride, rowsOf(spans), kvHeads, headDim,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1));
  }
}

/** scratch: as mlaAttention's for the longest span. */
export function mlaAttentionSpans(
  out: usize, outStride: i32, q: usize, qStride: i32, spans: usize, count: i32, heads: i32, latent: i32, rope: i32,
  blockSize: i32, layerOffset: i32, positions: usize, scale: f32, scratch: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    mlaAttention(
      firstRow(spans, out, outStride), outStride, firstRow(spans, q, qStride), qStride, rowsOf(spans), heads, latent, rope,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1), seenFrom(spans), scale, scratch);
  }
}

/** scratch: as gqaAttention's for the longest span. */
export function gqaAttentionSpans(
  out: usize, outStride: i32, q: usize, qStride: i32, spans: usize, count: i32, heads: i32, kvHeads: i32, headDim: i32,
  blockSize: i32, layerOffset: i32, positions: usize, scale: f32, scratch: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    gqaAttention(
      firstRow(spans, out, outStride), outStride, firstRow(spans, q, qStride), qStride, rowsOf(spans), heads, kvHeads, headDim,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1), scale, scratch);
  }
}

// ---------------------------------------------------------------- KV in INT8

export function mlaStoreSpansInt8(
  latent: usize, latentStride: i32, ropeKey: usize, ropeStride: i32, spans: usize, count: i32, latentDim: i32, ropeDim: i32,
  blockSize: i32, layerOffset: i32, positions: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    mlaStoreInt8(
      firstRow(spans, latent, latentStride), latentStride, firstRow(spans, ropeKey, ropeStride), ropeStride, rowsOf(spans), latentDim, ropeDim,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1));
  }
}

export function gqaStoreSpansInt8(
  k: usize, kStride: i32, v: usize, vStride: i32, spans: usize, count: i32, kvHeads: i32, headDim: i32,
  blockSize: i32, layerOffset: i32, positions: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    gqaStoreInt8(
      firstRow(spans, k, kStride), kStride, firstRow(spans, v, vStride), vStride, rowsOf(spans), kvHeads, headDim,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1));
  }
}

/** scratch: as mlaAttentionInt8's for the longest span. */
export function mlaAttentionSpansInt8(
  out: usize, outStride: i32, q: usize, qStride: i32, spans: usize, count: i32, heads: i32, latent: i32, rope: i32,
  blockSize: i32, layerOffset: i32, positions: usize, scale: f32, scratch: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    mlaAttentionInt8(
      firstRow(spans, out, outStride), outStride, firstRow(spans, q, qStride), qStride, rowsOf(spans), heads, latent, rope,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1), seenFrom(spans), scale, scratch);
  }
}

/** scratch: as gqaAttentionInt8's for the longest span. */
export function gqaAttentionSpansInt8(
  out: usize, outStride: i32, q: usize, qStride: i32, spans: usize, count: i32, heads: i32, kvHeads: i32, headDim: i32,
  blockSize: i32, layerOffset: i32, positions: usize, scale: f32, scratch: usize,
): void {
  for (const end = spans + <usize>count * SPAN_BYTES; spans < end; spans += SPAN_BYTES) {
    gqaAttentionInt8(
      firstRow(spans, out, outStride), outStride, firstRow(spans, q, qStride), qStride, rowsOf(spans), heads, kvHeads, headDim,
      tableOf(spans), blockSize, layerOffset, firstRow(spans, positions, 1), scale, scratch);
  }
}
