/** Warm-up: what an NPU computes before the first request, and has room for. */
import { expect, it } from 'vitest';
import type { Arithmetic } from '../../src/flowserve/arithmetic.ts';
import type { StepProgram } from '../../src/flowserve/step-program.ts';
import { WARM_SHAPES, type WarmShape, warmUp } from '../../src/flowserve/warm-up.ts';

it.each([
  ['the cache', { blocks: 4, rows_max: 64, maxPositions: 512 }],
  ['the model', { blocks: 64, rows_max: 64, maxPositions: 64 }],
  ['a step', { blocks: 64, rows_max: 8, maxPositions: 512 }],
])('leaves out what %s is too small for, and measures the second time of each of the others', (_, { blocks, rows_max, maxPositions }) => {
  const rehearsed: WarmShape[] = [];
  let now_us = 0;
  const program = {
    forward: { layout: { kv: { blocks, block_size: 16 }, rows_max }, config: { maxPositions } },
    rehearse: (shape: WarmShape) => {
      // The first time takes longer.
      now_us += rehearsed.at(-1) === shape ? 10 : 1_000;
      rehearsed.push(shape);
    },
  } as unknown as StepProgram<Arithmetic>;
  const samples = warmUp(program, () => now_us);
  const room = Math.min(16 * blocks, maxPositions);
  const fitting = WARM_SHAPES.filter(({ from, tokens }) => from + tokens <= room && tokens <= rows_max);
  expect(fitting.length).toBeGreaterThan(0);
  expect(fitting.length).toBeLessThan(WARM_SHAPES.length);
  expect(rehearsed).toEqual(fitting.flatMap((shape) => [shape, shape]));
  expect(samples.map(({ tokens, us }) => [tokens, us])).toEqual(fitting.map(({ tokens }) => [tokens, 10]));
});
