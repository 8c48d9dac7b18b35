// y = x Wᵀ in INT8 (xDeepServe §4.7): weights with one scale an output channel, activations with one a token, sums exact.
//
//   q[r, k] = round(x[r, k] / sx[r])   half to even, sx[r] = max |x[r]| / 127 in 16 bits, of the whole row whoever computes which outputs (wire.ts)
//   y[r, o] = (f32(Σₖ q[r, k] W[o, k]) · sx[r]) · sw[o]
//
// The sum is an integer in 32 bits: no order of its terms, no tile shape and no number of rows changes it. It cannot overflow while
// inDim · 127 · 128 < 2³¹, which is asserted where weights are laid out.
//
// Panels of 16 outputs, as pack.ts has them, of pairs of k, since the one instruction there is multiplies 16-bit pairs and adds them up:
//
//   pair p:  o0 k, o0 k+1, o1 k, o1 k+1, … o7 k+1 | o8 k, … o15 k+1        k = 2p; 32 bytes
//
// Scales of the outputs, f32, follow the last panel. A row of activations is i16, so that a pair of it is one word.
import { opaque, storeTail } from './lanes';
import { pollStop, pollStopAt } from './stop';
import { INFINITE, largestMagnitude, QUIET_NAN, ROUNDER, ROUNDER_BITS, scaleOf } from './wire';

// ---------------------------------------------------------------- activations

/** round(x / scale) of four floats. */
// @ts-ignore: decorator
@inline
function quotients(x: usize, scale: v128, rounder: v128, rounderBits: v128): v128 {
  return i32x4.sub(f32x4.add(f32x4.div(v128.load(x), scale), rounder), rounderBits);
}

function quantizeRow(q: usize, x: usize, dim: i32, scale: f32): void {
  const scale4 = f32x4.splat(scale), rounder = i32x4.splat(opaque(ROUNDER_BITS, dim)), rounderBits = rounder;
  const end = q + (<usize>dim << 1);
  for (const whole = q + (<usize>(dim & ~7) << 1); q < whole; q += 16) {
    v128.store(q, i16x8.narrow_i32x4_s(quotients(x, scale4, rounder, rounderBits), quotients(x + 16, scale4, rounder, rounderBits)));
    x += 32;
  }
  for (; q < end; q += 2) {
    store<i16>(q, <i16>(reinterpret<i32>(load<f32>(x) / scale + ROUNDER) - ROUNDER_BITS));
    x += 4;
  }
}

/**
 * Per row one f32 scale and dim i16 in −127..127, as quantizeInt8's. x: rows at xStride floats; q i16 [rows, dim]; scales f32 [rows].
 * A row with NaN or infinity has scale NaN, and makes NaN of all that it is multiplied with.
 */
export function quantizeRows(q: usize, scales: usize, x: usize, xStride: i32, rows: i32, dim: i32): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const largest = largestMagnitude(x, dim);
    if (largest == 0) {
      store<f32>(scales, 0);
      memory.fill(q, 0, <usize>dim << 1);
    } else if (largest >= INFINITE) {
      store<u32>(scales, QUIET_NAN);
      memory.fill(q, 0, <usize>dim << 1);
    } else {
      const scale = scaleOf(largest);
      store<f32>(scales, scale);
      quantizeRow(q, x, dim, scale);
    }
    q += <usize>dim << 1;
    scales += 4;
    x += <usize>xStride << 2;
  }
}

// ---------------------------------------------------------------- weights

/** Packs raw INT8 [out, in] rows at src (row stride in bytes) into panels; inDim is even. */
export function packInt8(dst: usize, src: usize, outDim: i32, inDim: i32, srcRowStride: i32): void {
  for (let panel = 0; panel < outDim; panel += 16) {
    for (let j = 0; j < 16; j++) {
      pollStop();
      const missing = panel + j >= outDim;
      const from = src + <usize>(panel + j) * <usize>srcRowStride;
      let to = dst + (<usize>j << 1);
      for (let k: usize = 0; k < <usize>inDim; k += 2) {
        store<u8>(to, missing ? 0 : load<u8>(from + k));
        store<u8>(to, missing ? 0 : load<u8>(from + k, 1), 1);
        to += 32;
      }
    }
    dst += <usize>inDim << 4;
  }
}

// ---------------------------------------------------------------- products

/** (f32(a) · sx) · sw of 8 outputs; `count` of them exist. */
// @ts-ignore: decorator
@inline
function store8(y: usize, a: v128, b: v128, scale: usize, weightScales: usize, count: i32): void {
  const s = v128.load32_splat(scale);
  const low = f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(a), s), v128.load(weightScales));
  const high = f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(b), s), v128.load(weightScales, 16));
  if (count >= 8) {
    v128.store(y, low);
    v128.store(y, high, 16);
  } else {
    storeTail(y, low, count);
    storeTail(y + 16, high, count - 4);
  }
}

