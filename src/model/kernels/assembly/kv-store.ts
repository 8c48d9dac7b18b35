// Writing keys and values into paged KV blocks. blockTable: u32 byte offsets of one sequence's blocks; blockSize is a multiple of 16 positions.
// A block holds all layers: the layer's part begins at blockTable[b] + layerOffset, and is
//
//   MLA   [position in block][latent (normed) | roped key]           blockSize * (latent + rope) floats
//   GQA   [kv head][position in block][key | value]                  kvHeads * blockSize * 2 * headDim floats
//
// In both a position of a head is one row, the key first: attention.ts reads them with one loop.
import { pollStopAt } from './stop';

/** The layer's part of the block that holds `position`. */
// @ts-ignore: decorator
@inline
export function layerOf(blockTable: usize, blockSize: i32, layerOffset: i32, position: i32): usize {
  return <usize>load<u32>(blockTable + (<usize>(position / blockSize) << 2)) + <usize>layerOffset;
}

/** Row r (latent at stride latentStride, roped key at ropeStride, in floats) goes to positions[r]. */
export function mlaStore(
  latent: usize, latentStride: i32, ropeKey: usize, ropeStride: i32, rows: i32, latentDim: i32, ropeDim: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize,
): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const position = load<i32>(positions + (<usize>r << 2));
    const to = layerOf(blockTable, blockSize, layerOffset, position) + <usize>((position % blockSize) * (latentDim + ropeDim)) * 4;
    memory.copy(to, latent, <usize>latentDim << 2);
    memory.copy(to + (<usize>latentDim << 2), ropeKey, <usize>ropeDim << 2);
    latent += <usize>latentStride << 2;
    ropeKey += <usize>ropeStride << 2;
  }
}

/** Row r of k and v ([kvHeads][headDim], row strides in floats) goes to positions[r]. */
export function gqaStore(
  k: usize, kStride: i32, v: usize, vStride: i32, rows: i32, kvHeads: i32, headDim: i32,
  blockTable: usize, blockSize: i32, layerOffset: i32, positions: usize,
): void {
  const headBytes = <usize>headDim << 2;
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const position = load<i32>(positions + (<usize>r << 2));
    let to = layerOf(blockTable, blockSize, layerOffset, position) + <usize>(position % blockSize) * 2 * headBytes;
    for (let h: usize = 0; h < <usize>kvHeads; h++) {
      memory.copy(to, k + h * headBytes, headBytes);
      memory.copy(to + headBytes, v + h * headBytes, headBytes);
      to += <usize>blockSize * 2 * headBytes;
    }
    k += <usize>kStride << 2;
    v += <usize>vStride << 2;
  }
}
