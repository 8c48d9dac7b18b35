// The small per-head products of absorbed MLA: q_nope[h] × W_UK[h] and o_latent[h] × W_UV[h], one call for all heads.
import { matmulBf16, matmulF32 } from './matmul';

/** Per head h: y[r, h] = x[r, h] W[h]ᵀ. y[r, h] lies at y + r * yRowStride + h * yHeadStride (floats), x likewise, W[h] at w + h * wHeadBytes. */
export function matmulHeadsBf16(
  y: usize, yRowStride: i32, yHeadStride: i32, x: usize, xRowStride: i32, xHeadStride: i32,
  rows: i32, heads: i32, w: usize, wHeadBytes: i32, inDim: i32, outDim: i32,
): void {
  for (let h = 0; h < heads; h++) {
    matmulBf16(y, yRowStride, x, xRowStride, rows, w, inDim, outDim);
    y += <usize>yHeadStride << 2;
    x += <usize>xHeadStride << 2;
    w += <usize>wHeadBytes;
  }
}

/** The same with F32 panels. */
export function matmulHeadsF32(
  y: usize, yRowStride: i32, yHeadStride: i32, x: usize, xRowStride: i32, xHeadStride: i32,
  rows: i32, heads: i32, w: usize, wHeadBytes: i32, inDim: i32, outDim: i32,
): void {
  for (let h = 0; h < heads; h++) {
    matmulF32(y, yRowStride, x, xRowStride, rows, w, inDim, outDim);
    y += <usize>yHeadStride << 2;
    x += <usize>xHeadStride << 2;
    w += <usize>wHeadBytes;
  }
}
