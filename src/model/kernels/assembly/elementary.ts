// exp and log in f32, from multiply, add and bit operations only, so that every machine and every JavaScript runtime gives the same bits.
// Source: Cephes (S. Moshier), expf.c and logf.c: Cody–Waite reduction by a ln 2 split in two, then a minimax polynomial (for exp one of a degree
// less than Cephes's, fitted here: its error of 3e-9 is a twentieth of half a unit in the last place).

import { opaque } from './lanes';
import { pollStop, STRETCH_BYTES } from './stop';

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

/**
 * x = exp(x) for `bytes` (a multiple of 32) of floats: the operations of expVectors, two vectors a step and no sum. Measured in attention, 6 to 34
 * vectors a call: 10 cycles a vector instead of 12. Four vectors a step, or stores between the steps that keep both in pace, gain nothing more.
 */
export function expInPlace(x: usize, bytes: usize): void {
  const least = kept(EXP_MIN, bytes), most = kept(EXP_MAX, bytes), rounder = kept(ROUNDER, bytes);
  const log2e = kept(LOG2_E, bytes), ln2High = kept(LN2_HIGH, bytes), ln2Low = kept(LN2_LOW, bytes), one = kept(1, bytes);
  const p0 = kept(P0, bytes), p1 = kept(P1, bytes), p2 = kept(P2, bytes), p3 = kept(P3, bytes), p4 = kept(P4, bytes);
  for (const end = x + bytes; x < end; x += 32) {
    const v = f32x4.pmin(f32x4.pmax(v128.load(x), least), most);
    const w = f32x4.pmin(f32x4.pmax(v128.load(x, 16), least), most);
    const vShifted = f32x4.add(f32x4.mul(v, log2e), rounder);
    const wShifted = f32x4.add(f32x4.mul(w, log2e), rounder);
    const n = f32x4.sub(vShifted, rounder);
    const m = f32x4.sub(wShifted, rounder);
    const r = f32x4.sub(f32x4.sub(v, f32x4.mul(n, ln2High)), f32x4.mul(n, ln2Low));
    const s = f32x4.sub(f32x4.sub(w, f32x4.mul(m, ln2High)), f32x4.mul(m, ln2Low));
    const rr = f32x4.mul(r, r);
    const ss = f32x4.mul(s, s);
    let p = f32x4.add(f32x4.mul(p0, rr), f32x4.add(f32x4.mul(p1, r), p2));
    let q = f32x4.add(f32x4.mul(p0, ss), f32x4.add(f32x4.mul(p1, s), p2));
    p = f32x4.add(f32x4.mul(p, rr), f32x4.add(f32x4.mul(p3, r), p4));
    q = f32x4.add(f32x4.mul(q, ss), f32x4.add(f32x4.mul(p3, s), p4));
    p = f32x4.add(f32x4.mul(p, rr), f32x4.add(r, one));
    q = f32x4.add(f32x4.mul(q, ss), f32x4.add(s, one));
    v128.store(x, f32x4.mul(p, i32x4.shl(vShifted, 23)));
    v128.store(x, f32x4.mul(q, i32x4.shl(wShifted, 23)), 16);
  }
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
//
//   x = m 2^n, m in [sqrt(1/2), sqrt(2))      log(x) = n ln 2 + log(1 + t), t = m - 1      log(1 + t) = t - t² / 2 + t³ P(t)

const SQRT_HALF: f32 = 0.707106781186547524;
const Q0: f32 = 7.0376836292e-2;
const Q1: f32 = -1.1514610310e-1;
const Q2: f32 = 1.1676998740e-1;
const Q3: f32 = -1.2420140846e-1;
const Q4: f32 = 1.4249322787e-1;
const Q5: f32 = -1.6668057665e-1;
const Q6: f32 = 2.0000714765e-1;
const Q7: f32 = -2.4999993993e-1;
const Q8: f32 = 3.3333331174e-1;

/** Natural logarithm of positive normal numbers; 0 and denormals give -inf, +inf gives +inf, negative numbers and NaN give NaN. */
export function log1(x: f32): f32 {
  if (!(x >= 0)) return NaN;
  if (x < <f32>1.17549435e-38) return -Infinity;
  if (x == Infinity) return x;
  const bits = reinterpret<i32>(x);
  let m = reinterpret<f32>((bits & 0x007fffff) | 0x3f000000); // in [1/2, 1)
  let e = (bits >> 23) - 126;
  if (m < SQRT_HALF) {
    e -= 1;
    m += m;
  }
  const n = <f32>e;
  const t = m - 1;
  const square = t * t;
  let p = Q0 * t + Q1;
  p = p * t + Q2;
  p = p * t + Q3;
  p = p * t + Q4;
  p = p * t + Q5;
  p = p * t + Q6;
  p = p * t + Q7;
  p = p * t + Q8;
  const rest = p * t * square + n * LN2_LOW - square * 0.5;
  return t + rest + n * LN2_HIGH;
}

/** y = -log(x) for `bytes` (a multiple of 16) of positive normal floats, the same operations as log1; y may be x. */
export function minusLogVectors(y: usize, x: usize, bytes: usize): void {
  const fraction = i32x4.splat(opaque(0x007fffff, <i32>bytes)), half = kept(0.5, bytes), one = kept(1, bytes), sqrtHalf = kept(SQRT_HALF, bytes);
  const bias = i32x4.splat(opaque(126, <i32>bytes)), ln2High = kept(LN2_HIGH, bytes), ln2Low = kept(LN2_LOW, bytes);
  const q0 = kept(Q0, bytes), q1 = kept(Q1, bytes), q2 = kept(Q2, bytes), q3 = kept(Q3, bytes), q4 = kept(Q4, bytes);
  const q5 = kept(Q5, bytes), q6 = kept(Q6, bytes), q7 = kept(Q7, bytes), q8 = kept(Q8, bytes);
  for (let i: usize = 0; i < bytes; i += 16) {
    const v = v128.load(x + i);
    let m = v128.or(v128.and(v, fraction), half); // the bits of 1/2 are its exponent's alone
    const small = f32x4.lt(m, sqrtHalf); // true is -1
    const n = f32x4.convert_i32x4_s(i32x4.add(i32x4.sub(i32x4.shr_u(v, 23), bias), small));
    const t = f32x4.sub(f32x4.add(m, v128.and(m, small)), one);
    const square = f32x4.mul(t, t);
    let p = f32x4.add(f32x4.mul(q0, t), q1);
    p = f32x4.add(f32x4.mul(p, t), q2);
    p = f32x4.add(f32x4.mul(p, t), q3);
    p = f32x4.add(f32x4.mul(p, t), q4);
    p = f32x4.add(f32x4.mul(p, t), q5);
    p = f32x4.add(f32x4.mul(p, t), q6);
    p = f32x4.add(f32x4.mul(p, t), q7);
    p = f32x4.add(f32x4.mul(p, t), q8);
    const rest = f32x4.sub(f32x4.add(f32x4.mul(f32x4.mul(p, t), square), f32x4.mul(n, ln2Low)), f32x4.mul(square, half));
    v128.store(y + i, f32x4.neg(f32x4.add(f32x4.add(t, rest), f32x4.mul(n, ln2High))));
  }
}

// ---------------------------------------------------------------- the kernels

/** y[i] = exp(x[i]) for `count` floats; y may be x. */
export function expRow(y: usize, x: usize, count: i32): void {
  const whole = <usize>(count & ~3) << 2;
  for (let i: usize = 0; i < whole; i += STRETCH_BYTES) {
    pollStop();
    expVectors(y + i, x + i, min(STRETCH_BYTES, whole - i), 0);
  }
  for (let i = whole; i < <usize>count << 2; i += 4) store<f32>(y + i, exp1(load<f32>(x + i)));
}

/** y[i] = log(x[i]) for `count` floats; y may be x. */
export function logRow(y: usize, x: usize, count: i32): void {
  const bytes = <usize>count << 2;
  for (let i: usize = 0; i < bytes; ) {
    pollStop();
    for (const end = min(i + STRETCH_BYTES, bytes); i < end; i += 4) store<f32>(y + i, log1(load<f32>(x + i)));
  }
}
