/**
 * INT8 weights with one scale an output channel, rounded plainly or as GPTQ does it (Frantar et al. 2022, arXiv 2210.17323): inputs are rounded one after
 * the other, and what each loses is made up for by those that are left, as far as the inputs that were seen go together.
 *
 *   H = Σ x xᵀ + damping        U = upper Cholesky factor of H⁻¹
 *   for each input i, the strongest first:   q = round(w_i ÷ scale)    e = (w_i − q · scale) ÷ U_ii    w_j −= e · U_ij for j > i
 *
 * In float64, from sums in one order, which are float32 within 1,024 rows (row-products.ts): the same bits on every machine.
 * @module
 */
import type { Matrix } from './matrix.ts';
import type { RowProducts } from './row-products.ts';

export type QuantizedMatrix = { readonly q: Int8Array; readonly scales: Float32Array; readonly rows: number; readonly columns: number };

const STEPS = 127;
/** Of the mean of H's diagonal. Few rows tell little of how inputs go together: half as much again as there are inputs for each row. */
const DAMPING = 0.01;
const DAMPING_FEW_ROWS = 0.5;

/** To the nearest integer, half to even, as activations are. */
const ROUNDER = 1.5 * 2 ** 52;
const nearest = (value: number): number => value + ROUNDER - ROUNDER;

/** One for each output: what the largest weight needs. An output without weights gets 1, since no scale may be 0. */
function scalesOf({ values, rows, columns }: Matrix): Float32Array {
  const scales = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    let largest = 0;
    for (let at = row * columns; at < (row + 1) * columns; at++) largest = Math.max(largest, Math.abs(values[at] as number));
    scales[row] = largest === 0 ? 1 : Math.max(largest / STEPS, 2 ** -126);
  }
  return scales;
}

const quotient = (value: number, scale: number): number => Math.max(-STEPS, Math.min(STEPS, nearest(value / scale)));

export function roundPlainly(weights: Matrix): QuantizedMatrix {
  const { values, rows, columns } = weights;
  const scales = scalesOf(weights);
  const q = new Int8Array(values.length);
  for (let at = 0; at < q.length; at++) q[at] = quotient(values[at] as number, scales[Math.floor(at / columns)] as number);
  return { q, scales, rows, columns };
}

/** `factor`: compensationFactor of the rows that these weights are multiplied with. */
export function roundWithCompensation(weights: Matrix, { order, upper }: CompensationFactor): QuantizedMatrix {
  const { values, rows, columns } = weights;
  const scales = scalesOf(weights);
  const q = new Int8Array(values.length);
  const left = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    const scale = scales[row] as number;
    for (let i = 0; i < columns; i++) left[i] = values[row * columns + (order[i] as number)] as number;
    for (let i = 0; i < columns; i++) {
      const rounded = quotient(left[i] as number, scale);
      q[row * columns + (order[i] as number)] = rounded;
      const error = ((left[i] as number) - rounded * scale) / (upper[i * columns + i] as number);
      for (let j = i + 1; j < columns; j++) left[j] = (left[j] as number) - error * (upper[i * columns + j] as number);
    }
  }
  return { q, scales, rows, columns };
}

/** Inputs, the strongest first, and the factor U for them in that order. */
export type CompensationFactor = { readonly order: Uint32Array; readonly upper: Float64Array };

export function compensationFactor(inputs: Matrix, multiplied: RowProducts): CompensationFactor {
  const { columns: n } = inputs;
  const sums = multiplied.moments(inputs);
  const order = Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => (sums[b * n + b] as number) - (sums[a * n + a] as number) || a - b);
  const ordered = new Float64Array(n * n);
  let trace = 0;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) ordered[i * n + j] = sums[(order[i] as number) * n + (order[j] as number)] as number;
    trace += ordered[i * n + i] as number;
  }
  const damping = trace === 0 ? 1 : ((DAMPING + (DAMPING_FEW_ROWS * n) / inputs.rows) * trace) / n;
  for (let i = 0; i < n; i++) ordered[i * n + i] = (ordered[i * n + i] as number) + damping;
  return { order, upper: upperFactorOfInverse(ordered, n) };
}

/**
 * U with Uᵀ U = H⁻¹, from H = L Lᵀ factored backwards: with the order of rows and columns turned round, H = V Vᵀ with V upper, so H⁻¹ = V⁻ᵀ V⁻¹ and
 * U = V⁻¹, which is upper too.
 */
function upperFactorOfInverse(h: Float64Array, n: number): Float64Array {
  const v = new Float64Array(n * n);
  for (let j = n - 1; j >= 0; j--) {
    for (let i = j; i >= 0; i--) {
      let sum = h[i * n + j] as number;
      for (let k = j + 1; k < n; k++) sum -= (v[i * n + k] as number) * (v[j * n + k] as number);
      v[i * n + j] = i === j ? Math.sqrt(sum) : sum / (v[j * n + j] as number);
    }
  }
  const upper = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    upper[j * n + j] = 1 / (v[j * n + j] as number);
    for (let i = j - 1; i >= 0; i--) {
      let sum = 0;
      for (let k = i + 1; k <= j; k++) sum += (v[i * n + k] as number) * (upper[k * n + j] as number);
      upper[i * n + j] = -sum / (v[i * n + i] as number);
    }
  }
  return upper;
}
