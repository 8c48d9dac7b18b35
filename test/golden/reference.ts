/**
 * The kernels' arithmetic in scalar TypeScript, one Math.fround a step: what assembly/*.ts must equal bit for bit.
 * (A float64 product, sum, quotient or root of float32 values, rounded once, is the float32 operation: no double rounding shows.)
 * @module
 */

export const f = Math.fround;

const word = new DataView(new ArrayBuffer(4));

export function floatOf(bits: number): number {
  word.setInt32(0, bits);
  return word.getFloat32(0);
}

export function bitsOf(x: number): number {
  word.setFloat32(0, x);
  return word.getInt32(0);
}

/** Element i of an array that is known to have it. */
export function at(values: ArrayLike<number>, i: number): number {
  const value = values[i];
  if (value === undefined) throw new RangeError(`index ${i} of ${values.length}`);
  return value;
}

/** The stride-4 sum of term(0..n-1): four partial sums, joined as (s0 + s1) + (s2 + s3). */
export function laneSum(n: number, term: (i: number) => number): number {
  const s: [number, number, number, number] = [0, 0, 0, 0];
  for (let i = 0; i < n; i++) s[i & 3] = f(at(s, i & 3) + term(i));
  return f(f(s[0] + s[1]) + f(s[2] + s[3]));
}

// ---------------------------------------------------------------- exp, log

const LOG2_E = f(Math.LOG2E);
const LN2_HIGH = f(0.693359375);
const LN2_LOW = f(-2.1219444e-4);
const ROUNDER = 12583039;
const EXP = [1.381460228e-3, 8.3687156439e-3, 4.1668388993e-2, 1.6666521132e-1, 4.999999404e-1].map(f);

export function exp(x: number): number {
  const v = Math.min(Math.max(x, -88), 89);
  const shifted = f(f(v * LOG2_E) + ROUNDER);
  const n = f(shifted - ROUNDER);
  const r = f(f(v - f(n * LN2_HIGH)) - f(n * LN2_LOW));
  const pair = (i: number): number => f(f(at(EXP, i) * r) + at(EXP, i + 1));
  const square = f(r * r);
  let p = f(f(at(EXP, 0) * square) + pair(1));
  p = f(f(p * square) + pair(3));
  p = f(f(p * square) + f(r + 1));
  return f(p * floatOf(bitsOf(shifted) << 23));
}

const LOG = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
].map(f);

export function log(x: number): number {
  if (Number.isNaN(x) || x < 0) return NaN;
  if (x < f(1.17549435e-38)) return -Infinity;
  if (x === Infinity) return Infinity;
  let m = floatOf((bitsOf(x) & 0x007fffff) | 0x3f000000);
  let n = (bitsOf(x) >>> 23) - 126;
  if (m < f(Math.SQRT1_2)) {
    n -= 1;
    m = f(m + m);
  }
  m = f(m - 1);
  const square = f(m * m);
  let p = at(LOG, 0);
  for (const c of LOG.slice(1)) p = f(f(p * m) + c);
  let y = f(f(p * m) * square);
  y = f(y + f(n * LN2_LOW));
  y = f(y - f(square * 0.5));
  return f(f(m + y) + f(n * LN2_HIGH));
}

// ---------------------------------------------------------------- matmul, norm, rope, activation

/** One output: k ascending, multiply and add apart. */
export function dotAscending(x: ArrayLike<number>, w: ArrayLike<number>): number {
  let acc = 0;
  for (let k = 0; k < x.length; k++) acc = f(acc + f(at(x, k) * at(w, k)));
  return acc;
}

/** y = W x, W row-major [out, x.length]. */
export function matvec(x: Float32Array, w: Float32Array, outDim: number): Float32Array {
  return Float32Array.from({ length: outDim }, (_, o) => dotAscending(x, w.subarray(o * x.length, (o + 1) * x.length)));
}

export function rmsNorm(x: Float32Array, weight: Float32Array, eps: number): Float32Array {
  const squares = laneSum(x.length, (i) => f(at(x, i) * at(x, i)));
  const s = f(1 / f(Math.sqrt(f(f(squares / x.length) + f(eps)))));
  return x.map((v, i) => f(f(v * s) * at(weight, i)));
}

/** angles: [cos, sin] per pair. `pair` gives the two indices of pair i. */
function rotate(x: Float32Array, angles: Float32Array, pair: (i: number) => [number, number]): Float32Array {
  const y = x.slice();
  for (let i = 0; i < x.length / 2; i++) {
    const [a, b] = pair(i);
    const [p, q, c, s] = [at(x, a), at(x, b), at(angles, 2 * i), at(angles, 2 * i + 1)];
    y[a] = f(f(p * c) - f(q * s));
    y[b] = f(f(q * c) + f(p * s));
  }
  return y;
}

export const ropeInterleaved = (x: Float32Array, angles: Float32Array): Float32Array => rotate(x, angles, (i) => [2 * i, 2 * i + 1]);
export const ropeHalves = (x: Float32Array, angles: Float32Array): Float32Array => rotate(x, angles, (i) => [i, i + x.length / 2]);

export function sigmoid(x: number): number {
  return f(1 / f(1 + exp(-x)));
}

export function silu(x: number): number {
  return f(x / f(1 + exp(-x)));
}

/** gateUp is [gate | up]. */
export function siluMul(gateUp: Float32Array): Float32Array {
  const inter = gateUp.length / 2;
  return Float32Array.from({ length: inter }, (_, i) => f(silu(at(gateUp, i)) * at(gateUp, inter + i)));
}

/** hidden + (Σₛ weightₛ rowₛ + shared) */
export function combine(hidden: Float32Array, rows: Float32Array[], weights: ArrayLike<number>, shared: Float32Array | null): Float32Array {
  return hidden.map((h, i) => {
    let acc = 0;
    rows.forEach((row, s) => {
      acc = f(acc + f(at(weights, s) * at(row, i)));
    });
    if (shared) acc = f(acc + at(shared, i));
    return f(h + acc);
  });
}

// ---------------------------------------------------------------- attention

export const TILE = 16;

/** One query over keys and values of the positions it sees: online softmax over tiles of 16 from position 0. */
export function attention(q: Float32Array, keys: Float32Array[], values: Float32Array[], scale: number): Float32Array {
  let m = -Infinity;
  let l = 0;
  let acc = new Float32Array(values[0]?.length ?? 0);
  for (let start = 0; start < keys.length; start += TILE) {
    const scores = keys.slice(start, start + TILE).map((k) => f(laneSum(q.length, (i) => f(at(q, i) * at(k, i))) * f(scale)));
    const top = Math.max(m, ...scores);
    const alpha = exp(f(m - top));
    const p = scores.map((s) => exp(f(s - top)));
    l = f(f(l * alpha) + laneSum(p.length, (j) => at(p, j)));
    acc = acc.map((a, d) => {
      let sum = start === 0 ? 0 : f(a * alpha);
      p.forEach((pj, j) => {
        sum = f(sum + f(pj * at(values[start + j] ?? [], d)));
      });
      return sum;
    });
    m = top;
  }
  return acc.map((a) => f(a / l));
}
