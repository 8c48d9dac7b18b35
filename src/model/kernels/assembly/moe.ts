// What surrounds the experts: gather rows for them, count their load, combine what they return.

/** dst row i = src row indices[i], rows of rowBytes. */
export function gatherRows(dst: usize, src: usize, indices: usize, count: i32, rowBytes: i32): void {
  for (let i = 0; i < count; i++) {
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
 * x[r] += sum over slots s, ascending, of weights[r, s] * row(r, s), then + shared[r] if there is one (sharedBase not 0).
 * row(r, s) lies at rowsBase + rowIndices[r * topK + s] * dim * 4. The gate writes slots in ascending expert id, so that is the order of the sum.
 */
export function combineRows(
  x: usize, xStride: i32, rowsBase: usize, rowIndices: usize, weights: usize, topK: i32,
  sharedBase: usize, sharedStride: i32, rows: i32, dim: i32,
): void {
  const rowBytes = <usize>dim << 2;
  const slotBytes = <usize>topK << 2;
  const whole = <usize>(dim & ~3) << 2;
  for (let r = 0; r < rows; r++) {
    for (let i: usize = 0; i < whole; i += 16) {
      let acc = f32x4.splat(0);
      for (let s: usize = 0; s < slotBytes; s += 4) {
        const row = rowsBase + <usize>load<u32>(rowIndices + s) * rowBytes;
        acc = f32x4.add(acc, f32x4.mul(v128.load32_splat(weights + s), v128.load(row + i)));
      }
      if (sharedBase) acc = f32x4.add(acc, v128.load(sharedBase + i));
      v128.store(x + i, f32x4.add(v128.load(x + i), acc));
    }
    for (let i = whole; i < rowBytes; i += 4) {
      let acc: f32 = 0;
      for (let s: usize = 0; s < slotBytes; s += 4) acc += load<f32>(weights + s) * load<f32>(rowsBase + <usize>load<u32>(rowIndices + s) * rowBytes + i);
      if (sharedBase) acc += load<f32>(sharedBase + i);
      store<f32>(x + i, load<f32>(x + i) + acc);
    }
    rowIndices += slotBytes;
    weights += slotBytes;
    x += <usize>xStride << 2;
    if (sharedBase) sharedBase += <usize>sharedStride << 2;
  }
}
