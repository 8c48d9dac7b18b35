// Questions about one row of floats: its maximum, where it is, whether all are finite, log of the sum of exponentials.
import { exp1, expVectors, log1 } from './elementary';
import { joinLanes, loadTail } from './lanes';

/** The largest of n floats, -inf for none; NaN may or may not show (allFinite asks for it). */
export function maxOf(x: usize, n: i32): f32 {
  const whole = <usize>(n & ~3) << 2;
  let top = f32x4.splat(-Infinity);
  for (let i: usize = 0; i < whole; i += 16) top = f32x4.pmax(top, v128.load(x + i));
  if (n & 3) top = f32x4.pmax(top, loadTail(x + whole, n & 3, -Infinity));
  const even = max(f32x4.extract_lane(top, 0), f32x4.extract_lane(top, 2));
  const odd = max(f32x4.extract_lane(top, 1), f32x4.extract_lane(top, 3));
  return max(even, odd);
}

/** Sum of exp(x[i] - shift) in the stride-4 order. */
export function expSum(x: usize, n: i32, shift: f32): f32 {
  const whole = <usize>(n & ~3) << 2;
  let sum = expVectors(0, x, whole, shift);
  let tail = f32x4.splat(0);
  if ((n & 3) > 0) tail = f32x4.replace_lane(tail, 0, exp1(load<f32>(x + whole) - shift));
  if ((n & 3) > 1) tail = f32x4.replace_lane(tail, 1, exp1(load<f32>(x + whole, 4) - shift));
  if ((n & 3) > 2) tail = f32x4.replace_lane(tail, 2, exp1(load<f32>(x + whole, 8) - shift));
  return joinLanes(f32x4.add(sum, tail));
}

/** max + log(sum of exp(x - max)) of n logits. */
export function logSumExp(logits: usize, n: i32): f32 {
  const top = maxOf(logits, n);
  return top + log1(expSum(logits, n, top));
}

/** The index of the largest of n logits, ties to the lowest. */
export function argmaxRow(logits: usize, n: i32): i32 {
  const top = maxOf(logits, n);
  for (let i = 0; i < n; i++) if (load<f32>(logits + (<usize>i << 2)) == top) return i;
  return 0;
}

/** 1 if none of `count` floats is NaN or infinite. */
export function allFinite(x: usize, count: i32): i32 {
  const whole = <usize>(count & ~3) << 2;
  let worst = i32x4.splat(0); // a lane is set where an exponent is all ones
  const exponent = i32x4.splat(0x7f800000);
  for (let i: usize = 0; i < whole; i += 16) worst = v128.or(worst, i32x4.eq(v128.and(v128.load(x + i), exponent), exponent));
  if (count & 3) worst = v128.or(worst, i32x4.eq(v128.and(loadTail(x + whole, count & 3, 0), exponent), exponent));
  return v128.any_true(worst) ? 0 : 1;
}
