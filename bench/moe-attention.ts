/**
 * Attention and experts on different NPUs against both on each, on the same two workers. Pods take turns, round after round, so that a noisy machine disturbs all
 * alike; what counts are ratios within one round. Where other programs take the cores away those of wall time are chance (0.17 to 4.4 were seen in rounds of one pod), those
 * of the processor's time are not: they count what threads spin while they wait, but not what they wait for a core.
 * @module
 */
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { atLeast } from './fabric-report.ts';
import { machine, median, printTable, writeResults } from './harness.ts';
import { promptOf } from './prompts.ts';

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

type Served = {
  /** Tokens a second. */
  readonly rate: number;
  /** Of the processor, of all threads, a token. */
  readonly cpu_us: number;
  readonly tokens: string;
};

async function serve(pod: Pod, requests: number): Promise<Served> {
  const start = performance.now();
  const before = process.cpuUsage();
  const calls = Array.from({ length: requests }, (_, index) => pod.complete(promptOf(index), { max_tokens: TOKENS, temperature: 0, ignore_eos: true }));
  const ended = await Promise.all(calls);
  const rate = (requests * TOKENS * 1000) / (performance.now() - start);
  const { user, system } = process.cpuUsage(before);
  const cpu_us = (user + system) / (requests * TOKENS);
  return { rate, cpu_us, tokens: JSON.stringify(ended.map(({ choices }) => choices[0]?.token_ids)) };
}

const asked = process.env['BENCH_ONLY'];
const candidates = SPLIT.filter((_, index) => asked === undefined || asked.split(',').includes(String(index)));
const rows: { topology: string; requests: number; colocated: number; rate: number; ratio: number; cpu_ratio: number }[] = [];
await using together = await createPod(COLOCATED);
for (const options of candidates) {
  await using apart = await createPod(options);
  for (const requests of CONCURRENT) {
    for (const warm = performance.now(); performance.now() - warm < WARM_MS; ) for (const pod of [together, apart]) await serve(pod, requests);
    const measures: { colocated: Served; apart: Served }[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const [one, other] = [await serve(together, requests), await serve(apart, requests)];
      if (one.tokens !== other.tokens) throw new Error(`${nameOf(options)} generates other tokens than ${COLOCATED.topology}`);
      measures.push({ colocated: one, apart: other });
    }
    rows.push({
      topology: nameOf(options),
      requests,
      colocated: median(measures.map(({ colocated }) => colocated.rate)),
      rate: median(measures.map(({ apart }) => apart.rate)),
      ratio: median(measures.map(({ apart, colocated }) => apart.rate / colocated.rate)),
      cpu_ratio: median(measures.map(({ apart, colocated }) => colocated.cpu_us / apart.cpu_us)),
    });
  }
}

printTable(
  `Attention and experts apart against ${COLOCATED.topology}, 2 workers, ${TOKENS} tokens a request, tokens/s (medians of ${ROUNDS} rounds; ${machine()['cpu']}, ${machine()['cores']} cores)`,
  ['topology', 'requests', 'colocated', 'apart', 'ratio', 'goal', 'by CPU time'],
  rows.map(({ topology, requests, colocated, rate, ratio, cpu_ratio }) => [
    topology,
    String(requests),
    colocated.toFixed(0),
    rate.toFixed(0),
    ratio.toFixed(2),
    atLeast(GOAL, ratio),
    cpu_ratio.toFixed(2),
  ]),
);
if (asked === undefined) writeResults('bench/results/moe-attention.json', rows);
