/** The routing of real runs: each token once, with the experts that the pod counted; and recording changes no token. */
import { afterAll, describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import { KernelRecomputation } from '../../src/trace/recompute.ts';
import { replayTrace } from '../../src/trace/replay-trace.ts';
import type { RoutedStep } from '../../src/trace/routing-record.ts';
import { type RoutingHeader, RoutingTraceReader } from '../../src/trace/routing-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { openRig } from './rig.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const PROMPTS = ['Once upon a time there was a king', 'The wolf', 'A king', 'In the forest'];
const OPTIONS = { temperature: 0, ignore_eos: true, max_tokens: 12 };

type Routing = { readonly header: RoutingHeader; readonly steps: readonly RoutedStep[] };

function readRouting(path: string): Routing {
  using reader = RoutingTraceReader.open(path);
  const steps = reader.steps();
  const all = [...steps];
  expect([steps.damage, steps.stopped]).toEqual([null, null]);
  return { header: reader.header, steps: all };
}

type Run = Routing & { readonly tokens: readonly (readonly number[])[]; readonly prompts: readonly number[]; readonly loads: readonly (readonly number[])[] };

let files = 0;
async function recordedRun(options: PodOptions, prompts = PROMPTS): Promise<Run> {
  const path = folder.file(`${files++}.routing`);
  await using pod = await createPod({ prefix_caching: false, ...options, record_routing: path });
  const completions = await Promise.all(prompts.map((prompt) => pod.complete(prompt, OPTIONS)));
  const { expert_loads } = await pod.stats();
  await pod.close();
  const tokens = completions.flatMap(({ choices }) => choices.map(({ token_ids }) => token_ids));
  return { ...readRouting(path), tokens, prompts: completions.map(({ usage }) => usage.prompt_tokens), loads: expert_loads };
}

function loadsOf({ header, steps }: Routing): number[][] {
  const loads = header.layers.map(() => new Array<number>(header.experts).fill(0));
  for (const { experts } of steps) {
    const ofLayer = experts.length / header.layers.length;
    experts.forEach((expert, pair) => {
      const layer = loads[Math.floor(pair / ofLayer)] as number[];
      layer[expert] = (layer[expert] as number) + 1;
    });
  }
  return loads;
}

/** By `request position`: phase, experts and weights of all layers. */
function byPosition({ header: { layers, top_k }, steps }: Routing): Map<string, { phase: string; experts: number[]; weights: number[] }> {
  const rows = new Map<string, { phase: string; experts: number[]; weights: number[] }>();
  for (const { spans, experts, weights } of steps) {
    const all = spans.reduce((sum, span) => sum + span.rows, 0);
    let row = 0;
    for (const span of spans)
      for (let index = 0; index < span.rows; index++, row++) {
        const pairs = layers.flatMap((_, layer) => Array.from({ length: top_k }, (_, slot) => (layer * all + row) * top_k + slot));
        const key = `${span.request} ${span.choice} ${span.position + index}`;
        expect(rows.has(key), `${key} is there twice`).toBe(false);
        rows.set(key, { phase: span.phase, experts: pairs.map((pair) => experts[pair] as number), weights: pairs.map((pair) => weights[pair] as number) });
      }
  }
  return rows;
}

const PODS: readonly PodOptions[] = [
  { npus: 2, workers: 2 },
  { clock: 'virtual', npus: 1 },
  { clock: 'virtual', npus: 2, workers: 2, enforce_eager: true },
  { clock: 'virtual', kernels: 'hash', topology: 'pd:prefill=1xdp1tp3,decode=1xdp2', seed: 3 },
  { clock: 'virtual', kernels: 'hash', topology: 'colocated:dp=4,oproj=2', max_batch_tokens: 16, seed: 3 },
  { clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=2x2,experts=3', seed: 3 },
  { clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=2x2,experts=3', schedule: 'domains', max_batch_tokens: 16, seed: 3 },
];

describe('a run whose routing is recorded', () => {
  /** By kernels: tokens, and rows in some order, which must be the same whatever computed them. */
  const before = new Map<string, unknown>();

  it.each(cases(PODS))('should have each token in it once, with the experts that were counted, bit for bit as in any other pod: %o', async (options) => {
    const run = await recordedRun(options);
    expect(loadsOf(run)).toEqual(run.loads);
    const rows = byPosition(run);
    // The last token of each is sampled, and not computed.
    const computed = run.prompts.reduce((sum, prompt) => sum + prompt + OPTIONS.max_tokens - 1, 0);
    expect(rows.size).toBe(computed);
    const decoded = [...rows.values()].filter(({ phase }) => phase === 'decode').length;
    expect(decoded).toBe(PROMPTS.length * (OPTIONS.max_tokens - 1));
    const { top_k } = run.header;
    for (const { experts, weights } of rows.values()) {
      for (let at = 0; at < experts.length; at += top_k) {
        const ofLayer = experts.slice(at, at + top_k);
        expect(ofLayer).toEqual([...new Set(ofLayer)].sort((a, b) => a - b));
      }
      expect(weights.every((weight) => weight > 0)).toBe(true);
    }
    const same = { tokens: run.tokens, rows: [...rows.values()].map((row) => JSON.stringify(row)).sort() };
    const kernels = options.kernels ?? 'real';
    expect(same).toEqual(before.get(kernels) ?? same);
    before.set(kernels, same);
  });

  it('should have the tokens of one that is not', async () => {
    await using pod = await createPod({ clock: 'virtual' });
    const completions = await Promise.all(PROMPTS.map((prompt) => pod.complete(prompt, OPTIONS)));
    expect(before.get('real')).toMatchObject({ tokens: completions.flatMap(({ choices }) => choices.map(({ token_ids }) => token_ids)) });
  });

  it('should be whole where a worker dies: what its successor computes is in it too', async () => {
    const path = folder.file('killed.routing');
    const rig = await openRig({ npus: 2, workers: 2, record_routing: path });
    const running = PROMPTS.map((prompt) => rig.pod.complete(prompt, { ...OPTIONS, max_tokens: 60 }));
    await Promise.race(running.map((call) => call));
    rig.killWorker(1);
    await Promise.all(running);
    await rig.pod.complete('And then', { ...OPTIONS, data_parallel_rank: 1 });
    await rig.pod.close();
    const { steps } = readRouting(path);
    // Its successor's steps are counted anew.
    const ofLost = steps.filter(({ npu }) => npu === 1).map(({ step }) => step);
    expect(ofLost.filter((step, index) => index > 0 && step <= (ofLost[index - 1] as number)).length).toBeLessThanOrEqual(1);
    expect(new Set(steps.map(({ npu }) => npu))).toEqual(new Set([0, 1]));
  });

  it('should be had afterwards from the trace of a run', async () => {
    const [trace, beside, afterwards] = ['run.trace', 'beside.routing', 'afterwards.routing'].map((name) => folder.file(name)) as [string, string, string];
    const pod = await createPod({ clock: 'virtual', kernels: 'hash', npus: 2, seed: 9, record: trace, record_routing: beside });
    await Promise.all(PROMPTS.map((prompt) => pod.complete(prompt, OPTIONS)));
    await pod.close();
    using reader = TraceReader.open(trace);
    const header = parseRunHeader(reader.header, trace);
    const recompute = await KernelRecomputation.create(header, undefined, undefined, afterwards);
    const { outcome } = await replayTrace(reader, header, { recompute });
    recompute.closeRouting(outcome === 'reproduced');
    const [then, now] = [readRouting(beside), readRouting(afterwards)];
    expect(now.header).toEqual(then.header);
    const timeless = ({ steps }: Routing): unknown => steps.map(({ time_us: _, ...step }) => step);
    expect(timeless(now)).toEqual(timeless(then));
    expect(now.steps.at(-1)?.time_us).toBeGreaterThan(0);
  });

  it('should have the tokens that decode draws as such where it begins with some of the prompt again, for MTP layers', async () => {
    const path = folder.file('drafted.routing');
    const speculative_config = { method: 'mtp', num_speculative_tokens: 2, adaptive: false } as const;
    const drafting = { speculative_config, hash_foreseeable: 0.6, async_scheduling: false, record_routing: path };
    await using pod = await createPod({ clock: 'virtual', kernels: 'hash', topology: 'pd:prefill=1,decode=1', seed: 3, ...drafting });
    const { usage } = await pod.complete(PROMPTS[0] ?? '', OPTIONS);
    const { task_executors } = await pod.experts();
    await pod.close();
    const { header, steps } = readRouting(path);
    const spans = steps.flatMap(({ spans }) => spans);
    const rowsOf = (phase: string): number => spans.filter((span) => span.phase === phase).reduce((sum, { rows }) => sum + rows, 0);
    expect(rowsOf('prefill')).toBe(usage.prompt_tokens + 1);
    expect(usage.drafted?.accepted_prediction_tokens).toBeGreaterThan(0);
    expect(rowsOf('decode')).toBe(OPTIONS.max_tokens - 1 + (usage.drafted?.rejected_prediction_tokens ?? 0));
    for (const { phase, position, rows } of spans)
      expect(phase === 'prefill' ? position + rows <= usage.prompt_tokens : position >= usage.prompt_tokens).toBe(true);
    // The MTP layer, which is in no routing trace, is named.
    for (const { layers } of task_executors)
      expect(layers.map(({ layer, mtp }) => [layer, mtp])).toEqual([...header.layers.map((layer) => [layer, undefined]), [5, 1]]);
  });

  it('should refuse a file that exists', async () => {
    const path = folder.file('twice.routing');
    const options: PodOptions = { clock: 'virtual', kernels: 'hash', record_routing: path };
    await (await createPod(options)).close();
    await expect(createPod(options)).rejects.toMatchObject({ code: 'trace_not_written' });
  });
});
