// KV cells in INT8 (xDeepServe §4.7): one scale a position for MLA's latent, whose rope key stays BF16; one a position and head for GQA's key and its value.
//
//   MLA   [position in block][latent i8 | rope key bf16 | scale f32]                        latent + 2 rope + 4 bytes
//   GQA   [kv head][position in block][key i8 | value i8 | scale of key, of value f32]      2 headDim + 8 bytes
//
// Attention reads every position in this form, the current chunk's included: a tile is widened once for all its queries, and from there on it is
// attention.ts's order of operations. So neither chunk nor block nor transfer shows in a bit.
import { closeQueries, lastPosition, openQuery, seenBy, tileForQueries } from './attention';
import { TILE, WORK_BYTES, QUERY_BYTES } from './attention-tile';
import { layerOf } from './kv-store';
import { pollStop } from './stop';
import { dequantizeInt8, packRowsBf16, quantizeInt8, unpackRowsBf16 } from './wire';

/** Row r (latent at stride latentStride, roped key at ropeStride, in floats) goes to positions[r]. */
export function mlaStoreInt8(
  latent: usize, latentStride: i32, ropeKey: usize, ropeStride: i32, rows: i32, latentDim: i32, ropeDim: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize,
): void {
  const rowBytes = latentDim + 2 * ropeDim + 4;
  for (let r = 0; r < rows; r++) {
    const position = load<i32>(positions + (<usize>r << 2));
    const to = layerOf(blockTable, blockSize, layerOffset, position) + <usize>((position % blockSize) * rowBytes);
    quantizeInt8(to, to + <usize>(latentDim + 2 * ropeDim), latent, 0, 1, latentDim);
    packRowsBf16(to + <usize>latentDim, ropeKey, 0, 1, ropeDim);
    latent += <usize>latentStride << 2;
    ropeKey += <usize>ropeStride << 2;
  }
}

/** Row r of k and v ([kvHeads][headDim], row strides in floats) goes to positions[r]. */
export function gqaStoreInt8(
  k: usize, kStride: i32, v: usize, vStride: i32, rows: i32, kvHeads: i32, headDim: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize,
): void {
  const rowBytes = 2 * headDim + 8;
  for (let r = 0; r < rows; r++) {
    const position = load<i32>(positions + (<usize>r << 2));
    let to = layerOf(blockTable, blockSize, layerOffset, position) + <usize>((position % blockSize) * rowBytes);
    for (let h = 0; h < kvHeads; h++) {
      const skip = <usize>(h * headDim) << 2;
      quantizeInt8(to, to + <usize>(2 * headDim), k + skip, 0, 1, headDim);
      quantizeInt8(to + <usize>headDim, to + <usize>(2 * headDim + 4), v + skip, 0, 1, headDim);
      to += <usize>(blockSize * rowBytes);
    }
    k += <usize>kStride << 2;
    v += <usize>vStride << 2;
  }
}

/** As mlaAttention. scratch: [a tile, 16 rows of latent + rope floats][what mlaAttention needs]. */
export function mlaAttentionInt8(
  out: usize, outStride: i32, q: usize, qStride: i32, rows: i32, heads: i32, latent: i32, rope: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize, first: i32, scale: f32, scratch: usize,
): void {
  const keyDim = latent + rope;
  const tile = scratch, work = scratch + <usize>(TILE * keyDim * 4);
  const queries = work + WORK_BYTES;
  const count = rows * heads;
  for (let i = 0; i < count; i++) {
    const r = i / heads, h = i % heads;
    openQuery(queries + <usize>i * QUERY_BYTES, q + <usize>(r * qStride + h * keyDim) * 4, out + <usize>(r * outStride + h * latent) * 4, seenBy(r, positions));
  }
  const rowBytes = latent + 2 * rope + 4;
  const last = lastPosition(positions, rows);
  for (let start = first / TILE * TILE; start <= last; start += TILE) {
    pollStop();
    let from = layerOf(blockTable, blockSize, layerOffset, start) + <usize>((start % blockSize) * rowBytes);
    let to = tile;
    for (const end = tile + <usize>(min(TILE, last + 1 - start) * keyDim * 4); to < end; to += <usize>(keyDim * 4)) {
      dequantizeInt8(to, 0, from, from + <usize>(latent + 2 * rope), 1, latent);
      unpackRowsBf16(to + <usize>(latent * 4), 0, from + <usize>latent, 1, rope);
      from += <usize>rowBytes;
    }
    tileForQueries(work, queries, count, start, first, tile, <usize>keyDim << 2, keyDim, 0, latent, scale);
  }
  closeQueries(queries, count, latent);
}

/** As gqaAttention. scratch: [a tile, 16 rows of a key and a value in floats][what gqaAttention needs]. */
export function gqaAttentionInt8(
  out: usize, outStride: i32, q: usize, qStride: i32, rows: i32, heads: i32, kvHeads: i32, headDim: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize, scale: f32, scratch: usize,
): void {
  const tileRow = <usize>headDim << 3;
  const tile = scratch, work = scratch + <usize>TILE * tileRow;
  const queries = work + WORK_BYTES;
  const group = heads / kvHeads;
  const count = rows * group; // queries of a KV head
  const rowBytes = 2 * headDim + 8;
  const last = lastPosition(positions, rows);
  for (let g = 0; g < kvHeads; g++) {
    for (let i = 0; i < count; i++) {
      const r = i / group, h = g * group + (i % group);
      const from = q + <usize>(r * qStride + h * headDim) * 4, to = out + <usize>(r * outStride + h * headDim) * 4;
      openQuery(queries + <usize>i * QUERY_BYTES, from, to, seenBy(r, positions));
    }
    const head = layerOffset + g * blockSize * rowBytes;
    for (let start = 0; start <= last; start += TILE) {
      pollStop();
      let from = layerOf(blockTable, blockSize, head, start) + <usize>((start % blockSize) * rowBytes);
      let to = tile;
      for (const end = tile + <usize>min(TILE, last + 1 - start) * tileRow; to < end; to += tileRow) {
        dequantizeInt8(to, 0, from, from + <usize>(2 * headDim), 1, headDim);
        dequantizeInt8(to + (tileRow >> 1), 0, from + <usize>headDim, from + <usize>(2 * headDim + 4), 1, headDim);
        from += <usize>rowBytes;
      }
      tileForQueries(work, queries, count, start, 0, tile, tileRow, headDim, tileRow >> 1, headDim, scale);
    }
    closeQueries(queries, count, headDim);
  }
}
