// y = x Wᵀ over packed panels of 16 outputs (pack.ts draws the layout).
// The order: one f32 accumulator per output element, k ascending, multiply and add apart. SIMD lanes lie across outputs, so the tile
// shape changes nothing in the bits, and any number of rows gives the same.
// The shapes keep 8 accumulators in registers: enough to hide the latency of an add, few enough for machines with 16 vector registers.
import { opaque, storeTail } from './lanes';
import { pollStop, pollStopAt } from './stop';

/** Weights 0..3 of a half panel of 8 outputs at `w`. A BF16 half panel is interleaved o0 o4 o1 o5 …: the low 16 bits of a word are o0..o3. */
// @ts-ignore: decorator
@inline
function first4<T>(w: usize): v128 {
  if (isFloat<T>()) return v128.load(w);
  return i32x4.shl(v128.load(w), 16);
}

/** Weights 4..7 of a half panel. */
// @ts-ignore: decorator
@inline
function last4<T>(w: usize, mask: v128): v128 {
  if (isFloat<T>()) return v128.load(w, 16);
  return v128.and(v128.load(w), mask);
}

// @ts-ignore: decorator
@inline
function store8(y: usize, a: v128, b: v128, count: i32): void {
  if (count >= 8) {
    v128.store(y, a);
    v128.store(y, b, 16);
  } else {
    storeTail(y, a, count);
    storeTail(y + 16, b, count - 4);
  }
}

