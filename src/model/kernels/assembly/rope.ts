// Rotary position embedding, in place. (a, b) -> (a cos - b sin, b cos + a sin) for each pair of a head.
// table: f32 [position][ropeDim / 2][cos, sin], written by rope-table.ts. Strides in floats; ropeDim is even.
import { pollStopAt } from './stop';

// @ts-ignore: decorator
@inline
function rotate(a: usize, b: usize, c: f32, s: f32): void {
  const p = load<f32>(a), q = load<f32>(b);
  store<f32>(a, p * c - q * s);
  store<f32>(b, q * c + p * s);
}

/** Pairs (2i, 2i + 1): DeepSeek, Kimi. */
export function ropeInterleaved(x: usize, rowStride: i32, headStride: i32, heads: i32, rows: i32, ropeDim: i32, positions: usize, table: usize): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const angles = table + (<usize>load<u32>(positions + (<usize>r << 2)) * <usize>ropeDim << 2);
    for (let h = 0; h < heads; h++) {
      const head = x + (<usize>r * <usize>rowStride + <usize>h * <usize>headStride << 2);
      for (let i: usize = 0; i < <usize>ropeDim << 2; i += 8) rotate(head + i, head + i + 4, load<f32>(angles + i), load<f32>(angles + i, 4));
    }
  }
}

/** Pairs (i, i + ropeDim / 2): Qwen. */
export function ropeHalves(x: usize, rowStride: i32, headStride: i32, heads: i32, rows: i32, ropeDim: i32, positions: usize, table: usize): void {
  const half = <usize>ropeDim << 1; // bytes
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const angles = table + (<usize>load<u32>(positions + (<usize>r << 2)) * <usize>ropeDim << 2);
    for (let h = 0; h < heads; h++) {
      const head = x + (<usize>r * <usize>rowStride + <usize>h * <usize>headStride << 2);
      for (let i: usize = 0; i < half; i += 4) rotate(head + i, head + half + i, load<f32>(angles + i * 2), load<f32>(angles + i * 2, 4));
    }
  }
}
