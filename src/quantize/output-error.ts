/**
 * What quantising a product costs its output: ‖Y − Ŷ‖² and ‖Y‖² over rows of activations, which are quantised a token at a time as the kernels do it.
 * @module
 */
import { type Matrix, rowOf } from './matrix.ts';
import type { QuantizedMatrix } from './round-weights.ts';

export type OutputError = { readonly error: number; readonly size: number };

export const addErrors = (errors: readonly OutputError[]): OutputError =>
  errors.reduce((sum, { error, size }) => ({ error: sum.error + error, size: sum.size + size }), { error: 0, size: 0 });

/** ‖Y − Ŷ‖ ÷ ‖Y‖ */
export const relativeError = ({ error, size }: OutputError): number => (size === 0 ? 0 : Math.sqrt(error / size));

/** Each row as whole numbers of its scale, and the scale. */
export function quantizeActivations({ values, rows, columns }: Matrix): { readonly q: Int16Array; readonly scales: Float32Array } {
  const q = new Int16Array(values.length);
  const scales = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    let largest = 0;
    for (let at = row * columns; at < (row + 1) * columns; at++) largest = Math.max(largest, Math.abs(values[at] as number));
    const scale = Math.fround(largest / 127);
    scales[row] = scale;
    // Half to even is a matter of the last bit, and this is a measurement.
    if (scale > 0) for (let at = row * columns; at < (row + 1) * columns; at++) q[at] = Math.floor((values[at] as number) / scale + 0.5);
  }
  return { q, scales };
}

/** Y = X Wᵀ of weights as they were, in rows as many as the inputs'. */
export function exactOutputs(inputs: Matrix, weights: Matrix): Float64Array {
  const { columns } = inputs;
  const outputs = new Float64Array(inputs.rows * weights.rows);
  for (let row = 0, at = 0; row < inputs.rows; row++) {
    const x = rowOf(inputs, row);
    for (let output = 0; output < weights.rows; output++, at++) {
      const w = output * columns;
      let sum = 0;
      for (let k = 0; k < columns; k++) sum += (x[k] as number) * (weights.values[w + k] as number);
      outputs[at] = sum;
    }
  }
  return outputs;
}

/** Of inputs that are smoothed, if they are, multiplied in INT8, from what `exact` is of them. */
export function outputError(exact: Float64Array, inputs: Matrix, weights: QuantizedMatrix): OutputError {
  const { q, scales } = quantizeActivations(inputs);
  const { columns } = inputs;
  let error = 0;
  let size = 0;
  for (let row = 0, at = 0; row < inputs.rows; row++) {
    const x = q.subarray(row * columns, (row + 1) * columns);
    const scale = scales[row] as number;
    for (let output = 0; output < weights.rows; output++, at++) {
      const w = output * columns;
      let sum = 0;
      for (let k = 0; k < columns; k++) sum = (sum + Math.imul(x[k] as number, weights.q[w + k] as number)) | 0;
      const expected = exact[at] as number;
      const difference = expected - sum * scale * (weights.scales[output] as number);
      error += difference * difference;
      size += expected * expected;
    }
  }
  return { error, size };
}
