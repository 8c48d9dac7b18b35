/**
 * Matrices of a layer while it is quantised, row by row: weights [outputs, inputs], or rows of activations.
 * @module
 */
import type { Checkpoint } from '../model/checkpoint.ts';
import type { StoredTensor } from '../model/safetensors.ts';
import { assert } from '../protocol/errors.ts';

export type Matrix = { readonly values: Float32Array; readonly rows: number; readonly columns: number };

export const matrix = (values: Float32Array, columns: number): Matrix => {
  assert(values.length % columns === 0, `${values.length} values are no rows of ${columns}`);
  return { values, rows: values.length / columns, columns };
};

export const rowOf = ({ values, columns }: Matrix, row: number): Float32Array => values.subarray(row * columns, (row + 1) * columns);

/** The rows of these numbers. */
export function pickRows(all: Matrix, indices: ArrayLike<number>): Matrix {
  const values = new Float32Array(indices.length * all.columns);
  for (let index = 0; index < indices.length; index++) values.set(rowOf(all, indices[index] as number), index * all.columns);
  return { values, rows: indices.length, columns: all.columns };
}

/** At most `count` rows, spread evenly over all. */
export function spreadRows(all: Matrix, count: number): Matrix {
  if (all.rows <= count) return all;
  return pickRows(
    all,
    Array.from({ length: count }, (_, index) => Math.floor((index * all.rows) / count)),
  );
}

/** Each column times its factor. */
export function scaleColumns({ values, rows, columns }: Matrix, factors: ArrayLike<number>): Matrix {
  const scaled = values.slice();
  for (let row = 0, at = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, at++) scaled[at] = (scaled[at] as number) * (factors[column] as number);
  return { values: scaled, rows, columns };
}

/** The largest magnitude in each column. */
export function columnMaxima({ values, rows, columns }: Matrix): Float32Array {
  const maxima = new Float32Array(columns);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const size = Math.abs(values[row * columns + column] as number);
      if (size > (maxima[column] as number)) maxima[column] = size;
    }
  return maxima;
}

/** The root mean square of each column. */
export function columnSizes({ values, rows, columns }: Matrix): Float32Array {
  const squares = new Float64Array(columns);
  for (let row = 0, at = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, at++) squares[column] = (squares[column] as number) + (values[at] as number) ** 2;
  return Float32Array.from(squares, (sum) => Math.sqrt(sum / Math.max(1, rows)));
}

/** A stored tensor as floats; a vector is one row. */
export function readMatrix({ readInto }: Pick<Checkpoint, 'readInto'>, tensor: StoredTensor): Matrix {
  const bytes = new Uint8Array(tensor.bytes);
  readInto(tensor, bytes);
  const columns = tensor.shape.at(-1) ?? 1;
  return matrix(widened(bytes, tensor.dtype), columns);
}

function widened(bytes: Uint8Array<ArrayBuffer>, dtype: StoredTensor['dtype']): Float32Array {
  if (dtype === 'F32') return new Float32Array(bytes.buffer);
  assert(dtype !== 'I8', 'what is quantised already is refused before');
  if (dtype === 'F16') {
    const view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 2 }, (_, index) => view.getFloat16(index * 2, true));
  }
  const halves = new Uint16Array(bytes.buffer);
  const floats = new Float32Array(halves.length);
  const words = new Uint32Array(floats.buffer);
  for (let index = 0; index < halves.length; index++) words[index] = (halves[index] as number) << 16;
  return floats;
}

/** To the nearest BF16, half to even, as a float. */
export function nearestBf16(value: number): number {
  float[0] = value;
  const bits = word[0] as number;
  word[0] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  return float[0] as number;
}

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** Into the form that a tensor had, to the nearest. */
export function narrowed(values: Float32Array, dtype: StoredTensor['dtype']): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.slice().buffer);
  assert(dtype !== 'I8', 'what is quantised already is refused before');
  const bytes = new Uint8Array(values.length * 2);
  const view = new DataView(bytes.buffer);
  for (let index = 0; index < values.length; index++) {
    if (dtype === 'F16') view.setFloat16(index * 2, values[index] as number, true);
    else {
      nearestBf16(values[index] as number);
      view.setUint16(index * 2, (word[0] as number) >>> 16, true);
    }
  }
  return bytes;
}
