// Attention of a few rows of one sequence over its paged KV (kv-store.ts draws the blocks).
// For each KV head, tiles of positions are the outer loop and queries the inner one, so that a tile's KV stays in the first cache for all its heads
// and rows.
// What a query computes does not depend on its neighbours: the order of operations is attention-tile.ts's.
import { BATCH, QUERY_BYTES, TILE, tileForBatch, WORK_BYTES } from './attention-tile';
import { pollStop, pollStopAt } from './stop';

/** A query that has seen nothing: m = -inf, l = 0. */
// @ts-ignore: decorator
@inline
export function openQuery(query: usize, q: usize, acc: usize, sees: i32): void {
  store<f32>(query, -Infinity);
  store<f32>(query, 0, 4);
  store<u32>(query, <u32>q, 8);
  store<u32>(query, <u32>acc, 12);
  store<i32>(query, sees, 16);
}

/** acc / l of each query. */
// @ts-ignore: decorator
@inline
export function closeQueries(query: usize, count: i32, valueDim: i32): void {
  for (let i = 0; i < count; i++) {
    pollStopAt(i);
    const acc = <usize>load<u32>(query, 12);
    const l = v128.load32_splat(query, 4);
    for (let i: usize = 0; i < <usize>valueDim << 2; i += 16) v128.store(acc + i, f32x4.div(v128.load(acc + i), l));
    query += QUERY_BYTES;
  }
}

/** All queries of one KV head over the tile at position `start`: batches of neighbours that see equally much of it. Nobody sees positions before `first`. */
export function tileForQueries(
  work: usize, queries: usize, count: i32, start: i32, first: i32, kv: usize, rowBytes: usize, keyDim: i32, valueOffset: usize, valueDim: i32, scale: f32,
): void {
  const end = queries + <usize>count * QUERY_BYTES;
  while (queries < end) {
    pollStop();
    const visible = visibleTo(queries, start);
    let next = queries + QUERY_BYTES;
    let batch = 1;
    while (batch < BATCH && next < end && visibleTo(next, start) == visible) {
      next += QUERY_BYTES;
      batch++;
    }
    if (visible > 0)
      tileForBatch(work, queries, batch, kv, rowBytes, keyDim, valueOffset, valueDim, max(first - start, 0), visible, scale, start <= first);
    queries = next;
  }
}

/** How many of the tile's positions a query sees: 0..TILE. */
// @ts-ignore: decorator
@inline
function visibleTo(query: usize, start: i32): i32 {
  return max(min(load<i32>(query, 16) - start, TILE), 0);
}

/** Row r sees positions 0..positions[r]. */
// @ts-ignore: decorator
@inline
export function seenBy(r: i32, positions: usize): i32 {
  return load<i32>(positions + (<usize>r << 2)) + 1;
}

export function lastPosition(positions: usize, rows: i32): i32 {
  let last = -1;
  for (let r = 0; r < rows; r++) last = max(last, load<i32>(positions + (<usize>r << 2)));
  return last;
}

/**
 * Multi-head latent attention, absorbed form. q row: per head [q_latent | q_rope]; out row: per head latent floats. Row r sees positions first..positions[r],
 * and all of them positions from `first` on: an MTP layer has no row at position 0, and begins anew where it has not followed its sequence.
 * Strides in floats; latent and rope multiples of 4; blockSize a multiple of 16. scratch: 544 + 20 * rows * heads bytes.
 */
export function mlaAttention(
  out: usize, outStride: i32, q: usize, qStride: i32, rows: i32, heads: i32, latent: i32, rope: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize, first: i32, scale: f32, scratch: usize,
): void {
  const queries = scratch + WORK_BYTES;
  const keyDim = latent + rope;
  const count = rows * heads;
  for (let i = 0; i < count; i++) {
    const r = i / heads, h = i % heads;
    openQuery(queries + <usize>i * QUERY_BYTES, q + <usize>(r * qStride + h * keyDim) * 4, out + <usize>(r * outStride + h * latent) * 4, seenBy(r, positions));
  }
  const rowBytes = <usize>keyDim << 2;
  const last = lastPosition(positions, rows);
  for (let start = first / TILE * TILE; start <= last; start += TILE) {
    const kv = <usize>load<u32>(blockTable + (<usize>(start / blockSize) << 2)) + <usize>layerOffset + <usize>(start % blockSize) * rowBytes;
    tileForQueries(scratch, queries, count, start, first, kv, rowBytes, keyDim, 0, latent, scale);
  }
  closeQueries(queries, count, latent);
}

/**
 * Grouped-query attention: query head h reads KV head h / (heads / kvHeads). q and out rows: heads × headDim. Row r sees positions 0..positions[r].
 * Strides in floats; headDim a multiple of 4; blockSize a multiple of 16. scratch: 544 + 20 * rows * heads / kvHeads bytes.
 */
export function gqaAttention(
  out: usize, outStride: i32, q: usize, qStride: i32, rows: i32, heads: i32, kvHeads: i32, headDim: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize, scale: f32, scratch: usize,
): void {
  const queries = scratch + WORK_BYTES;
  const group = heads / kvHeads;
  const count = rows * group; // queries of a KV head
  const rowBytes = <usize>headDim << 3;
  const last = lastPosition(positions, rows);
  for (let g = 0; g < kvHeads; g++) {
    for (let i = 0; i < count; i++) {
      const r = i / group, h = g * group + (i % group);
      const from = q + <usize>(r * qStride + h * headDim) * 4, to = out + <usize>(r * outStride + h * headDim) * 4;
      openQuery(queries + <usize>i * QUERY_BYTES, from, to, seenBy(r, positions));
    }
    const head = <usize>(layerOffset + g * blockSize * <i32>rowBytes);
    for (let start = 0; start <= last; start += TILE) {
      const kv = <usize>load<u32>(blockTable + (<usize>(start / blockSize) << 2)) + head + <usize>(start % blockSize) * rowBytes;
      tileForQueries(scratch, queries, count, start, 0, kv, rowBytes, headDim, <usize>headDim << 2, headDim, scale);
    }
    closeQueries(queries, count, headDim);
  }
}
