// Narrow forms in which rows of activations may travel: INT8 with one scale a token (xDeepServe §3.2, dispatch step 2), and BF16.
// A row in memory has a stride; a row on the wire does not: wire rows lie end to end, at any alignment.
import { opaque } from './lanes';
import { widenBf16Row } from './pack';
import { pollStopAt } from './stop';

const MAGNITUDE: i32 = 0x7fffffff;
export const INFINITE: i32 = 0x7f800000; // magnitudes from here on are infinity and NaN
export const QUIET_NAN: u32 = 0x7fc00000;

// ---------------------------------------------------------------- INT8
//
//   scale = max |x| / 127, cut to 16 bits        q = round(x / scale), half to even        x' = q scale        |x - x'| <= scale / 2
//
// A scale of 16 significant bits makes q scale exact in 24, and 127 scale / 127 the scale again: what has been in this form is in it for good. So a row may be
// narrowed by whoever computes it, and again by whatever it travels on or is multiplied with, without a bit changing after the first time.
// q needs no clamp: the quotient of the largest x is between 127 and 127 (1 + 2^-15), but for roundings.
// A scale below the least normal float would hold too few bits for that (max |x| of 180 denormal steps gives a scale of one step), so it ends there.

export const SCALE_MIN: f32 = 1.1754943508222875e-38; // 2^-126
export const ROUNDER: f32 = 12582912.0; // 1.5 * 2^23: a sum with it holds the nearest integer, half to even, in its low bits
export const ROUNDER_BITS: i32 = 0x4b400000;

/** The largest magnitude in a row, as the bits of a float; floats without a sign compare as integers do, and NaN above infinity. */
export function largestMagnitude(x: usize, dim: i32): i32 {
  const magnitude = i32x4.splat(opaque(MAGNITUDE, dim));
  const whole = <usize>(dim & ~3) << 2;
  let top = i32x4.splat(0);
  for (let i: usize = 0; i < whole; i += 16) top = i32x4.max_s(top, v128.and(v128.load(x + i), magnitude));
  let largest = max(max(i32x4.extract_lane(top, 0), i32x4.extract_lane(top, 1)), max(i32x4.extract_lane(top, 2), i32x4.extract_lane(top, 3)));
  for (let i = whole; i < <usize>dim << 2; i += 4) largest = max(largest, load<i32>(x + i) & MAGNITUDE);
  return largest;
}

const SCALE_BITS: u32 = 0xffffff00; // of a float's 24 significant bits the upper 16

/** Of a row whose largest magnitude is neither 0 nor infinite. */
export function scaleOf(largest: i32): f32 {
  return max(reinterpret<f32>(reinterpret<u32>(reinterpret<f32>(largest) / 127) & SCALE_BITS), SCALE_MIN);
}

/** round(x / scale) in the low bits of four lanes. */
// @ts-ignore: decorator
@inline
function quotients(x: usize, scale: v128, rounder: v128, rounderBits: v128): v128 {
  return i32x4.sub(f32x4.add(f32x4.div(v128.load(x), scale), rounder), rounderBits);
}

function quantizeRow(q: usize, x: usize, dim: i32, scale: f32): void {
  const scale4 = f32x4.splat(scale), rounder = i32x4.splat(opaque(ROUNDER_BITS, dim)), rounderBits = rounder;
  const end = q + <usize>dim, whole = q + <usize>(dim & ~15);
  for (; q < whole; q += 16) {
    const a = quotients(x, scale4, rounder, rounderBits), b = quotients(x + 16, scale4, rounder, rounderBits);
    const c = quotients(x + 32, scale4, rounder, rounderBits), d = quotients(x + 48, scale4, rounder, rounderBits);
    v128.store(q, i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d)));
    x += 64;
  }
  for (; q < end; q++) {
    store<i8>(q, <i8>(reinterpret<i32>(load<f32>(x) / scale + ROUNDER) - ROUNDER_BITS));
    x += 4;
  }
}

/**
 * Per row one f32 scale and dim i8. x: rows at xStride floats; q i8 [rows, dim]; scales f32 [rows].
 * A row of zeros has scale 0. A row with NaN or infinity has scale NaN, so that all of it comes back as NaN: what is not finite stays visible.
 */
