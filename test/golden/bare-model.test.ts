/** The forward pass alone, one NPU and no actors, against the reference implementations. */
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import { LOGIT_ROWS_MAX } from '../../src/flowserve/layouts/scratch-layout.ts';
import type { StepProgram } from '../../src/flowserve/steps/step-program.ts';
import { agreedTokens, casesOf, folderOf, lastLogitsOf, MODELS, nameOf, TOLERANCE } from './goldens.ts';
import { type BareModel, generateGreedily, loadBareModel } from './one-npu.ts';

/** What the model thought about each prompt position: its logits, and which experts it chose in each MoE layer. */
function readThoughts(model: BareModel, prompt: readonly number[], chunk: number): { logits: Float32Array[]; experts: Map<number, number[][]> } {
  const [program] = model.programs as readonly [StepProgram];
  const { forward } = program;
  const { vocabSize, moe } = forward.config;
  const floats = model.space.floatsOf(forward.layout.base);
  const words = model.space.wordsOf(forward.layout.base);
  const logits: Float32Array[] = [];
  const experts = new Map<number, number[][]>();
  const gate = forward.gate.bind(forward);
  forward.gate = (layer, rows) => {
    gate(layer, rows);
    const chosen = offsetOf(forward.layout.scratch.experts) / 4;
    const known = experts.get(layer) ?? [];
    for (let row = 0; row < rows; row++) known.push([...words.subarray(chosen + row * moe.topK, chosen + (row + 1) * moe.topK)].sort((a, b) => a - b));
    experts.set(layer, known);
  };
  const onStep = (_start: number, rows: number): void => {
    for (let from = 0; from < rows; from += LOGIT_ROWS_MAX) {
      const count = Math.min(LOGIT_ROWS_MAX, rows - from);
      forward.head((row) => from + row, count);
      for (let row = 0; row < count; row++) logits.push(floats.slice(forward.at.logits / 4 + row * vocabSize, forward.at.logits / 4 + (row + 1) * vocabSize));
    }
  };
  // Who asks for their log-probabilities has all rows computed to the end.
  generateGreedily(model, prompt, 1, { chunk, onStep, sampling: { prompt_logprobs: 0 } });
  forward.gate = gate;
  return { logits, experts };
}

const argmax = (values: Float32Array): number => values.reduce((best, value, index) => (value > (values[best] as number) ? index : best), 0);

describe.each(MODELS)('the goldens of %s hold on the bare model', async (name) => {
  const model = await loadBareModel(folderOf(name));
  // Whose methods are called in every step.
  const eager = await loadBareModel(folderOf(name), { enforce_eager: true });
  const cases = casesOf(name).map((golden) => ({ golden, name: nameOf(golden) }));

  it.each(cases)('logits of the last position within 1e-3, their mean well below: $name', ({ golden }) => {
    const { logits } = readThoughts(eager, golden.token_ids, 256);
    const expected = lastLogitsOf(golden);
    const differences = [...expected].map((value, index) => Math.abs(value - (logits.at(-1)?.[index] ?? Number.NaN)));
    expect(Math.max(...differences)).toBeLessThan(TOLERANCE);
    expect(differences.reduce((sum, difference) => sum + difference, 0) / differences.length).toBeLessThan(TOLERANCE / 10);
  });

  it.each(cases)('argmax of every position, in one chunk and in chunks of 5: $name', ({ golden }) => {
    for (const chunk of [256, 5]) expect(readThoughts(eager, golden.token_ids, chunk).logits.map(argmax)).toEqual(golden.argmax_per_position);
  });

  it.each(cases)('routed experts of every MoE layer and position: $name', ({ golden }) => {
    const { experts } = readThoughts(eager, golden.token_ids, 7);
    expect([...experts.keys()].map(String)).toEqual(Object.keys(golden.routed_experts));
    for (const [layer, chosen] of experts) expect(chosen, `layer ${layer}`).toEqual(golden.routed_experts[layer]);
  });

  it.each(cases)('the greedy continuation, token for token, logprobs within 1e-3: $name', ({ golden }) => {
    const outcomes = generateGreedily(model, golden.token_ids, golden.greedy_ids.length);
    const ids = outcomes.map(({ token }) => token);
    const agreed = agreedTokens(golden, ids);
    expect(agreed, `${ids} is not ${golden.greedy_ids}`).toBeGreaterThan(0);
    for (let index = 0; index < agreed; index++)
      expect(Math.abs((outcomes[index]?.logprobs?.logprob ?? Number.NaN) - (golden.greedy_logprobs[index] as number))).toBeLessThan(TOLERANCE);
  });
});