/** 4 rows × 8 outputs; `w` is the half of a panel's pairs that has them. `qStride`: bytes of a row. */
function tile4x8(y: usize, yStride: usize, q: usize, qStride: usize, scales: usize, w: usize, weightScales: usize, count: i32): void {
  let a0 = i32x4.splat(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  let qb = q + qStride, qc = qb + qStride, qd = qc + qStride;
  for (const end = q + qStride; q < end; ) {
    const bytes = v128.load(w);
    const w0 = i16x8.extend_low_i8x16_s(bytes), w1 = i16x8.extend_high_i8x16_s(bytes);
    let v = v128.load32_splat(q);
    a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v, w0));
    a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v, w1));
    v = v128.load32_splat(qb);
    b0 = i32x4.add(b0, i32x4.dot_i16x8_s(v, w0));
    b1 = i32x4.add(b1, i32x4.dot_i16x8_s(v, w1));
    v = v128.load32_splat(qc);
    c0 = i32x4.add(c0, i32x4.dot_i16x8_s(v, w0));
    c1 = i32x4.add(c1, i32x4.dot_i16x8_s(v, w1));
    v = v128.load32_splat(qd);
    d0 = i32x4.add(d0, i32x4.dot_i16x8_s(v, w0));
    d1 = i32x4.add(d1, i32x4.dot_i16x8_s(v, w1));
    w += 32;
    q += 4;
    qb += 4;
    qc += 4;
    qd += 4;
  }
  store8(y, a0, a1, scales, weightScales, count);
  store8(y + yStride, b0, b1, scales + 4, weightScales, count);
  store8(y + 2 * yStride, c0, c1, scales + 8, weightScales, count);
  store8(y + 3 * yStride, d0, d1, scales + 12, weightScales, count);
}

/** 2 rows × 16 outputs; `w` is a panel. */
function tile2x16(y: usize, yStride: usize, q: usize, qStride: usize, scales: usize, w: usize, weightScales: usize, count: i32): void {
  let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  let qb = q + qStride;
  for (const end = q + qStride; q < end; ) {
    const v = v128.load32_splat(q), u = v128.load32_splat(qb);
    const low = v128.load(w), high = v128.load(w, 16);
    let m = i16x8.extend_low_i8x16_s(low);
    a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v, m));
    b0 = i32x4.add(b0, i32x4.dot_i16x8_s(u, m));
    m = i16x8.extend_high_i8x16_s(low);
    a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v, m));
    b1 = i32x4.add(b1, i32x4.dot_i16x8_s(u, m));
    m = i16x8.extend_low_i8x16_s(high);
    a2 = i32x4.add(a2, i32x4.dot_i16x8_s(v, m));
    b2 = i32x4.add(b2, i32x4.dot_i16x8_s(u, m));
    m = i16x8.extend_high_i8x16_s(high);
    a3 = i32x4.add(a3, i32x4.dot_i16x8_s(v, m));
    b3 = i32x4.add(b3, i32x4.dot_i16x8_s(u, m));
    w += 32;
    q += 4;
    qb += 4;
  }
  store8(y, a0, a1, scales, weightScales, count);
  store8(y + 32, a2, a3, scales, weightScales + 32, count - 8);
  store8(y + yStride, b0, b1, scales + 4, weightScales, count);
  store8(y + yStride + 32, b2, b3, scales + 4, weightScales + 32, count - 8);
}

/** 1 row × 32 outputs: the panels at `w` and `w + panelBytes`. */
function tile1x32(y: usize, q: usize, qStride: usize, scales: usize, w: usize, panelBytes: usize, weightScales: usize, count: i32): void {
  let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  let u = w + panelBytes;
  for (const end = q + qStride; q < end; q += 4) {
    const v = v128.load32_splat(q);
    let bytes = v128.load(w);
    a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v, i16x8.extend_low_i8x16_s(bytes)));
    a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v, i16x8.extend_high_i8x16_s(bytes)));
    bytes = v128.load(w, 16);
    a2 = i32x4.add(a2, i32x4.dot_i16x8_s(v, i16x8.extend_low_i8x16_s(bytes)));
    a3 = i32x4.add(a3, i32x4.dot_i16x8_s(v, i16x8.extend_high_i8x16_s(bytes)));
    bytes = v128.load(u);
    b0 = i32x4.add(b0, i32x4.dot_i16x8_s(v, i16x8.extend_low_i8x16_s(bytes)));
    b1 = i32x4.add(b1, i32x4.dot_i16x8_s(v, i16x8.extend_high_i8x16_s(bytes)));
    bytes = v128.load(u, 16);
    b2 = i32x4.add(b2, i32x4.dot_i16x8_s(v, i16x8.extend_low_i8x16_s(bytes)));
    b3 = i32x4.add(b3, i32x4.dot_i16x8_s(v, i16x8.extend_high_i8x16_s(bytes)));
    w += 32;
    u += 32;
  }
  store8(y, a0, a1, scales, weightScales, 8);
  store8(y + 32, a2, a3, scales, weightScales + 32, 8);
  store8(y + 64, b0, b1, scales, weightScales + 64, count - 16);
  store8(y + 96, b2, b3, scales, weightScales + 96, count - 24);
}