export function quantizeInt8(q: usize, scales: usize, x: usize, xStride: i32, rows: i32, dim: i32): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const largest = largestMagnitude(x, dim);
    if (largest == 0) {
      store<f32>(scales, 0);
      memory.fill(q, 0, <usize>dim);
    } else if (largest >= INFINITE) {
      store<u32>(scales, QUIET_NAN);
      memory.fill(q, 0, <usize>dim);
    } else {
      const scale = scaleOf(largest);
      store<f32>(scales, scale);
      quantizeRow(q, x, dim, scale);
    }
    q += <usize>dim;
    scales += 4;
    x += <usize>xStride << 2;
  }
}

/** y = q * scale. y: rows at yStride floats; q i8 [rows, dim]; scales f32 [rows]. */
export function dequantizeInt8(y: usize, yStride: i32, q: usize, scales: usize, rows: i32, dim: i32): void {
  const whole = <usize>(dim & ~15);
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const scale = load<f32>(scales);
    const scale4 = f32x4.splat(scale);
    for (let i: usize = 0; i < whole; i += 16) {
      const bytes = v128.load(q + i);
      const low = i16x8.extend_low_i8x16_s(bytes), high = i16x8.extend_high_i8x16_s(bytes);
      const to = y + (i << 2);
      v128.store(to, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)), scale4));
      v128.store(to, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), scale4), 16);
      v128.store(to, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), scale4), 32);
      v128.store(to, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), scale4), 48);
    }
    for (let i = whole; i < <usize>dim; i++) store<f32>(y + (i << 2), <f32>load<i8>(q + i) * scale);
    q += <usize>dim;
    scales += 4;
    y += <usize>yStride << 2;
  }
}

// ---------------------------------------------------------------- BF16
//
// The upper half of a float, rounded to nearest, half to even: bits + 0x7fff + (the last bit that stays), then the upper half. The carry may run into
// the exponent, up to infinity, as it should. NaN keeps its upper half and becomes quiet, so that one whose payload lies below does not turn infinite.

const HALF_LESS_ONE: i32 = 0x7fff;
const QUIET: i32 = 0x40;

// @ts-ignore: decorator
@inline
function upperHalves(x: v128, one: v128, halfLessOne: v128, quiet: v128): v128 {
  const upper = i32x4.shr_u(x, 16);
  const rounded = i32x4.shr_u(i32x4.add(i32x4.add(x, halfLessOne), v128.and(upper, one)), 16);
  return v128.bitselect(rounded, v128.or(upper, quiet), f32x4.eq(x, x));
}

function upperHalf(x: u32): u32 {
  if ((x & MAGNITUDE) > <u32>INFINITE) return (x >> 16) | QUIET;
  return (x + HALF_LESS_ONE + ((x >> 16) & 1)) >> 16;
}

/** y = BF16(x). x: rows at xStride floats; y BF16 [rows, dim]. */
export function packRowsBf16(y: usize, x: usize, xStride: i32, rows: i32, dim: i32): void {
  const one = i32x4.splat(opaque(1, dim)), halfLessOne = i32x4.splat(opaque(HALF_LESS_ONE, dim)), quiet = i32x4.splat(opaque(QUIET, dim));
  const whole = <usize>(dim & ~7) << 1, bytes = <usize>dim << 1;
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    for (let i: usize = 0; i < whole; i += 16) {
      const from = x + (i << 1);
      const a = upperHalves(v128.load(from), one, halfLessOne, quiet), b = upperHalves(v128.load(from, 16), one, halfLessOne, quiet);
      v128.store(y + i, i16x8.narrow_i32x4_u(a, b));
    }
    for (let i = whole; i < bytes; i += 2) store<u16>(y + i, <u16>upperHalf(load<u32>(x + (i << 1))));
    y += bytes;
    x += <usize>xStride << 2;
  }
}

/** y = f32(x), exact. y: rows at yStride floats; x BF16 [rows, dim]. */
export function unpackRowsBf16(y: usize, yStride: i32, x: usize, rows: i32, dim: i32): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    widenBf16Row(y, x, <usize>dim);
    x += <usize>dim << 1;
    y += <usize>yStride << 2;
  }
}
