// exp and log in f32, from multiply, add and bit operations only, so that every machine and every JavaScript runtime gives the same bits.
// Source: Cephes (S. Moshier), expf.c and logf.c: Cody–Waite reduction by a ln 2 split in two, then a minimax polynomial (for exp one of a degree
// less than Cephes's, fitted here: its error of 3e-9 is a twentieth of half a unit in the last place).

import { opaque } from './lanes';

/** A constant in all lanes that survives a loop (see opaque). */
// @ts-ignore: decorator
@inline
function kept(value: f32, nonNegative: usize): v128 {
  return i32x4.splat(opaque(reinterpret<i32>(value), <i32>nonNegative));
}


// ---------------------------------------------------------------- exp
//
//   x = n ln 2 + r, |r| <= ln 2 / 2           exp(x) = (1 + r + r² P(r)) 2^n
//
// P is taken in pairs of terms (Estrin), not by Horner's rule: what limits exp is the length of its chain, not the number of operations.
// 0 below about -87.7 and +inf above about 88.38, where 2^n leaves the range of f32; NaN stays NaN, as every step hands it on.

const EXP_MIN: f32 = -88; // n = -127: 2^n is made as 0
const EXP_MAX: f32 = 89; // n = 128: 2^n is made as +inf
const LOG2_E: f32 = 1.44269504088896341;
const ROUNDER: f32 = 12583039.0; // 1.5 * 2^23 + 127: a sum with it holds the nearest n + 127, an exponent field, in its low bits
const LN2_HIGH: f32 = 0.693359375; // 9 significant bits, so n * LN2_HIGH is exact
const LN2_LOW: f32 = -2.12194440e-4;
const P0: f32 = 1.3814602280e-03;
const P1: f32 = 8.3687156439e-03;
const P2: f32 = 4.1668388993e-02;
const P3: f32 = 1.6666521132e-01;
const P4: f32 = 4.9999994040e-01;

/**
 * y = exp(x - shift) for `bytes` (a multiple of 16) of floats; returns the sums of the four lanes. y may be x; with y = 0 nothing is stored.
 * The constants stay in registers or on the stack for the whole loop: few long calls are faster than many short ones.
 */
export function expVectors(y: usize, x: usize, bytes: usize, shift: f32): v128 {
  const least = kept(EXP_MIN, bytes), most = kept(EXP_MAX, bytes), rounder = kept(ROUNDER, bytes);
  const log2e = kept(LOG2_E, bytes), ln2High = kept(LN2_HIGH, bytes), ln2Low = kept(LN2_LOW, bytes), one = kept(1, bytes);
  const p0 = kept(P0, bytes), p1 = kept(P1, bytes), p2 = kept(P2, bytes), p3 = kept(P3, bytes), p4 = kept(P4, bytes);
  const shift4 = f32x4.splat(shift);
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < bytes; i += 16) {
    const v = f32x4.pmin(f32x4.pmax(f32x4.sub(v128.load(x + i), shift4), least), most); // in this order of operands NaN passes
    const shifted = f32x4.add(f32x4.mul(v, log2e), rounder);
    const n = f32x4.sub(shifted, rounder);
    const r = f32x4.sub(f32x4.sub(v, f32x4.mul(n, ln2High)), f32x4.mul(n, ln2Low));
    const square = f32x4.mul(r, r);
    let p = f32x4.add(f32x4.mul(p0, square), f32x4.add(f32x4.mul(p1, r), p2));
    p = f32x4.add(f32x4.mul(p, square), f32x4.add(f32x4.mul(p3, r), p4));
    p = f32x4.add(f32x4.mul(p, square), f32x4.add(r, one));
    p = f32x4.mul(p, i32x4.shl(shifted, 23));
    sum = f32x4.add(sum, p);
    if (y) v128.store(y + i, p);
  }
  return sum;
}

/** One exp, the same operations. */
export function exp1(x: f32): f32 {
  const v = EXP_MAX < x ? EXP_MAX : x < EXP_MIN ? EXP_MIN : x;
  const shifted = v * LOG2_E + ROUNDER;
  const n = shifted - ROUNDER;
  const r = v - n * LN2_HIGH - n * LN2_LOW;
  const square = r * r;
  let p = P0 * square + (P1 * r + P2);
  p = p * square + (P3 * r + P4);
  p = p * square + (r + 1);
  return p * reinterpret<f32>(reinterpret<i32>(shifted) << 23);
}

// ---------------------------------------------------------------- log

const SQRT_HALF: f32 = 0.707106781186547524;

/** Natural logarithm of positive normal numbers; 0 and denormals give -inf, +inf gives +inf, negative numbers and NaN give NaN. */
// @ts-ignore: decorator
@inline
export function log4(x: v128): v128 {
  // x = m 2^e, m in [sqrt(1/2), sqrt(2))
  let m = v128.or(v128.and(x, i32x4.splat(0x007fffff)), i32x4.splat(0x3f000000)); // in [1/2, 1)
  const small = f32x4.lt(m, f32x4.splat(SQRT_HALF));
  let e = i32x4.sub(i32x4.shr_u(x, 23), i32x4.splat(126));
  e = i32x4.add(e, small); // true is -1
  m = f32x4.sub(f32x4.add(m, v128.and(m, small)), f32x4.splat(1.0));
  const n = f32x4.convert_i32x4_s(e);

  // ln(1 + m) = m - m^2 / 2 + m^3 P(m)
  const square = f32x4.mul(m, m);
  let p = f32x4.splat(7.0376836292e-2);
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(-1.1514610310e-1));
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(1.1676998740e-1));
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(-1.2420140846e-1));
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(1.4249322787e-1));
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(-1.6668057665e-1));
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(2.0000714765e-1));
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(-2.4999993993e-1));
  p = f32x4.add(f32x4.mul(p, m), f32x4.splat(3.3333331174e-1));
  let y = f32x4.mul(f32x4.mul(p, m), square);
  y = f32x4.add(y, f32x4.mul(n, f32x4.splat(LN2_LOW)));
  y = f32x4.sub(y, f32x4.mul(square, f32x4.splat(0.5)));
  y = f32x4.add(f32x4.add(m, y), f32x4.mul(n, f32x4.splat(LN2_HIGH)));

  y = v128.bitselect(f32x4.splat(-Infinity), y, f32x4.lt(x, f32x4.splat(1.17549435e-38)));
  y = v128.bitselect(f32x4.splat(NaN), y, f32x4.lt(x, f32x4.splat(0.0)));
  y = v128.bitselect(f32x4.splat(Infinity), y, f32x4.eq(x, f32x4.splat(Infinity)));
  return v128.bitselect(y, x, f32x4.eq(x, x));
}

// @ts-ignore: decorator
@inline
export function log1(x: f32): f32 {
  return f32x4.extract_lane(log4(f32x4.splat(x)), 0);
}

// ---------------------------------------------------------------- the kernels

/** y[i] = exp(x[i]) for `count` floats; y may be x. */
export function expRow(y: usize, x: usize, count: i32): void {
  const whole = <usize>(count & ~3) << 2;
  expVectors(y, x, whole, 0);
  for (let i = whole; i < <usize>count << 2; i += 4) store<f32>(y + i, exp1(load<f32>(x + i)));
}

/** y[i] = log(x[i]) for `count` floats; y may be x. */
export function logRow(y: usize, x: usize, count: i32): void {
  for (let i = 0; i < count; i++) store<f32>(y + (<usize>i << 2), log1(load<f32>(x + (<usize>i << 2))));
}
