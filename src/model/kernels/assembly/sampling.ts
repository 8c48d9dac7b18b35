// Drawing one token from a row of logits, in the order of DESIGN "Sampling": bias, penalties, min_tokens, temperature, top_k, top_p, min_p, then
// Gumbel-max over what is left (argmax of logit + noise is a draw from the softmax). Stages that are off are skipped.
//
// params: 17 words
//    0 seed low   1 seed high   2 choice       3 position       u32
//    4 temperature              f32, 0 = greedy
//    5 top_k                    u32, 0 = off
//    6 top_p                    f32, 1 or more = off
//    7 min_p                    f32, 0 = off
//    8 repetition (1 = off)     9 frequency (0)     10 presence (0)     f32
//   11 bias count   12 bias address      pairs (token id u32, bias f32)
//   13 output count 14 output address    pairs (token id u32, times u32): the distinct tokens put out so far
//   15 ban count    16 ban address       token ids u32, min_tokens
import { exp1, expVectors } from './elementary';
import { addInPlace } from './elementwise';
import { gumbel, gumbelRow } from './philox';
import { argmaxRow, expSum, maxOf } from './row';
import { topLogits } from './selection';
import { pollStop, pollStopAt } from './stop';

// ---------------------------------------------------------------- bias, penalties, min_tokens, temperature

function addBias(w: usize, params: usize): void {
  let pair = <usize>load<u32>(params, 48);
  for (let i = load<u32>(params, 44); i > 0; i--, pair += 8) {
    const x = w + (<usize>load<u32>(pair) << 2);
    store<f32>(x, load<f32>(x) + load<f32>(pair, 4));
  }
}

/** Over output tokens only: repetition, then frequency, then presence. */
function penalise(w: usize, params: usize): void {
  const repetition = load<f32>(params, 32), frequency = load<f32>(params, 36), presence = load<f32>(params, 40);
  let pair = <usize>load<u32>(params, 56);
  for (let i = load<u32>(params, 52); i > 0; i--, pair += 8) {
    const x = w + (<usize>load<u32>(pair) << 2);
    let logit = load<f32>(x);
    logit = logit > 0 ? logit / repetition : logit * repetition;
    logit = logit - frequency * <f32>load<u32>(pair, 4);
    store<f32>(x, logit - presence);
  }
}

function ban(w: usize, params: usize): void {
  let id = <usize>load<u32>(params, 64);
  for (let i = load<u32>(params, 60); i > 0; i--, id += 4) store<f32>(w + (<usize>load<u32>(id) << 2), -Infinity);
}

function divideBy(w: usize, n: i32, temperature: f32): void {
  const whole = <usize>(n & ~3) << 2;
  for (let i: usize = 0; i < whole; i += 16) v128.store(w + i, f32x4.div(v128.load(w + i), f32x4.splat(temperature)));
  for (let i = whole; i < <usize>n << 2; i += 4) store<f32>(w + i, load<f32>(w + i) / temperature);
}

// ---------------------------------------------------------------- top_p, min_p
// Both work on e_i = exp(logit - best logit), the softmax without its division, over a list sorted by (logit descending, id ascending).

// @ts-ignore: decorator
@inline
function weightAt(values: usize, i: i32): f32 {
  return exp1(load<f32>(values + (<usize>i << 2)) - load<f32>(values));
}

/** The sequential sum of the whole list. */
function listTotal(values: usize, count: i32): f32 {
  let sum: f32 = 0;
  for (let i = 0; i < count; i++) sum += weightAt(values, i);
  return sum;
}

/** Length of the shortest prefix whose sum reaches `target`; -1 if the list does not reach it. */
function nucleus(values: usize, count: i32, target: f32): i32 {
  let sum: f32 = 0;
  for (let i = 0; i < count; i++) {
    sum += weightAt(values, i);
    if (sum >= target) return i + 1;
  }
  return -1;
}

