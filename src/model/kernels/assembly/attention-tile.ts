// Online softmax over one tile of 16 positions, the step that MLA and GQA share (Milakov and Gimelshein 2018; FlashAttention).
//
//   s_j = (q · k_j) scale         m' = max(m, max s)        alpha = exp(m - m')
//   p_j = exp(s_j - m')           l = l alpha + sum p       acc = acc alpha + p_0 v_0 + p_1 v_1 + …
//
// Measured (Zen 4, of the peak of separate multiplies and adds): 0.85 at DeepSeek-V3's head size (512 + 64), 0.72 at 64 + 16, 0.73 at GQA heads of 128, but
// 0.57 at GQA heads of 32, and 0.45 there for one row of 3 heads a group. At 32 a query and tile have 128 cycles of useful multiplies and adds, 225 in all:
// scores 92 (the core issues six instructions a cycle, and loads, pointers and the eight-instruction joins count), values 80, exp of 16 scores about 40,
// maximum and sum 14. For one row, 287: the phases wait for each other, as three queries are too few to hide a batch's chain of join, maximum, exp.
// Tried there, without gain: 8 accumulators for a query without a partner, dot products unrolled by 2 or 4 (unrolled plainly, Binaryen reorders and V8 spills; with an exit between the steps it
// gives MLA 512 + 64 0.04 more and heads of 32 0.02 less). For 16 and 64 rows 0.59 to 0.60 was reached by turning a tile's keys once for all queries
// (no joins) in batches of 32, at 6 KiB more scratch, a second form of the scores, and 0.01 less for one row.
//
// A query is a record in scratch; m = -inf and l = 0 before the first tile, which takes acc as 0 without reading it.
// A position that the query does not see takes no part: its score is -inf, so p = 0 adds nothing to l, and its v is not read.
import { expInPlace } from './elementary';
import { joinLanes, joinLanes4 } from './lanes';

/** Positions in a tile. Part of the arithmetic: tiles start at absolute position 0, whatever the KV block. */
export const TILE = 16;

/** Bytes of a query's record: f32 m, f32 l, u32 address of q, u32 address of acc, i32 positions that it sees. */
export const QUERY_BYTES: usize = 20;

/** Queries that go through a tile together. One call of expInPlace serves them all, which hides its latency. */
export const BATCH = 8;

// Scratch begins with [alpha of each query of a batch][16 scores of each]: m - m' and s - m' become alpha and p there.
const SCORES: usize = BATCH * 4;
const NEXT: usize = TILE * 4;
export const WORK_BYTES: usize = SCORES + BATCH * NEXT;

// How KV rows lie is passed as plain arguments: rowBytes from position to position, keyDim floats of a key at the row's start, valueDim floats of a
// value at valueOffset bytes.

/** scores[0..3] of one query against the positions at k, k + rowBytes, … */
function scores1x4(scores: usize, q: usize, k: usize, rowBytes: usize, keyDim: i32, scale: f32): void {
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0;
  let k1 = k + rowBytes, k2 = k1 + rowBytes, k3 = k2 + rowBytes;
  for (const end = q + (<usize>keyDim << 2); q < end; ) {
    const v = v128.load(q);
    a0 = f32x4.add(a0, f32x4.mul(v, v128.load(k)));
    a1 = f32x4.add(a1, f32x4.mul(v, v128.load(k1)));
    a2 = f32x4.add(a2, f32x4.mul(v, v128.load(k2)));
    a3 = f32x4.add(a3, f32x4.mul(v, v128.load(k3)));
    q += 16;
    k += 16;
    k1 += 16;
    k2 += 16;
    k3 += 16;
  }
  v128.store(scores, f32x4.mul(joinLanes4(a0, a1, a2, a3), f32x4.splat(scale)));
}

/** The same for two queries; the second's scores stand TILE floats further. */
function scores2x4(scores: usize, q: usize, r: usize, k: usize, rowBytes: usize, keyDim: i32, scale: f32): void {
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  let k1 = k + rowBytes, k2 = k1 + rowBytes, k3 = k2 + rowBytes;
  for (const end = q + (<usize>keyDim << 2); q < end; ) {
    const v = v128.load(q), u = v128.load(r);
    let key = v128.load(k);
    a0 = f32x4.add(a0, f32x4.mul(v, key));
    b0 = f32x4.add(b0, f32x4.mul(u, key));
    key = v128.load(k1);
    a1 = f32x4.add(a1, f32x4.mul(v, key));
    b1 = f32x4.add(b1, f32x4.mul(u, key));
    key = v128.load(k2);
    a2 = f32x4.add(a2, f32x4.mul(v, key));
    b2 = f32x4.add(b2, f32x4.mul(u, key));
    key = v128.load(k3);
    a3 = f32x4.add(a3, f32x4.mul(v, key));
    b3 = f32x4.add(b3, f32x4.mul(u, key));
    q += 16;
    r += 16;
    k += 16;
    k1 += 16;
    k2 += 16;
    k3 += 16;
  }
  v128.store(scores, f32x4.mul(joinLanes4(a0, a1, a2, a3), f32x4.splat(scale)));
  v128.store(scores, f32x4.mul(joinLanes4(b0, b1, b2, b3), f32x4.splat(scale)), TILE * 4);
}

