/**
 * What an NPU that always has work does between two decode steps: with steps planned ahead (`async_scheduling`), and planned when the one before has come
 * back. A worker is its NPUs' host and their processor at once: what it computes for peers and its other NPUs between two steps of one is no gap, what its actors
 * do is. The two pods take turns of several rounds, of which the first does not count.
 *
 * @example
 * node bench/step-gap.ts          # writes bench/results/step-gap.json
 * BENCH_ONLY=1/1/16 node bench/step-gap.ts   # one NPU on one worker, 16 requests
 * @module
 */
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { atMost, digits, resultsPath } from './fabric-report.ts';
import { median, printTable, writeResults } from './harness.ts';

const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 96);
const TURNS = Number(process.env['BENCH_ROUNDS'] ?? 7);
/** What runs once a step comes to V8's last optimiser after so many of them, however long they take: after a third of it the gap is a quarter longer (docs/performance.md). */
const WARM_STEPS = Number(process.env['BENCH_WARM_STEPS'] ?? 20_000);
/** Of a turn, behind one that does not count: it begins with caches that the other pod's turn has emptied, and a round of one request is over in 30 ms. */
const ROUNDS_PER_TURN = 4;
const GOAL = 0.05;
/** NPUs, workers and requests of one row. */
const ONLY = process.env['BENCH_ONLY'];

type Round = { readonly step_us: number; readonly gap_us: number; readonly rate: number };

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

async function measure(pod: Pod, requests: number): Promise<Round> {
  const before = (await pod.stats()).npus;
  const start = performance.now();
  await Promise.all(
    Array.from({ length: requests }, (_, index) =>
      pod.complete([1, 86, 1461, 613, 265, 531 + index], { max_tokens: TOKENS, temperature: 0, ignore_eos: true }),
    ),
  );
  const took_ms = performance.now() - start;
  const after = (await pod.stats()).npus;
  const difference = (of: (npu: (typeof after)[number]) => number): number => sumOf(after.map(of)) - sumOf(before.map(of));
  return {
    step_us: difference((npu) => npu.decode_steps_us_sum) / difference((npu) => sumOf(npu.decode_steps_us)),
    gap_us: difference((npu) => npu.step_gaps_us_sum) / difference((npu) => sumOf(npu.step_gaps_us)),
    rate: (requests * TOKENS * 1000) / took_ms,
  };
}

/** With few requests for the most part: their steps are short. */
async function warm(pod: Pod, requests: number): Promise<void> {
  const { npus } = await pod.stats();
  // Not of all: who shares a beginning may all run on a few of them.
  for (let most = 0; most < WARM_STEPS; most = Math.max(...(await pod.stats()).npus.map(({ steps }) => steps))) {
    for (let turn = 0; turn < 6; turn++) await measure(pod, npus.length);
    await measure(pod, requests);
  }
}

const CASES: readonly { readonly options: PodOptions; readonly requests: number }[] = [
  { options: { npus: 1, workers: 1 }, requests: 1 },
  { options: { npus: 1, workers: 1 }, requests: 16 },
  { options: { npus: 2, workers: 2 }, requests: 16 },
  { options: { npus: 8, workers: 2 }, requests: 32 },
];

const rows: object[] = [];
const table: string[][] = [];
for (const { options, requests } of CASES) {
  if (ONLY !== undefined && ONLY !== `${options.npus}/${options.workers}/${requests}`) continue;
  await using ahead = await createPod({ ...options, async_scheduling: true });
  await using after = await createPod({ ...options, async_scheduling: false });
  const pods = { 'planned ahead': ahead, 'planned after': after };
  for (const pod of Object.values(pods)) await warm(pod, requests);
  const rounds = Object.entries(pods).map(([name, pod]) => ({ name, pod, measured: [] as Round[] }));
  for (let turn = 0; turn < TURNS; turn++)
    for (const { pod, measured } of rounds) {
      await measure(pod, requests);
      for (let round = 0; round < ROUNDS_PER_TURN; round++) measured.push(await measure(pod, requests));
    }
  for (const { name, measured } of rounds) {
    const of = (figure: keyof Round): number => median(measured.map((round) => round[figure]));
    const share = median(measured.map(({ gap_us, step_us }) => gap_us / step_us));
    rows.push({ ...options, requests, scheduling: name, step_us: of('step_us'), gap_us: of('gap_us'), share, goal: GOAL, rate: of('rate') });
    table.push([
      `${options.npus} on ${options.workers}`,
      String(requests),
      name,
      digits(of('step_us')),
      digits(of('gap_us')),
      `${(100 * share).toFixed(1)} %`,
      atMost(100 * GOAL, 100 * share),
      of('rate').toFixed(0),
    ]);
  }
}
printTable(
  'Between two decode steps of an NPU that always has work (medians)',
  ['NPUs on workers', 'requests', 'steps are', 'step, µs', 'gap, µs', 'gap / step', 'goal, %', 'tokens/s'],
  table,
);
if (ONLY === undefined) writeResults(resultsPath('step-gap'), rows);
