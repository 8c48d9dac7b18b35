// The one order in which a row is summed: lane j takes the elements i ≡ j (mod 4), ascending; the lanes are joined as (s0 + s1) + (s2 + s3).
// Every dot product, sum of squares and softmax sum of this module goes through it.

/** (s0 + s1) + (s2 + s3) */
// @ts-ignore: decorator
@inline
export function joinLanes(s: v128): f32 {
  return f32x4.extract_lane(s, 0) + f32x4.extract_lane(s, 1) + (f32x4.extract_lane(s, 2) + f32x4.extract_lane(s, 3));
}

/** joinLanes of four accumulators at once: lane i of the result is the sum of argument i. */
// @ts-ignore: decorator
@inline
export function joinLanes4(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab01 = v128.shuffle<i32>(a, b, 0, 4, 1, 5); // a0 b0 a1 b1
  const ab23 = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cd01 = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const cd23 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  const s0 = v128.shuffle<i64>(ab01, cd01, 0, 2); // a0 b0 c0 d0
  const s1 = v128.shuffle<i64>(ab01, cd01, 1, 3);
  const s2 = v128.shuffle<i64>(ab23, cd23, 0, 2);
  const s3 = v128.shuffle<i64>(ab23, cd23, 1, 3);
  return f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3));
}

/** The first `count` (1..3) floats at `p`, the other lanes `rest`; reads nothing beyond them. */
export function loadTail(p: usize, count: i32, rest: f32): v128 {
  let v = f32x4.splat(rest);
  v = f32x4.replace_lane(v, 0, load<f32>(p));
  if (count > 1) v = f32x4.replace_lane(v, 1, load<f32>(p, 4));
  if (count > 2) v = f32x4.replace_lane(v, 2, load<f32>(p, 8));
  return v;
}

/** Stores the first `count` (0..4) lanes of `v` at `p`. */
export function storeTail(p: usize, v: v128, count: i32): void {
  if (count >= 4) {
    v128.store(p, v);
    return;
  }
  if (count > 0) store<f32>(p, f32x4.extract_lane(v, 0));
  if (count > 1) store<f32>(p, f32x4.extract_lane(v, 1), 4);
  if (count > 2) store<f32>(p, f32x4.extract_lane(v, 2), 8);
}

/**
 * `value`, in a form that no compiler folds, given any number that is never negative. A v128 constant inside a loop is built anew in every
 * iteration (Binaryen propagates it there, V8 does not hoist it; three instructions on x64). Measured: with a constant BF16 mask, matmul ran at
 * 21.8 instead of 34.4 GFLOP/s for one row and 34.3 instead of 41.0 for many; exp at 40 instead of 13 cycles a vector.
 */
// @ts-ignore: decorator
@inline
export function opaque(value: i32, nonNegative: i32): i32 {
  return value + (nonNegative >> 31);
}
