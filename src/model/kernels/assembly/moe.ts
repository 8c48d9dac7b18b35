// What surrounds the experts: gather rows for them, count their load, combine what they return.
import { pollStopAt } from './stop';

/** dst row i = src row indices[i], rows of rowBytes. */
export function gatherRows(dst: usize, src: usize, indices: usize, count: i32, rowBytes: i32): void {
  for (let i = 0; i < count; i++) {
    pollStopAt(i);
    memory.copy(dst, src + <usize>load<u32>(indices + (<usize>i << 2)) * <usize>rowBytes, <usize>rowBytes);
    dst += <usize>rowBytes;
  }
}

/** counts[experts[i]] += 1 for n assignments. */
export function countExperts(counts: usize, experts: usize, n: i32): void {
  for (let i = 0; i < n; i++) {
    const count = counts + (<usize>load<u32>(experts + (<usize>i << 2)) << 2);
    store<u32>(count, load<u32>(count) + 1);
  }
}

/**
 * x[r] += sum over slots s, ascending, of weights[r, s] * row(r, s), then + shared[r] if there is one (shared not 0).
 * row(r, s) lies at base + slots[r * topK + s] * unit. The gate writes slots in ascending expert id, so that is the order of the sum.
 */
// @ts-ignore: decorator
@inline
function combine(
  x: usize, xStride: i32, base: usize, slots: usize, unit: usize, weights: usize, topK: i32, shared: usize, sharedStride: i32, rows: i32, dim: i32,
): void {
  const rowBytes = <usize>dim << 2;
  const slotBytes = <usize>topK << 2;
  const whole = <usize>(dim & ~3) << 2;
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    for (let i: usize = 0; i < whole; i += 16) {
      let acc = f32x4.splat(0);
      for (let s: usize = 0; s < slotBytes; s += 4) {
        const row = base + <usize>load<u32>(slots + s) * unit;
        acc = f32x4.add(acc, f32x4.mul(v128.load32_splat(weights + s), v128.load(row + i)));
      }
      if (shared) acc = f32x4.add(acc, v128.load(shared + i));
      v128.store(x + i, f32x4.add(v128.load(x + i), acc));
    }
    for (let i = whole; i < rowBytes; i += 4) {
      let acc: f32 = 0;
      for (let s: usize = 0; s < slotBytes; s += 4) acc += load<f32>(weights + s) * load<f32>(base + <usize>load<u32>(slots + s) * unit + i);
      if (shared) acc += load<f32>(shared + i);
      store<f32>(x + i, load<f32>(x + i) + acc);
    }
    slots += slotBytes;
    weights += slotBytes;
    x += <usize>xStride << 2;
    if (shared) shared += <usize>sharedStride << 2;
  }
}

/** Rows in one array, all dim floats long: row(r, s) is number rowIndices[r * topK + s] of it. */
export function combineRows(
  x: usize, xStride: i32, rowsBase: usize, rowIndices: usize, weights: usize, topK: i32,
  sharedBase: usize, sharedStride: i32, rows: i32, dim: i32,
): void {
  combine(x, xStride, rowsBase, rowIndices, <usize>dim << 2, weights, topK, sharedBase, sharedStride, rows, dim);
}

/** The same bits from rows that lie anywhere, as where peers left them: row(r, s) is at rowAddresses[r * topK + s]. */
export function combineRowsAt(
  x: usize, xStride: i32, rowAddresses: usize, weights: usize, topK: i32, shared: usize, sharedStride: i32, rows: i32, dim: i32,
): void {
  combine(x, xStride, 0, rowAddresses, 1, weights, topK, shared, sharedStride, rows, dim);
}
