/**
 * Products of many rows, by the kernels that serve: what a weight puts out in float32 and in INT8, and sums of outer products.
 * @module
 */
import { instantiateKernels, type Kernels, loadKernelModule, packedBytes, panelBytes } from '../model/kernels/kernels.ts';
import type { Matrix } from './matrix.ts';
import type { QuantizedMatrix } from './round-weights.ts';

/** Rows that one call multiplies, and of which one sum in float32 is made. */
const ROWS_MAX = 1_024;
const PAGE_BYTES = 65_536;
const FIRST = PAGE_BYTES;
const ALIGNMENT = 16;

export class RowProducts {
  readonly #module: WebAssembly.Module;
  #memory: WebAssembly.Memory;
  #kernels: Kernels;

  static async create(): Promise<RowProducts> {
    return new RowProducts(await loadKernelModule());
  }

  private constructor(module: WebAssembly.Module) {
    this.#module = module;
    [this.#memory, this.#kernels] = this.#memoryOf(FIRST);
  }

  /** Y = X Wᵀ */
  outputs(inputs: Matrix, weights: Matrix): Float32Array {
    const { rows: outputs, columns } = weights;
    const chunk = Math.min(ROWS_MAX, inputs.rows);
    const [raw, packed, x, y] = this.#rooms(4 * outputs * columns, packedBytes(outputs, columns, 'f32'), 4 * chunk * columns, 4 * chunk * outputs);
    this.#put(raw, weights.values);
    this.#kernels.packF32(packed, raw, outputs, columns, columns);
    return this.#chunks(inputs, outputs, x, y, (rows) => this.#kernels.matmulF32(y, outputs, x, columns, rows, packed, columns, outputs));
  }

  /** The same of rows and weights in INT8, as the model computes it. */
  quantizedOutputs(inputs: Matrix, weights: QuantizedMatrix): Float32Array {
    const { rows: outputs, columns } = weights;
    const chunk = Math.min(ROWS_MAX, inputs.rows);
    const [raw, packed, x, q, scales, y] = this.#rooms(
      outputs * columns,
      packedBytes(outputs, columns, 'int8'),
      ...[4 * chunk * columns, 2 * chunk * columns, 4 * chunk, 4 * chunk * outputs],
    );
    new Int8Array(this.#memory.buffer, raw).set(weights.q);
    this.#kernels.packInt8(packed, raw, outputs, columns, columns);
    this.#put(packed + panelBytes(outputs, columns, 'int8'), weights.scales);
    return this.#chunks(inputs, outputs, x, y, (rows) => {
      this.#kernels.quantizeRows(q, scales, x, columns, rows, columns);
      this.#kernels.matmulInt8(y, outputs, q, scales, rows, packed, columns, outputs);
    });
  }

  /** Σ x xᵀ over rows, [columns, columns]: in float32 for some rows at a time, then in float64. */
  moments({ values, rows, columns }: Matrix): Float64Array {
    const sums = new Float64Array(columns * columns);
    const chunk = Math.min(ROWS_MAX, rows);
    const [raw, packed, x, y] = this.#rooms(4 * chunk * columns, packedBytes(columns, chunk, 'f32'), 4 * chunk * columns, 4 * columns * columns);
    const turned = new Float32Array(chunk * columns);
    for (let first = 0; first < rows; first += chunk) {
      const count = Math.min(chunk, rows - first);
      this.#put(raw, values.subarray(first * columns, (first + count) * columns));
      this.#kernels.packF32Transposed(packed, raw, columns, count, columns);
      for (let row = 0, at = first * columns; row < count; row++)
        for (let column = 0; column < columns; column++, at++) turned[column * count + row] = values[at] as number;
      this.#put(x, turned.subarray(0, count * columns));
      this.#kernels.matmulF32(y, columns, x, count, columns, packed, count, columns);
      const found = new Float32Array(this.#memory.buffer, y, sums.length);
      for (let at = 0; at < sums.length; at++) sums[at] = (sums[at] as number) + (found[at] as number);
    }
    return sums;
  }

  /** Some rows after the other: `multiply` makes y of x. */
  #chunks({ values, rows, columns }: Matrix, width: number, x: number, y: number, multiply: (rows: number) => void): Float32Array {
    const outputs = new Float32Array(rows * width);
    for (let first = 0; first < rows; first += ROWS_MAX) {
      const count = Math.min(ROWS_MAX, rows - first);
      this.#put(x, values.subarray(first * columns, (first + count) * columns));
      multiply(count);
      outputs.set(new Float32Array(this.#memory.buffer, y, count * width), first * width);
    }
    return outputs;
  }

  #put(address: number, values: Float32Array): void {
    new Float32Array(this.#memory.buffer, address, values.length).set(values);
  }

  /** Addresses of rooms of so many bytes; those that were given before are given up. */
  #rooms<const Sizes extends readonly number[]>(...sizes: Sizes): { [Index in keyof Sizes]: number } {
    let next = FIRST;
    const addresses = sizes.map((size) => {
      const address = next;
      next += Math.ceil(size / ALIGNMENT) * ALIGNMENT;
      return address;
    });
    if (next > this.#memory.buffer.byteLength) [this.#memory, this.#kernels] = this.#memoryOf(next);
    return addresses as { [Index in keyof Sizes]: number };
  }

  #memoryOf(bytes: number): [WebAssembly.Memory, Kernels] {
    const pages = Math.ceil(bytes / PAGE_BYTES);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    return [memory, instantiateKernels(this.#module, memory)];
  }
}
