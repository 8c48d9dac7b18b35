/**
 * What graph mode saves: decode steps of one NPU, the kernel calls made one by one (`enforce_eager`) and launched as a captured program, in turns.
 * Kernels, rows and positions are the same; sampling is in both. Then whole pods.
 * @module
 */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { areasOfDie } from '../src/flowserve/pod-plan.ts';
import { StepProgram } from '../src/flowserve/steps/step-program.ts';
import { createPod, type Pod } from '../src/index.ts';
import { openCheckpoint } from '../src/model/checkpoint.ts';
import { listModels, resolveModel } from '../src/model/registry.ts';
import { podOptionsSchema } from '../src/options/options.ts';
import { buildMachine } from '../src/platform/build-machine.ts';
import { NO_TERMS } from '../src/protocol/constructors.ts';
import type { StepEntry, StepPlan } from '../src/protocol/steps.ts';
import { colocated } from '../src/protocol/topology.ts';
import { Endpoint } from '../src/xccl/endpoint.ts';
import { Exchange } from '../src/xccl/exchange.ts';
import { machine, median, printTable, writeResults } from './harness.ts';

/** Slices are short and many, so that some are disturbed by nobody. */
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 300);
const SLICE_MS = Number(process.env['BENCH_SLICE_MS'] ?? 1);
/** V8 has compiled all of a step after some hundred, which come first, with one row; then after some tens of each shape. */
const [WARM_CALLS, SHAPE_CALLS] = [400, 20];
const BATCHES = [1, 4, 16, 32];
const PODS = [
  { npus: 1, requests: 1 },
  { npus: 1, requests: 16 },
  { npus: 8, requests: 16 },
];
const [POD_TOKENS, POD_ROUNDS, POD_WARM_MS] = [64, Number(process.env['BENCH_POD_ROUNDS'] ?? 15), Number(process.env['BENCH_WARM_MS'] ?? 6_000)];
/** Tokens that each sequence has when it is decoded. */
const CONTEXT = 128;

const SAMPLING = {
  ...{ temperature: 0, top_p: 1, top_k: 0, min_p: 0, seed: 0, min_tokens: 0, stop_token_ids: [], logprobs: -1, prompt_logprobs: -1 },
  ...{ bias_ids: [], bias_values: [], presence_penalty: 0, frequency_penalty: 0, repetition_penalty: 1 },
};

/** Runs decode steps of `rows` sequences, always the same ones. */
type Decoder = (rows: number) => void;

async function loadDecoder(model: string, enforce_eager: boolean): Promise<Decoder> {
  using checkpoint = openCheckpoint(resolveModel(model));
  const { kv_block_size, ...options } = podOptionsSchema.parse({ enforce_eager });
  const rows_max = Math.max(...BATCHES);
  const blocksOfEach = Math.ceil((CONTEXT + 1) / kv_block_size);
  const built = await buildMachine(
    checkpoint,
    'real',
    { ...options, topology: colocated(1), job_executors: 1, kv_block_size, kv_blocks: rows_max * blocksOfEach, memory_bytes: undefined },
    async () => {},
  );
  const { plan, space, arithmeticOf } = built;
  const forward = arithmeticOf(0);
  if (!('embed' in forward)) throw new Error('no NPU');
  const surroundings = { space, areasOf: (die: number) => areasOfDie(plan, die), arrive: () => {}, now_ms: () => 0 };
  const program = new StepProgram(forward, space, new Exchange(new Endpoint(0, surroundings), forward.layout.row_bytes), () => 0);
  const run = (step: StepPlan): void => {
    program.start(step);
    if (program.poll().state !== 'done') throw new Error('a step of one NPU waits for nobody');
  };
  const token = (slot: number, position: number): number => (slot * 7_919 + position * 104_729) % plan.config.vocabSize;
  for (let slot = 0; slot < rows_max; slot++) {
    const prompt = Array.from({ length: CONTEXT }, (_, position) => token(slot, position));
    const blocks = Array.from({ length: blocksOfEach }, (_, block) => slot * blocksOfEach + block);
    const attach = {
      request: slot,
      choice: 0,
      prompt,
      max_tokens: 1,
      sampling: SAMPLING,
      ...NO_TERMS,
    };
    const entry = {
      slot,
      start: 0,
      tokens: prompt,
      first_block: 0,
      blocks,
      shared: 0,
      generated: 0,
      samples: true,
      drafts: 0,
      foresees: -1,
      attach,
      output: [],
    };
    run({ step: 1, after: 0, detach: [], entries: [entry] });
  }
  const none = { first_block: 0, blocks: [], shared: 0, generated: 1, samples: true, drafts: 0, foresees: -1, attach: null, output: [] };
  const plans = new Map(
    BATCHES.map((rows) => {
      const entries = Array.from({ length: rows }, (_, slot): StepEntry => ({ slot, start: CONTEXT, tokens: [token(slot, CONTEXT)], ...none }));
      return [rows, { step: 2, after: 1, detach: [], entries }];
    }),
  );
  return (rows) => run(plans.get(rows) as StepPlan);
}

