// The k best of n logits by (value descending, id ascending), by a bounded heap: a vocabulary of 150,000 is scanned once, never sorted.
// The heap's root is the worst kept entry: ids and values are two arrays, so a logit is 8 bytes of heap.
import { pollStop, pollStopAt, STRETCH_BYTES } from './stop';

/** Whether (value a, id i) comes after (value b, id j) in the order. */
// @ts-ignore: decorator
@inline
function isWorse(a: f32, i: u32, b: f32, j: u32): bool {
  return a < b || (a == b && i > j);
}

/** Puts (value, id) into the hole at `at` of a heap of `size`, and lets it sink. */
function sink(ids: usize, values: usize, at: i32, size: i32, id: u32, value: f32): void {
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    let c = <usize>child << 2;
    if (child + 1 < size && isWorse(load<f32>(values + c, 4), load<u32>(ids + c, 4), load<f32>(values + c), load<u32>(ids + c))) {
      child++;
      c += 4;
    }
    if (!isWorse(load<f32>(values + c), load<u32>(ids + c), value, id)) break;
    store<f32>(values + (<usize>at << 2), load<f32>(values + c));
    store<u32>(ids + (<usize>at << 2), load<u32>(ids + c));
    at = child;
  }
  store<f32>(values + (<usize>at << 2), value);
  store<u32>(ids + (<usize>at << 2), id);
}

/** Offers logits from..to (exclusive) to the full heap; ids ascend, so an equal value is worse than what is kept. */
// @ts-ignore: decorator
@inline
function offer(ids: usize, values: usize, logits: usize, from: i32, to: i32, k: i32): void {
  for (let i = from; i < to; i++) {
    const value = load<f32>(logits + (<usize>i << 2));
    if (value > load<f32>(values)) sink(ids, values, 0, k, i, value);
  }
}

/** The first of the fours from..to (exclusive, whole fours) that has a logit above `worst`, or `to`. */
function candidate(logits: usize, from: i32, to: i32, worst: f32): i32 {
  const worst4 = f32x4.splat(worst);
  for (; from < to; from += 4) if (v128.any_true(f32x4.gt(v128.load(logits + (<usize>from << 2)), worst4))) break;
  return from;
}

/** Heap sort: repeatedly moves the worst to the end. */
function sortBest(ids: usize, values: usize, k: i32): void {
  for (let size = k - 1; size > 0; size--) {
    pollStopAt(size);
    const end = <usize>size << 2;
    const id = load<u32>(ids + end);
    const value = load<f32>(values + end);
    store<u32>(ids + end, load<u32>(ids));
    store<f32>(values + end, load<f32>(values));
    sink(ids, values, 0, size, id, value);
  }
}

/** Writes the min(k, n) best of n logits, best first: ids u32 and values f32. Logits must not be NaN. */
export function topLogits(ids: usize, values: usize, logits: usize, n: i32, k: i32): void {
  k = min(k, n);
  if (k <= 0) return;
  for (let i = 0; i < k; i++) {
    store<u32>(ids + (<usize>i << 2), i);
    store<f32>(values + (<usize>i << 2), load<f32>(logits + (<usize>i << 2)));
  }
  for (let i = (k >> 1) - 1; i >= 0; i--) {
    pollStopAt(i);
    sink(ids, values, i, k, load<u32>(ids + (<usize>i << 2)), load<f32>(values + (<usize>i << 2)));
  }

  let i = min((k + 3) & ~3, n);
  offer(ids, values, logits, k, i, k);
  for (const end = n & ~3; i < end; ) {
    pollStop();
    const stretch = min(i + <i32>(STRETCH_BYTES >> 2), end);
    i = candidate(logits, i, stretch, load<f32>(values));
    if (i < stretch) {
      offer(ids, values, logits, i, i + 4, k);
      i += 4;
    }
  }
  offer(ids, values, logits, i, n, k);
  sortBest(ids, values, k);
}