/** Length of the prefix with e_i >= minP; at least one. */
function aboveMinP(values: usize, count: i32, minP: f32): i32 {
  let kept = count;
  while (kept > 1 && !(weightAt(values, kept - 1) >= minP)) kept--;
  return kept;
}

/** top_p over the whole vocabulary: selections of 64, 512, … best until one holds the nucleus; most do at once. Returns the list's length. */
function nucleusOfAll(ids: usize, values: usize, w: usize, n: i32, topP: f32): i32 {
  const target = topP * expSum(w, n, maxOf(w, n));
  for (let size = 64; size < n; size *= 8) {
    pollStop();
    topLogits(ids, values, w, n, size);
    const kept = nucleus(values, size, target);
    if (kept > 0) return kept;
  }
  topLogits(ids, values, w, n, n);
  const kept = nucleus(values, n, target);
  return kept > 0 ? kept : n;
}

/** min_p over the whole vocabulary: what falls below becomes -inf. `work` has room for n rounded up to 4. */
function closeBelowMinP(w: usize, n: i32, minP: f32, work: usize): void {
  expVectors(work, w, <usize>((n + 3) & ~3) << 2, maxOf(w, n));
  for (let i: usize = 0; i < <usize>n << 2; i += 4) if (!(load<f32>(work + i) >= minP)) store<f32>(w + i, -Infinity);
}

// ---------------------------------------------------------------- Gumbel-max

/** Over the whole row. `work` has room for n rounded up to 16. */
function drawFromRow(w: usize, n: i32, params: usize, work: usize): i32 {
  gumbelRow(work, n, load<u32>(params, 8), load<u32>(params, 12), load<u32>(params), load<u32>(params, 4));
  pollStop();
  addInPlace(work, w, n);
  return argmaxRow(work, n);
}

/** Over a list of `count` tokens. */
function drawFromList(ids: usize, values: usize, count: i32, params: usize, scratch: usize): i32 {
  const seedLow = load<u32>(params), seedHigh = load<u32>(params, 4), choice = load<u32>(params, 8), position = load<u32>(params, 12);
  let best: u32 = 0;
  let bestScore: f32 = 0;
  for (let i = 0; i < count; i++) {
    pollStopAt(i);
    const id = load<u32>(ids + (<usize>i << 2));
    const score = load<f32>(values + (<usize>i << 2)) + gumbel(id, choice, position, seedLow, seedHigh, scratch);
    if (i == 0 || score > bestScore || (score == bestScore && id < best)) {
      best = id;
      bestScore = score;
    }
  }
  return best;
}

/**
 * The token drawn from n logits (left as they are) under `params`. scratch: 12 * n + 128 bytes.
 * The caller has asked allFinite.
 */
export function sampleRow(logits: usize, n: i32, params: usize, scratch: usize): i32 {
  pollStop();
  const w = scratch + 16;
  const ids = w + (<usize>((n + 3) & ~3) << 2);
  const values = ids + (<usize>n << 2);
  memory.copy(w, logits, <usize>n << 2);
  addBias(w, params);
  penalise(w, params);
  ban(w, params);

  const temperature = load<f32>(params, 16);
  if (temperature == 0) return argmaxRow(w, n);
  if (temperature != 1) divideBy(w, n, temperature);

  pollStop();
  const topK = load<i32>(params, 20);
  const topP = load<f32>(params, 24), minP = load<f32>(params, 28);
  let kept = n; // n: the row itself; fewer: the sorted list
  if (topK > 0 && topK < n) {
    kept = topK;
    topLogits(ids, values, w, n, kept);
    if (topP < 1) kept = max(nucleus(values, kept, topP * listTotal(values, kept)), 1);
  } else if (topP < 1) {
    kept = nucleusOfAll(ids, values, w, n, topP);
  }
  if (kept == n) {
    if (minP > 0) closeBelowMinP(w, n, minP, ids);
    return drawFromRow(w, n, params, ids);
  }
  if (minP > 0) kept = aboveMinP(values, kept, minP);
  return drawFromList(ids, values, kept, params, scratch);
}
