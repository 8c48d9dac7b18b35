/**
 * The pod against its own kernels called by a plain function: what actors, rings and threads cost.
 * @module
 */
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { loadBareLoop } from './bare-loop.ts';
import { BareLoopPair } from './bare-loop-pair.ts';
import { atLeast } from './fabric-report.ts';
import { machine, median, printTable, writeResults } from './harness.ts';
import { promptsOf } from './prompts.ts';

const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 128);
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 9);
/**
 * V8 goes on optimising the pod's JavaScript in the background, on the same two cores; the bare loop, nearly all WebAssembly, is warm at once. Measured is what comes
 * after: V8's helper threads took 65, 20, 13, 8 and 9 ms of a round after 20, 40, 60, 80 and 100 rounds of a quarter of a second.
 */
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 25_000);
const ONLY = process.env['BENCH_ONLY'];

/** Tokens a second of the pod, streaming to as many readers; checks that they are the bare loop's tokens. */
async function podRate(pod: Pod, prompts: number[][], expected: number[][]): Promise<number> {
  const start = performance.now();
  await Promise.all(
    prompts.map(async (prompt, index) => {
      const ids: number[] = [];
      for await (const chunk of pod.generate(prompt, { max_tokens: TOKENS, temperature: 0, ignore_eos: true })) ids.push(...chunk.token_ids);
      if (ids.join() !== expected[index]?.join()) throw new Error(`the pod's tokens of prompt ${index} are not the bare loop's`);
    }),
  );
  return (prompts.length * TOKENS * 1000) / (performance.now() - start);
}

type Row = { pod: string; requests: number; against: string; bare: number; rate: number; ratio: number; goal: number };

/** What the two loops side by side are too: each with all experts, and nothing to ask of the other. */
const EACH_WITH_ALL = 'mixed:colocated=2xdp1';

const cases: { options: PodOptions; requests: number; sideBySide: boolean; goal: number }[] = [
  { options: { npus: 1, workers: 1 }, requests: 16, sideBySide: false, goal: 0.85 },
  { options: { npus: 1, workers: 1 }, requests: 32, sideBySide: false, goal: 0.85 },
  { options: { npus: 1, workers: 1 }, requests: 1, sideBySide: false, goal: 0.6 },
  { options: { npus: 2, workers: 2 }, requests: 16, sideBySide: true, goal: 0.85 },
  { options: { npus: 2, workers: 2 }, requests: 32, sideBySide: true, goal: 0.85 },
  { options: { topology: EACH_WITH_ALL, workers: 2 }, requests: 16, sideBySide: true, goal: 0.85 },
  { options: { topology: EACH_WITH_ALL, workers: 2 }, requests: 32, sideBySide: true, goal: 0.85 },
  { options: { npus: 8, workers: 1 }, requests: 16, sideBySide: false, goal: 0.7 },
  { options: { npus: 8, workers: 1 }, requests: 1, sideBySide: false, goal: 0.45 },
  { options: { npus: 8, workers: 2 }, requests: 16, sideBySide: true, goal: 0.65 },
];

const bare = await loadBareLoop();
const expected = bare.generate(promptsOf(32), TOKENS);
await using pair = await BareLoopPair.start();

function bareRate(prompts: number[][]): number {
  const start = performance.now();
  bare.generate(prompts, TOKENS);
  return (prompts.length * TOKENS * 1000) / (performance.now() - start);
}

async function sideBySideRate(prompts: number[][]): Promise<number> {
  const start = performance.now();
  await pair.generate(prompts, TOKENS);
  return (prompts.length * TOKENS * 1000) / (performance.now() - start);
}

const rows: Row[] = [];
for (const [index, { options, requests, sideBySide, goal }] of cases.entries()) {
  if (ONLY !== undefined && !ONLY.split(',').includes(String(index))) continue;
  await using pod = await createPod(options);
  const prompts = promptsOf(requests);
  const measures: { bare: number; pod: number }[] = [];
  for (const warm = performance.now(); performance.now() - warm < WARM_MS; ) await podRate(pod, prompts, expected);
  for (let round = 0; round < ROUNDS; round++) {
    const bareNow = sideBySide ? await sideBySideRate(prompts) : bareRate(prompts);
    const podNow = await podRate(pod, prompts, expected);
    measures.push({ bare: bareNow, pod: podNow });
  }
  rows.push({
    pod: `${options.topology ?? `${options.npus} NPU(s)`} on ${options.workers} worker(s)`,
    requests,
    against: sideBySide ? 'two bare loops side by side' : 'bare loop',
    bare: median(measures.map((measure) => measure.bare)),
    rate: median(measures.map((measure) => measure.pod)),
    ratio: median(measures.map((measure) => measure.pod / measure.bare)),
    goal,
  });
}

printTable(
  `Pod against its bare kernels, ${TOKENS} tokens a request, tokens/s (medians of ${ROUNDS} paired rounds; ${machine()['cpu']}, ${machine()['cores']} cores)`,
  ['pod', 'requests', 'against', 'bare', 'pod', 'ratio', 'goal'],
  rows.map(({ pod, requests, against, bare, rate, ratio, goal }) => [
    pod,
    String(requests),
    against,
    bare.toFixed(0),
    rate.toFixed(0),
    ratio.toFixed(2),
    atLeast(goal, ratio),
  ]),
);
if (ONLY === undefined) writeResults('bench/results/pod.json', rows);
