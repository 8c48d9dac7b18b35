/** Runs that draft: what was drafted, and how far steps got by it, is found again. */
import { afterAll, describe, expect, it } from 'vitest';
import type { PodOptions } from '../../src/index.ts';
import { actsOf } from '../../src/trace/acts.ts';
import { KernelRecomputation } from '../../src/trace/recompute.ts';
import { replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { twoMtpLayers } from '../model/two-mtp-layers.ts';
import { cases } from '../property-runs.ts';
import { withPod } from '../system/pods.ts';
import { traceFolder } from './files.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const PROMPT = 'a fox, a wolf, a fox, a wolf, a fox,';
const LOOKUP = { method: 'ngram', num_speculative_tokens: 4, prompt_lookup_min: 1, prompt_lookup_max: 3 } as const;
const MTP = { method: 'mtp', num_speculative_tokens: 3, adaptive: false } as const;

const RUNS: [name: string, options: PodOptions][] = [
  ['prompt lookup, live', { clock: 'live', speculative_config: LOOKUP }],
  ['prompt lookup on two ranks', { clock: 'virtual', topology: 'colocated:dp=1,tp=2', workers: 2, speculative_config: LOOKUP }],
  ['two MTP layers', { clock: 'virtual', kernels: 'hash', hash_foreseeable: 0.6, model: twoMtpLayers(folder.file('two')), speculative_config: MTP }],
];

describe('a run that drafts', () => {
  it.each(cases(RUNS))('should be computed again without a difference, drafts and all: %s', async (name, options) => {
    const path = folder.file(`${name}.trace`);
    await withPod({ ...options, record: path }, (pod) =>
      Promise.all([0, 1, 2].map((seed) => pod.complete(PROMPT, { seed, temperature: seed / 2, max_tokens: 24, ignore_eos: true }))),
    );
    using reader = TraceReader.open(path);
    const done = [...actsOf(reader)].flatMap(({ act: { message } }) => (message?.type === 'LAUNCH_DONE' ? [message] : []));
    expect(done.some(({ outcomes }) => outcomes.some((outcome) => outcome.drafts.length > 0))).toBe(true);
    const header = parseRunHeader(reader.header, path);
    const report = await replayTrace(reader, header, { recompute: await KernelRecomputation.create(header, options.model) });
    expect(report).toMatchObject({ outcome: 'reproduced', launches: done.length, divergence: null, differences: [] });
  });
});