/** m advances; scores become s - m', and the word at `alpha` m - m'. The first `hidden` positions are masked, and those from `visible` on. */
function shiftScores(scores: usize, alpha: usize, query: usize, hidden: i32, visible: i32): void {
  for (let j = 0; j < hidden; j++) store<f32>(scores + (<usize>j << 2), -Infinity);
  for (let j = visible; j < TILE; j++) store<f32>(scores + (<usize>j << 2), -Infinity);
  const s0 = v128.load(scores), s1 = v128.load(scores, 16), s2 = v128.load(scores, 32), s3 = v128.load(scores, 48);
  const before = v128.load32_splat(query);
  let m = f32x4.pmax(f32x4.pmax(s0, s1), f32x4.pmax(s2, s3));
  m = f32x4.pmax(m, v128.shuffle<i32>(m, m, 2, 3, 0, 1));
  m = f32x4.pmax(m, v128.shuffle<i32>(m, m, 1, 0, 3, 2));
  m = f32x4.pmax(m, before);
  v128.store(scores, f32x4.sub(s0, m));
  v128.store(scores, f32x4.sub(s1, m), 16);
  v128.store(scores, f32x4.sub(s2, m), 32);
  v128.store(scores, f32x4.sub(s3, m), 48);
  v128.store32_lane(alpha, f32x4.sub(before, m), 0);
  v128.store32_lane(query, m, 0);
}

/** l = l alpha + sum p */
// @ts-ignore: decorator
@inline
function sumTile(p: usize, alpha: usize, query: usize): void {
  const sum = joinLanes(f32x4.add(f32x4.add(f32x4.add(v128.load(p), v128.load(p, 16)), v128.load(p, 32)), v128.load(p, 48)));
  store<f32>(query, load<f32>(query, 4) * load<f32>(alpha) + sum, 4);
}

/** acc alpha, or 0 before the first tile. */
// @ts-ignore: decorator
@inline
function rescaled(acc: usize, offset: usize, alpha: v128, first: bool): v128 {
  return first ? f32x4.splat(0) : f32x4.mul(v128.load(acc + offset), alpha);
}

/** acc += p_j v_j over `visible` positions, one query. */
function values1(acc: usize, p: usize, v: usize, rowBytes: usize, valueDim: i32, visible: i32, alpha: f32, first: bool): void {
  const scale = f32x4.splat(alpha);
  const end = p + (<usize>visible << 2);
  let i: usize = 0;
  const bytes = <usize>valueDim << 2;
  for (; i + 64 <= bytes; i += 64) {
    let a0 = rescaled(acc, i, scale, first), a1 = rescaled(acc, i + 16, scale, first);
    let a2 = rescaled(acc, i + 32, scale, first), a3 = rescaled(acc, i + 48, scale, first);
    let row = v + i;
    for (let j = p; j < end; j += 4) {
      const pj = v128.load32_splat(j);
      a0 = f32x4.add(a0, f32x4.mul(pj, v128.load(row)));
      a1 = f32x4.add(a1, f32x4.mul(pj, v128.load(row, 16)));
      a2 = f32x4.add(a2, f32x4.mul(pj, v128.load(row, 32)));
      a3 = f32x4.add(a3, f32x4.mul(pj, v128.load(row, 48)));
      row += rowBytes;
    }
    v128.store(acc + i, a0);
    v128.store(acc + i, a1, 16);
    v128.store(acc + i, a2, 32);
    v128.store(acc + i, a3, 48);
  }
  for (; i < bytes; i += 16) {
    let a = rescaled(acc, i, scale, first);
    let row = v + i;
    for (let j = p; j < end; j += 4) {
      a = f32x4.add(a, f32x4.mul(v128.load32_splat(j), v128.load(row)));
      row += rowBytes;
    }
    v128.store(acc + i, a);
  }
}

