/** Warm-up: what an NPU computes before the first request, and has room for. */
import { expect, it } from 'vitest';
import type { Arithmetic } from '../../../src/flowserve/forward/arithmetic.ts';
import type { StepProgram } from '../../../src/flowserve/steps/step-program.ts';
import { type WarmShape, warmUp } from '../../../src/flowserve/steps/warm-up.ts';

const ROOM = { blocks: 64, rows_max: 64, maxPositions: 512 };

it.each([
  ['nothing', {}, ['0+1', '224+1', '0+8', '0+32', '192+32']],
  ['the cache', { blocks: 1 }, ['0+1', '0+8']],
  ['the model', { maxPositions: 224 }, ['0+1', '0+8', '0+32', '192+32']],
  ['a step', { rows_max: 8 }, ['0+1', '224+1', '0+8']],
])('leaves out what %s is too small for, and measures the second time of each of the others', (_, small, expected) => {
  const { blocks, rows_max, maxPositions } = { ...ROOM, ...small };
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
  expect(rehearsed.map(({ from, tokens }) => `${from}+${tokens}`)).toEqual(expected.flatMap((shape) => [shape, shape]));
  expect(samples.map(({ us }) => us)).toEqual(expected.map(() => 10));
});
