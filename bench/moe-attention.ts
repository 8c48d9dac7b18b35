/**
 * Attention and experts on different NPUs against both on each, on the same two workers. Pods take turns, round after round, so that a noisy machine disturbs all
 * alike; what counts are ratios within one round.
 * @module
 */
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { machine, median, printTable, writeResults } from './harness.ts';

const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 128);
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 9);
/** Until V8 has optimised the pod's JavaScript (bench/pod.ts). */
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 6_000);
const GOAL = 0.7;

const WORKERS = { workers: 2 } as const;
const COLOCATED: PodOptions = { ...WORKERS, topology: 'colocated:dp=2' };
const SPLIT: readonly PodOptions[] = [
  { ...WORKERS, topology: 'moe-attention:domains=1x2,experts=2' },
  { ...WORKERS, topology: 'moe-attention:domains=1x2,experts=2,shared=attention' },
  { ...WORKERS, topology: 'moe-attention:domains=1x1,experts=1' },
  { ...WORKERS, topology: 'moe-attention:domains=1x2,experts=2', schedule: 'domains' },
  { ...WORKERS, topology: 'moe-attention:domains=1x2,experts=2', micro_batches: 2 },
  { ...WORKERS, topology: 'moe-attention:domains=1x1,experts=1', micro_batches: 2 },
  { ...WORKERS, topology: 'moe-attention:domains=2x1,experts=2', schedule: 'domains' },
];
const nameOf = ({ topology, schedule = 'dataflow', micro_batches = schedule === 'domains' ? 2 : 1 }: PodOptions): string =>
  `${topology}, ${schedule}, ${micro_batches === 1 ? '1 batch' : '2 micro-batches'}`;
const CONCURRENT = [16, 32];

const promptOf = (index: number): number[] => [1, 86, 1461, 613, 265, 531, 460, 315 + index, 265, 504, 454, 358 + index];

/** Tokens a second, and the tokens. */
async function serve(pod: Pod, requests: number): Promise<{ readonly rate: number; readonly tokens: string }> {
  const start = performance.now();
  const calls = Array.from({ length: requests }, (_, index) => pod.complete(promptOf(index), { max_tokens: TOKENS, temperature: 0, ignore_eos: true }));
  const ended = await Promise.all(calls);
  const rate = (requests * TOKENS * 1000) / (performance.now() - start);
  return { rate, tokens: JSON.stringify(ended.map(({ choices }) => choices[0]?.token_ids)) };
}

const asked = process.env['BENCH_ONLY'];
const candidates = SPLIT.filter((_, index) => asked === undefined || asked.split(',').includes(String(index)));
const rows: { topology: string; requests: number; colocated: number; rate: number; ratio: number }[] = [];
await using together = await createPod(COLOCATED);
for (const options of candidates) {
  await using apart = await createPod(options);
  for (const requests of CONCURRENT) {
    for (const warm = performance.now(); performance.now() - warm < WARM_MS; ) for (const pod of [together, apart]) await serve(pod, requests);
    const measures: { colocated: number; rate: number }[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const [one, other] = [await serve(together, requests), await serve(apart, requests)];
      if (one.tokens !== other.tokens) throw new Error(`${nameOf(options)} generates other tokens than ${COLOCATED.topology}`);
      measures.push({ colocated: one.rate, rate: other.rate });
    }
    rows.push({
      topology: nameOf(options),
      requests,
      colocated: median(measures.map(({ colocated }) => colocated)),
      rate: median(measures.map(({ rate }) => rate)),
      ratio: median(measures.map(({ rate, colocated }) => rate / colocated)),
    });
  }
}

printTable(
  `Attention and experts apart against ${COLOCATED.topology}, 2 workers, ${TOKENS} tokens a request, tokens/s (medians of ${ROUNDS} rounds; ${machine()['cpu']}, ${machine()['cores']} cores)`,
  ['topology', 'requests', 'colocated', 'apart', 'ratio', 'goal'],
  rows.map(({ topology, requests, colocated, rate, ratio }) => [
    topology,
    String(requests),
    colocated.toFixed(0),
    rate.toFixed(0),
    ratio.toFixed(2),
    `≥ ${GOAL}`,
  ]),
);
if (asked === undefined) writeResults('bench/results/moe-attention.json', rows);
