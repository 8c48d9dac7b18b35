import { expect, it } from 'vitest';
import { matrix, rowOf } from '../../src/quantize/matrix.ts';
import { roundPlainly } from '../../src/quantize/round-weights.ts';
import { RowProducts } from '../../src/quantize/row-products.ts';
import { matvecInt8 } from '../golden/reference-int8.ts';
import { expectSameBits, noise } from '../property/kernels-arena.ts';

const products = await RowProducts.create();
const at = (values: ArrayLike<number>, index: number): number => values[index] as number;

/** More rows than one call takes, fewer, one and none; outputs that fill panels and do not. */
const SHAPES = [
  [1_030, 24, 33],
  [7, 16, 16],
  [1, 2, 5],
  [0, 8, 4],
] as const;

it.each(SHAPES)('should multiply %i rows of %i with %i outputs', (rows, columns, outputs) => {
  const [inputs, weights] = [matrix(noise(1)(rows * columns), columns), matrix(noise(2)(outputs * columns), columns)];
  const found = products.outputs(inputs, weights);
  expect(found.length).toBe(rows * outputs);
  for (let row = 0; row < rows; row++)
    for (let output = 0; output < outputs; output++) {
      const expected = rowOf(inputs, row).reduce((sum, x, k) => sum + x * at(weights.values, output * columns + k), 0);
      expect(Math.abs(at(found, row * outputs + output) - expected)).toBeLessThan(1e-4);
    }
});

it.each(SHAPES)('should multiply %i rows of %i with %i outputs in INT8 as the model does, bit for bit', (rows, columns, outputs) => {
  const [inputs, weights] = [matrix(noise(3)(rows * columns), columns), roundPlainly(matrix(noise(4)(outputs * columns), columns))];
  const found = products.quantizedOutputs(inputs, weights);
  for (let row = 0; row < rows; row++)
    expectSameBits(found.slice(row * outputs, (row + 1) * outputs), matvecInt8(rowOf(inputs, row), weights.q, weights.scales, outputs));
});

it.each(SHAPES)('should sum outer products of %i rows of %i', (rows, columns) => {
  const inputs = matrix(noise(5)(rows * columns), columns);
  const sums = products.moments(inputs);
  for (let i = 0; i < columns; i++)
    for (let j = 0; j < columns; j++) {
      let expected = 0;
      for (let row = 0; row < rows; row++) expected += at(inputs.values, row * columns + i) * at(inputs.values, row * columns + j);
      expect(Math.abs(at(sums, i * columns + j) - expected)).toBeLessThan(1e-3);
      expect(at(sums, i * columns + j)).toBe(at(sums, j * columns + i));
    }
});
