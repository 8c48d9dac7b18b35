// exp and log in f32, from multiply, add and bit operations only, so that every machine and every JavaScript runtime gives the same bits.
// Source: Cephes (S. Moshier), expf.c and logf.c: Cody–Waite reduction by a ln 2 split in two, then a minimax polynomial.
// The scalar forms take lane 0 of the SIMD forms: there is one definition.

// ---------------------------------------------------------------- exp

const EXP_MAX: f32 = 88.72; // below ln(largest f32) = 88.7228; above it the result is +inf
const EXP_MIN: f32 = -87.33; // above ln(smallest normal f32) = -87.3365; below it the result is 0, denormals are never made
const LOG2_E: f32 = 1.44269504088896341;
const ROUNDER: f32 = 12582912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
const LN2_HIGH: f32 = 0.693359375; // 9 significant bits, so n * LN2_HIGH is exact
const LN2_LOW: f32 = -2.12194440e-4;

// @ts-ignore: decorator
@inline
export function exp4(x: v128): v128 {
  // x = n ln2 + r, |r| <= ln2 / 2
  const shifted = f32x4.add(f32x4.mul(x, f32x4.splat(LOG2_E)), f32x4.splat(ROUNDER));
  const n = f32x4.sub(shifted, f32x4.splat(ROUNDER));
  const r = f32x4.sub(f32x4.sub(x, f32x4.mul(n, f32x4.splat(LN2_HIGH))), f32x4.mul(n, f32x4.splat(LN2_LOW)));

  // e^r = 1 + r + r^2 P(r)
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1.0));

  // times 2^n: n sits in the low bits of `shifted`, and is added to the exponent
  let y = i32x4.add(p, i32x4.shl(shifted, 23));
  y = v128.andnot(y, f32x4.lt(x, f32x4.splat(EXP_MIN)));
  y = v128.bitselect(f32x4.splat(Infinity), y, f32x4.gt(x, f32x4.splat(EXP_MAX)));
  return v128.bitselect(y, x, f32x4.eq(x, x)); // NaN stays NaN
}

// @ts-ignore: decorator
@inline
export function exp1(x: f32): f32 {
  return f32x4.extract_lane(exp4(f32x4.splat(x)), 0);
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
  for (let i = 0; i < count; i++) store<f32>(y + (<usize>i << 2), exp1(load<f32>(x + (<usize>i << 2))));
}

/** y[i] = log(x[i]) for `count` floats; y may be x. */
export function logRow(y: usize, x: usize, count: i32): void {
  for (let i = 0; i < count; i++) store<f32>(y + (<usize>i << 2), log1(load<f32>(x + (<usize>i << 2))));
}