/** 1 row × 16 outputs, for an odd last panel. */
function tile1x16(y: usize, q: usize, qStride: usize, scales: usize, w: usize, weightScales: usize, count: i32): void {
  let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
  for (const end = q + qStride; q < end; q += 4) {
    const v = v128.load32_splat(q);
    const low = v128.load(w), high = v128.load(w, 16);
    a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v, i16x8.extend_low_i8x16_s(low)));
    a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v, i16x8.extend_high_i8x16_s(low)));
    a2 = i32x4.add(a2, i32x4.dot_i16x8_s(v, i16x8.extend_low_i8x16_s(high)));
    a3 = i32x4.add(a3, i32x4.dot_i16x8_s(v, i16x8.extend_high_i8x16_s(high)));
    w += 32;
  }
  store8(y, a0, a1, scales, weightScales, count);
  store8(y + 32, a2, a3, scales, weightScales + 32, count - 8);
}

/** All rows but an odd last one against one panel of `count` (1..16) outputs: four rows share the widening of weights, then two. */
function panelRows(y: usize, yStride: usize, q: usize, qStride: usize, scales: usize, rows: i32, w: usize, weightScales: usize, count: i32): void {
  const fours = rows & ~3;
  for (let half = 0; half < count; half += 8) {
    for (let r = 0; r < fours; r += 4) {
      pollStopAt(r);
      const row = <usize>r;
      tile4x8(
        y + row * yStride + (<usize>half << 2), yStride, q + row * qStride, qStride, scales + (row << 2), w + (<usize>half << 1),
        weightScales + (<usize>half << 2), count - half);
    }
  }
  for (let r = fours; r + 2 <= rows; r += 2) {
    pollStopAt(r);
    const row = <usize>r;
    tile2x16(y + row * yStride, yStride, q + row * qStride, qStride, scales + (row << 2), w, weightScales, count);
  }
}

/**
 * y[r * yStride + o] of rows that quantizeRows has written. yStride in floats; w: panels, then f32 scales of their outputs.
 * inDim is even; nothing is written beyond outDim.
 */
export function matmulInt8(y: usize, yStride: i32, q: usize, scales: usize, rows: i32, w: usize, inDim: i32, outDim: i32): void {
  const panelBytes = <usize>inDim << 4;
  const qStride = <usize>inDim << 1;
  const yBytes = <usize>yStride << 2;
  let weightScales = w + <usize>((outDim + 15) >> 4) * panelBytes;
  for (let o = 0; o < outDim; o += 32) {
    const yo = y + (<usize>o << 2);
    const rest = outDim - o;
    const even = rows & ~1;
    if (even) {
      panelRows(yo, yBytes, q, qStride, scales, rows, w, weightScales, min(rest, 16));
      if (rest > 16) panelRows(yo + 64, yBytes, q, qStride, scales, rows, w + panelBytes, weightScales + 64, min(rest - 16, 16));
    }
    if (rows & 1) {
      pollStop();
      const last = <usize>even;
      const yr = yo + last * yBytes, qr = q + last * qStride, scale = scales + (last << 2);
      if (rest > 16) tile1x32(yr, qr, qStride, scale, w, panelBytes, weightScales, min(rest, 32));
      else tile1x16(yr, qr, qStride, scale, w, weightScales, rest);
    }
    w += 2 * panelBytes;
    weightScales += 128;
  }
}

/** Per head h, of the same rows: y[r, h] = W[h] x[r]. y[r, h] lies at y + r * yRowStride + h * yHeadStride (floats), W[h] at w + h * wHeadBytes. */
export function matmulHeadsInt8(
  y: usize, yRowStride: i32, yHeadStride: i32, q: usize, scales: usize, rows: i32, heads: i32, w: usize, wHeadBytes: i32, inDim: i32, outDim: i32,
): void {
  for (let h = 0; h < heads; h++) {
    matmulInt8(y, yRowStride, q, scales, rows, w, inDim, outDim);
    y += <usize>yHeadStride << 2;
    w += <usize>wHeadBytes;
  }
}