/** 4 rows × 8 outputs. Strides in bytes; `w` is a half panel, `count` the outputs that exist (others are not written). */
function tile4x8<T>(y: usize, yStride: usize, x: usize, xStride: usize, w: usize, inDim: i32, count: i32): void {
  const mask = i32x4.splat(opaque(0xffff0000, inDim));
  let a0 = f32x4.splat(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  let xb = x + xStride, xc = xb + xStride, xd = xc + xStride;
  for (const end = x + (<usize>inDim << 2); x < end; ) {
    const w0 = first4<T>(w), w1 = last4<T>(w, mask);
    let v = v128.load32_splat(x);
    a0 = f32x4.add(a0, f32x4.mul(v, w0));
    a1 = f32x4.add(a1, f32x4.mul(v, w1));
    v = v128.load32_splat(xb);
    b0 = f32x4.add(b0, f32x4.mul(v, w0));
    b1 = f32x4.add(b1, f32x4.mul(v, w1));
    v = v128.load32_splat(xc);
    c0 = f32x4.add(c0, f32x4.mul(v, w0));
    c1 = f32x4.add(c1, f32x4.mul(v, w1));
    v = v128.load32_splat(xd);
    d0 = f32x4.add(d0, f32x4.mul(v, w0));
    d1 = f32x4.add(d1, f32x4.mul(v, w1));
    w += 16 * sizeof<T>();
    x += 4;
    xb += 4;
    xc += 4;
    xd += 4;
  }
  store8(y, a0, a1, count);
  store8(y + yStride, b0, b1, count);
  store8(y + 2 * yStride, c0, c1, count);
  store8(y + 3 * yStride, d0, d1, count);
}

/** 2 rows × 16 outputs; `w` is a whole panel. */
function tile2x16<T>(y: usize, yStride: usize, x: usize, xStride: usize, w: usize, inDim: i32, count: i32): void {
  const mask = i32x4.splat(opaque(0xffff0000, inDim));
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  let xb = x + xStride;
  for (const end = x + (<usize>inDim << 2); x < end; ) {
    const v = v128.load32_splat(x), u = v128.load32_splat(xb);
    let m = first4<T>(w);
    a0 = f32x4.add(a0, f32x4.mul(v, m));
    b0 = f32x4.add(b0, f32x4.mul(u, m));
    m = last4<T>(w, mask);
    a1 = f32x4.add(a1, f32x4.mul(v, m));
    b1 = f32x4.add(b1, f32x4.mul(u, m));
    m = first4<T>(w + 8 * sizeof<T>());
    a2 = f32x4.add(a2, f32x4.mul(v, m));
    b2 = f32x4.add(b2, f32x4.mul(u, m));
    m = last4<T>(w + 8 * sizeof<T>(), mask);
    a3 = f32x4.add(a3, f32x4.mul(v, m));
    b3 = f32x4.add(b3, f32x4.mul(u, m));
    w += 16 * sizeof<T>();
    x += 4;
    xb += 4;
  }
  store8(y, a0, a1, count);
  store8(y + 32, a2, a3, count - 8);
  store8(y + yStride, b0, b1, count);
  store8(y + yStride + 32, b2, b3, count - 8);
}

/** 1 row × 32 outputs: the panels at `w` and `w + panelBytes`. */
function tile1x32<T>(y: usize, x: usize, w: usize, panelBytes: usize, inDim: i32, count: i32): void {
  const mask = i32x4.splat(opaque(0xffff0000, inDim));
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  let u = w + panelBytes;
  for (const end = x + (<usize>inDim << 2); x < end; ) {
    const v = v128.load32_splat(x);
    a0 = f32x4.add(a0, f32x4.mul(v, first4<T>(w)));
    a1 = f32x4.add(a1, f32x4.mul(v, last4<T>(w, mask)));
    a2 = f32x4.add(a2, f32x4.mul(v, first4<T>(w + 8 * sizeof<T>())));
    a3 = f32x4.add(a3, f32x4.mul(v, last4<T>(w + 8 * sizeof<T>(), mask)));
    b0 = f32x4.add(b0, f32x4.mul(v, first4<T>(u)));
    b1 = f32x4.add(b1, f32x4.mul(v, last4<T>(u, mask)));
    b2 = f32x4.add(b2, f32x4.mul(v, first4<T>(u + 8 * sizeof<T>())));
    b3 = f32x4.add(b3, f32x4.mul(v, last4<T>(u + 8 * sizeof<T>(), mask)));
    w += 16 * sizeof<T>();
    u += 16 * sizeof<T>();
    x += 4;
  }
  store8(y, a0, a1, 8);
  store8(y + 32, a2, a3, 8);
  store8(y + 64, b0, b1, count - 16);
  store8(y + 96, b2, b3, count - 24);
}

/** 1 row × 16 outputs, for an odd last panel. */
function tile1x16<T>(y: usize, x: usize, w: usize, inDim: i32, count: i32): void {
  const mask = i32x4.splat(opaque(0xffff0000, inDim));
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
  for (const end = x + (<usize>inDim << 2); x < end; x += 4) {
    const v = v128.load32_splat(x);
    a0 = f32x4.add(a0, f32x4.mul(v, first4<T>(w)));
    a1 = f32x4.add(a1, f32x4.mul(v, last4<T>(w, mask)));
    a2 = f32x4.add(a2, f32x4.mul(v, first4<T>(w + 8 * sizeof<T>())));
    a3 = f32x4.add(a3, f32x4.mul(v, last4<T>(w + 8 * sizeof<T>(), mask)));
    w += 16 * sizeof<T>();
  }
  store8(y, a0, a1, count);
  store8(y + 32, a2, a3, count - 8);
}

/**
 * All rows but an odd last one against one panel of `count` (1..16) outputs. Four rows share the unpacking of BF16; F32 has none to share, and two
 * rows over whole panels use each cache line at once (four rows at 2048 → 2048: 0.51 of peak by 4 × 8, 0.86 by 2 × 16).
 */
function panelRows<T>(y: usize, yStride: usize, x: usize, xStride: usize, rows: i32, w: usize, inDim: i32, count: i32): void {
  const fours = isFloat<T>() ? 0 : rows & ~3;
  for (let half = 0; half < count; half += 8) {
    for (let r = 0; r < fours; r += 4) {
      pollStopAt(r);
      tile4x8<T>(y + <usize>r * yStride + (<usize>half << 2), yStride, x + <usize>r * xStride, xStride, w + <usize>half * sizeof<T>(), inDim, count - half);
    }
  }
  for (let r = fours; r + 2 <= rows; r += 2) {
    pollStopAt(r);
    tile2x16<T>(y + <usize>r * yStride, yStride, x + <usize>r * xStride, xStride, w, inDim, count);
  }
}

/** Panels are taken two at a time: an odd last row then has 8 accumulators, and the pair of panels stays in the cache for all rows. */
// @ts-ignore: decorator
@inline
export function matmul<T>(y: usize, yStride: usize, x: usize, xStride: usize, rows: i32, w: usize, inDim: i32, outDim: i32): void {
  const panelBytes = <usize>inDim * 16 * sizeof<T>();
  for (let o = 0; o < outDim; o += 32) {
    const yo = y + (<usize>o << 2);
    const rest = outDim - o;
    const even = rows & ~1;
    if (even) {
      panelRows<T>(yo, yStride, x, xStride, rows, w, inDim, min(rest, 16));
      if (rest > 16) panelRows<T>(yo + 64, yStride, x, xStride, rows, w + panelBytes, inDim, min(rest - 16, 16));
    }
    if (rows & 1) {
      pollStop();
      const yr = yo + <usize>even * yStride;
      const xr = x + <usize>even * xStride;
      if (rest > 16) tile1x32<T>(yr, xr, w, panelBytes, inDim, min(rest, 32));
      else tile1x16<T>(yr, xr, w, inDim, rest);
    }
    w += 2 * panelBytes;
  }
}

/** y[r * yStride + o] = sum over k of x[r * xStride + k] * W[o, k], BF16 panels. Strides in floats; nothing is written beyond outDim. */
export function matmulBf16(y: usize, yStride: i32, x: usize, xStride: i32, rows: i32, w: usize, inDim: i32, outDim: i32): void {
  matmul<u16>(y, <usize>yStride << 2, x, <usize>xStride << 2, rows, w, inDim, outDim);
}

/** The same with F32 panels. */
export function matmulF32(y: usize, yStride: i32, x: usize, xStride: i32, rows: i32, w: usize, inDim: i32, outDim: i32): void {
  matmul<f32>(y, <usize>yStride << 2, x, <usize>xStride << 2, rows, w, inDim, outDim);
}
