// RMSNorm: y = x / sqrt(mean(x²) + eps) * weight.
import { joinLanes, loadTail } from './lanes';
import { pollStopAt } from './stop';

/** One row: y[i] = (x[i] * s) * weight[i], s = 1 / sqrt(sum / dim + eps), the sum in the stride-4 order. y may be x. */
// @ts-ignore: decorator
@inline
function normRow(y: usize, x: usize, dim: i32, weight: usize, eps: f32): void {
  const whole = <usize>(dim & ~3) << 2;
  let squares = f32x4.splat(0);
  for (let i: usize = 0; i < whole; i += 16) {
    const v = v128.load(x + i);
    squares = f32x4.add(squares, f32x4.mul(v, v));
  }
  if (dim & 3) {
    const v = loadTail(x + whole, dim & 3, 0);
    squares = f32x4.add(squares, f32x4.mul(v, v));
  }
  const s: f32 = 1 / sqrt<f32>(joinLanes(squares) / <f32>dim + eps);

  for (let i: usize = 0; i < whole; i += 16) v128.store(y + i, f32x4.mul(f32x4.mul(v128.load(x + i), f32x4.splat(s)), v128.load(weight + i)));
  for (let i = whole; i < <usize>dim << 2; i += 4) store<f32>(y + i, load<f32>(x + i) * s * load<f32>(weight + i));
}

/** Rows of `dim` floats, strides in floats, weight F32 [dim]. y may be x. */
export function rmsNorm(y: usize, yStride: i32, x: usize, xStride: i32, rows: i32, dim: i32, weight: usize, eps: f32): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    normRow(y, x, dim, weight, eps);
    y += <usize>yStride << 2;
    x += <usize>xStride << 2;
  }
}

/** In place on every head of every row (Qwen3's q and k norm): head h of row r at x + r * rowStride + h * headStride (floats). */
export function rmsNormHeads(x: usize, rowStride: i32, headStride: i32, heads: i32, rows: i32, dim: i32, weight: usize, eps: f32): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    let head = x + (<usize>r * <usize>rowStride << 2);
    for (let h = 0; h < heads; h++) {
      normRow(head, head, dim, weight, eps);
      head += <usize>headStride << 2;
    }
  }
}
