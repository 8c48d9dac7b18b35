import fc from 'fast-check';
import { expect, it } from 'vitest';
import { columnSizes, type Matrix, matrix, scaleColumns } from '../../src/quantize/matrix.ts';
import { type OutputError, outputError } from '../../src/quantize/output-error.ts';
import { compensationFactor, type QuantizedMatrix, roundPlainly, roundWithCompensation } from '../../src/quantize/round-weights.ts';
import { RowProducts } from '../../src/quantize/row-products.ts';
import { chooseSmoothing } from '../../src/quantize/smoothing.ts';
import { noise } from '../property/kernels-arena.ts';

const multiplied = await RowProducts.create();
/** Of inputs that are smoothed, if they are, from what `exact` is of them. */
const lossOf = (exact: Float32Array, inputs: Matrix, weights: QuantizedMatrix): OutputError => outputError(exact, multiplied.quantizedOutputs(inputs, weights));
const at = (values: ArrayLike<number>, index: number): number => values[index] as number;

it('should round each weight to within half a scale, the largest of an output to ±127', () => {
  const rows = fc.array(fc.array(fc.float({ noNaN: true, noDefaultInfinity: true, min: -1024, max: 1024 }), { minLength: 6, maxLength: 6 }), {
    minLength: 1,
    maxLength: 8,
  });
  fc.assert(
    fc.property(rows, (weights) => {
      const { q, scales } = roundPlainly(matrix(Float32Array.from(weights.flat()), 6));
      for (const [row, values] of weights.entries()) {
        const scale = at(scales, row);
        expect(scale > 0 && Number.isFinite(scale)).toBe(true);
        const largest = Math.max(...values.map(Math.abs));
        if (largest > 1e-30) expect(Math.max(...q.subarray(row * 6, row * 6 + 6).map(Math.abs))).toBe(127);
        for (const [column, value] of values.entries()) expect(Math.abs(value - at(q, row * 6 + column) * scale)).toBeLessThanOrEqual(scale * 0.50001);
      }
    }),
  );
});

/** Rows whose channels go together: mixtures of a few. */
function mixedRows(seed: number, rows: number, columns: number, outlier = 1): Float32Array {
  const [causes, mixing] = [noise(seed)(rows * 6), noise(seed + 1)(6 * columns)];
  const rest = noise(seed + 2)(rows * columns);
  return rest.map((value, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    let sum = value / 8;
    for (let cause = 0; cause < 6; cause++) sum += at(causes, row * 6 + cause) * at(mixing, cause * columns + column);
    return column === 5 ? sum * outlier : sum;
  });
}

it('should lose less of the outputs with compensation than without, on rows that it has not seen, and the less the more they go together', () => {
  for (const seed of [1, 2, 3]) {
    const [rows, columns] = [256, 32];
    const all = mixedRows(seed, 2 * rows, columns);
    const [seen, unseen] = [matrix(all.slice(0, rows * columns), columns), matrix(all.slice(rows * columns), columns)];
    const weights = matrix(noise(seed + 9)(24 * columns), columns);
    const exact = multiplied.outputs(unseen, weights);
    const { error: plain } = lossOf(exact, unseen, roundPlainly(weights));
    const { error: compensated } = lossOf(exact, unseen, roundWithCompensation(weights, compensationFactor(seen, multiplied)));
    expect(compensated).toBeLessThan(0.8 * plain);
  }
});

it('should round plainly where no inputs were seen to go together', () => {
  const weights = matrix(noise(4)(8 * 16), 16);
  const alone = matrix(new Float32Array(16 * 16), 16);
  expect(roundWithCompensation(weights, compensationFactor(alone, multiplied))).toEqual(roundPlainly(weights));
});

it('should move an outlier channel where that lowers the error, and nothing where it does not', () => {
  const columns = 32;
  const weights = matrix(noise(3)(48 * columns), columns);
  for (const outlier of [1, 100]) {
    const inputs = matrix(mixedRows(5, 128, columns, outlier), columns);
    const { factors, alpha } = chooseSmoothing(multiplied, [{ inputs, weights, tuned: inputs }], columnSizes(inputs));
    const exact = multiplied.outputs(inputs, weights);
    const plain = lossOf(exact, inputs, roundPlainly(weights)).error;
    const inverse = factors.map((factor) => 1 / factor);
    const smoothed = lossOf(exact, scaleColumns(inputs, inverse), roundPlainly(scaleColumns(weights, factors))).error;
    if (outlier > 1) {
      expect(alpha).not.toBeNull();
      expect(at(factors, 5)).toBe(Math.max(...factors));
      expect(smoothed).toBeLessThan(0.5 * plain);
    } else expect(smoothed).toBeLessThanOrEqual(plain);
  }
});

it('should give channels that are tied the same factor', () => {
  const inputs = matrix(mixedRows(6, 64, 32, 300), 32);
  const tied = Uint32Array.from({ length: 32 }, (_, channel) => channel & ~1);
  const { factors } = chooseSmoothing(multiplied, [{ inputs, tuned: inputs, weights: matrix(noise(7)(16 * 32), 32) }], columnSizes(inputs), tied);
  expect(new Set(factors).size).toBeGreaterThan(1);
  for (const [channel, to] of tied.entries()) expect(at(factors, channel)).toBe(at(factors, to));
});