/** Microseconds of a call, by contestant and round. */
function takeTurns(...runs: readonly (() => void)[]): number[][] {
  const timed = (run: () => void, calls: number): number => {
    const start = performance.now();
    for (let call = 0; call < calls; call++) run();
    return ((performance.now() - start) * 1000) / calls;
  };
  const calls = runs.map((run) => Math.ceil((SLICE_MS * 1000) / timed(run, SHAPE_CALLS)));
  const times: number[][] = runs.map(() => []);
  for (let round = 0; round < ROUNDS; round++) for (const [index, run] of runs.entries()) times[index]?.push(timed(run, calls[index] as number));
  return times;
}

const tests = fileURLToPath(new URL('../test/models', import.meta.url));
const models = [...listModels(), ...(existsSync(tests) ? readdirSync(tests).map((name) => join(tests, name)) : [])];

const rows: { model: string; rows: number; eager_us: number; graph_us: number }[] = [];
for (const model of models) {
  const [eager, graph] = [await loadDecoder(model, true), await loadDecoder(model, false)];
  for (let call = 0; call < WARM_CALLS; call++) for (const decode of [eager, graph]) decode(1);
  for (const batch of BATCHES) {
    const [before = [], after = []] = takeTurns(
      () => eager(batch),
      () => graph(batch),
    );
    const name = model.split('/').at(-1) ?? model;
    rows.push({ model: name, rows: batch, eager_us: Math.min(...before), graph_us: Math.min(...after) });
  }
}

/** Tokens a second of a pod, all requests at once. */
async function rate(pod: Pod, requests: number): Promise<number> {
  const start = performance.now();
  const prompts = Array.from({ length: requests }, (_, index) => [1, 86, 1461, 613, 265, index]);
  await Promise.all(prompts.map((prompt) => pod.complete(prompt, { max_tokens: POD_TOKENS, temperature: 0, ignore_eos: true })));
  return (requests * POD_TOKENS * 1000) / (performance.now() - start);
}

const pods: { npus: number; requests: number; eager: number; graph: number; ratio: number }[] = [];
for (const { npus, requests } of PODS) {
  await using eager = await createPod({ npus, enforce_eager: true });
  await using graph = await createPod({ npus });
  const rates: { eager: number; graph: number }[] = [];
  for (const warm = performance.now(); performance.now() - warm < POD_WARM_MS; ) for (const pod of [eager, graph]) await rate(pod, requests);
  for (let round = 0; round < POD_ROUNDS; round++) rates.push({ eager: await rate(eager, requests), graph: await rate(graph, requests) });
  const middle = (of: (rates: { eager: number; graph: number }) => number): number => median(rates.map(of));
  pods.push({ npus, requests, eager: middle(({ eager }) => eager), graph: middle(({ graph }) => graph), ratio: middle(({ eager, graph }) => graph / eager) });
}

printTable(
  `A decode step of one NPU, µs (best of ${ROUNDS} slices of ${SLICE_MS} ms, in turns; ${machine()['cpu']})`,
  ['model', 'rows', 'eager', 'graph', 'saved'],
  rows.map(({ model, rows, eager_us, graph_us }) => [
    model,
    String(rows),
    eager_us.toFixed(1),
    graph_us.toFixed(1),
    `${(100 * (1 - graph_us / eager_us)).toFixed(1)} %`,
  ]),
);
printTable(
  `A pod on one worker, tokens/s (medians of ${POD_ROUNDS} paired rounds)`,
  ['NPUs', 'requests', 'eager', 'graph', 'ratio'],
  pods.map(({ npus, requests, eager, graph, ratio }) => [String(npus), String(requests), eager.toFixed(0), graph.toFixed(0), ratio.toFixed(3)]),
);
writeResults('bench/results/graph.json', { steps: rows, pods });