/** The same for two queries, 2 × 16 values in registers at a time. */
function values2(
  acc: usize, bcc: usize, p: usize, v: usize, rowBytes: usize, valueDim: i32, visible: i32, alpha: f32, beta: f32, first: bool,
): void {
  const scaleA = f32x4.splat(alpha), scaleB = f32x4.splat(beta);
  const whole = <usize>(valueDim & ~15) << 2;
  const end = p + (<usize>visible << 2);
  for (let i: usize = 0; i < whole; i += 64) {
    let a0 = rescaled(acc, i, scaleA, first), a1 = rescaled(acc, i + 16, scaleA, first);
    let a2 = rescaled(acc, i + 32, scaleA, first), a3 = rescaled(acc, i + 48, scaleA, first);
    let b0 = rescaled(bcc, i, scaleB, first), b1 = rescaled(bcc, i + 16, scaleB, first);
    let b2 = rescaled(bcc, i + 32, scaleB, first), b3 = rescaled(bcc, i + 48, scaleB, first);
    let row = v + i;
    for (let j = p; j < end; j += 4) {
      const pj = v128.load32_splat(j), rj = v128.load32_splat(j, TILE * 4);
      let value = v128.load(row);
      a0 = f32x4.add(a0, f32x4.mul(pj, value));
      b0 = f32x4.add(b0, f32x4.mul(rj, value));
      value = v128.load(row, 16);
      a1 = f32x4.add(a1, f32x4.mul(pj, value));
      b1 = f32x4.add(b1, f32x4.mul(rj, value));
      value = v128.load(row, 32);
      a2 = f32x4.add(a2, f32x4.mul(pj, value));
      b2 = f32x4.add(b2, f32x4.mul(rj, value));
      value = v128.load(row, 48);
      a3 = f32x4.add(a3, f32x4.mul(pj, value));
      b3 = f32x4.add(b3, f32x4.mul(rj, value));
      row += rowBytes;
    }
    v128.store(acc + i, a0);
    v128.store(acc + i, a1, 16);
    v128.store(acc + i, a2, 32);
    v128.store(acc + i, a3, 48);
    v128.store(bcc + i, b0);
    v128.store(bcc + i, b1, 16);
    v128.store(bcc + i, b2, 32);
    v128.store(bcc + i, b3, 48);
  }
  const rest = valueDim & 15;
  if (rest) {
    values1(acc + whole, p, v + whole, rowBytes, rest, visible, alpha, first);
    values1(bcc + whole, p + TILE * 4, v + whole, rowBytes, rest, visible, beta, first);
  }
}

/** Scores of `count` queries, in pairs as far as they go. */
function scoreQueries(scores: usize, query: usize, count: i32, kv: usize, rowBytes: usize, keyDim: i32, visible: i32, scale: f32): void {
  for (; count > 0; count -= 2) {
    const q = <usize>load<u32>(query, 8);
    for (let j = 0; j < visible; j += 4) {
      const at = scores + (<usize>j << 2), key = kv + <usize>j * rowBytes;
      if (count > 1) scores2x4(at, q, <usize>load<u32>(query + QUERY_BYTES, 8), key, rowBytes, keyDim, scale);
      else scores1x4(at, q, key, rowBytes, keyDim, scale);
    }
    query += 2 * QUERY_BYTES;
    scores += 2 * NEXT;
  }
}

/** acc of `count` queries, in pairs as far as they go. */
function addValues(work: usize, query: usize, count: i32, values: usize, rowBytes: usize, valueDim: i32, hidden: i32, visible: i32, first: bool): void {
  // What is hidden was never written: it is not even multiplied by 0.
  let p = work + SCORES + (<usize>hidden << 2);
  values += <usize>hidden * rowBytes;
  visible -= hidden;
  for (; count > 0; count -= 2) {
    const acc = <usize>load<u32>(query, 12);
    const alpha = load<f32>(work), beta = load<f32>(work, 4);
    if (count > 1) values2(acc, <usize>load<u32>(query + QUERY_BYTES, 12), p, values, rowBytes, valueDim, visible, alpha, beta, first);
    else values1(acc, p, values, rowBytes, valueDim, visible, alpha, first);
    query += 2 * QUERY_BYTES;
    work += 8;
    p += 2 * NEXT;
  }
}

/** The tile whose KV rows begin at kv, for `count` (1..BATCH) queries that all see its first `visible` (1..16) positions, but for the first `hidden` of them. */
export function tileForBatch(
  work: usize, queries: usize, count: i32, kv: usize, rowBytes: usize, keyDim: i32, valueOffset: usize, valueDim: i32,
  hidden: i32, visible: i32, scale: f32, first: bool,
): void {
  const scores = work + SCORES;
  scoreQueries(scores, queries, count, kv, rowBytes, keyDim, visible, scale);
  for (let i: usize = 0; i < <usize>count; i++) shiftScores(scores + i * NEXT, work + i * 4, queries + i * QUERY_BYTES, hidden, visible);
  expInPlace(work, SCORES + <usize>count * NEXT);
  for (let i: usize = 0; i < <usize>count; i++) sumTile(scores + i * NEXT, work + i * 4, queries + i * QUERY_BYTES);
  addValues(work, queries, count, kv + valueOffset, rowBytes, valueDim, hidden, visible, first);
}
