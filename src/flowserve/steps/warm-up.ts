/**
 * A few steps before the first request: kernels and the code around them are compiled by then, and what they take is measured (xDeepServe §4.4: a first
 * step costs many times another). From these samples a leader learns what prefill costs (actors/policies/step-cost.ts).
 * @module
 */
import type { StepSample } from '../../protocol/balancing.ts';
import type { Arithmetic } from '../forward/arithmetic.ts';
import type { StepProgram } from './step-program.ts';

/** Steps of one sequence: `tokens` that follow `from` others. Enough to tell what a step, a token and a position cost; some 10 ms with the shipped model. */
export const WARM_SHAPES = [
  { from: 0, tokens: 1 },
  { from: 224, tokens: 1 },
  { from: 0, tokens: 8 },
  { from: 0, tokens: 32 },
  { from: 192, tokens: 32 },
] as const;

export type WarmShape = { readonly from: number; readonly tokens: number };

export const attendedBy = ({ from, tokens }: WarmShape): number => tokens * from + (tokens * (tokens + 1)) / 2;

/** Each shape twice: the first warms, the second is measured. Shapes that the NPU has no room for are left out. */
export function warmUp(program: StepProgram<Arithmetic>, now_us: () => number): StepSample[] {
  const { layout, config } = program.forward;
  const positions_max = Math.min(config.maxPositions, layout.kv.blocks * layout.kv.block_size);
  return WARM_SHAPES.filter(({ from, tokens }) => tokens <= layout.rows_max && from + tokens <= positions_max).map((shape) => {
    program.rehearse(shape);
    const began_us = now_us();
    program.rehearse(shape);
    return { tokens: shape.tokens, attended: attendedBy(shape), us: now_us() - began_us };
  });
}
