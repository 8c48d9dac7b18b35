/**
 * Both schedules between attention NPUs and expert NPUs on a virtual clock, at the paper's size: 3 domains of 160 attention NPUs and 288 expert NPUs. What becomes
 * of all others when one attention NPU takes ten times as long; and one decode iteration of 96 rows a die through all layers.
 * @module
 */
import type { ModelShape } from '../src/flowserve/layouts/step-layout.ts';
import type { Schedule } from '../src/protocol/topology.ts';
import { atLeast } from './fabric-report.ts';
import { machine, printTable, writeResults } from './harness.ts';
import { TimedPod } from './timed-pod.ts';

const DOMAINS = Number(process.env['BENCH_DOMAINS'] ?? 3);
const ATTENTION = Number(process.env['BENCH_ATTENTION'] ?? 160);
const EXPERTS = Number(process.env['BENCH_EXPERTS'] ?? 288);
const BATCH = Number(process.env['BENCH_BATCH'] ?? 96);
/** Of the straggler's run: what one NPU does to others does not depend on them. */
const LAYERS = Number(process.env['BENCH_LAYERS'] ?? 1);
const SLOW_STEPS = Number(process.env['BENCH_STEPS'] ?? 2);
const SLOWER = 10;
const GOAL = 0.9;

/** xDeepServe §7: 0.7 ms of attention for 48 rows in one layer; A2E 172 µs and E2A 193 µs in two hops each. */
const ATTENTION_NS_PER_ROW = 700_000 / 48;
const HOP_NS = 90_000;
/** An expert of DeepSeek-V3, 44 million weights of a byte: read at 1.6 TB/s, or computed at 400 T operations a second. */
const EXPERT_READ_NS = 27_500;
const EXPERT_NS_PER_ROW = 220;

const shape = (layers: number, denseLayers: readonly number[]): ModelShape => ({
  layers,
  vocabSize: 129_280,
  maxPositions: 256,
  eosTokenIds: [1],
  moe: { experts: EXPERTS, topK: 8, sharedExperts: 1, denseLayers: [...denseLayers] },
});

const TOPOLOGY = `moe-attention:domains=${DOMAINS}x${ATTENTION},experts=${EXPERTS}`;

const makePod = (schedule: Schedule, layers: number, dense: readonly number[], slow: number, isAsked: (npu: number) => boolean): TimedPod =>
  new TimedPod({
    ...{ topology: TOPOLOGY, schedule, model: shape(layers, dense), batch: BATCH, tokens_max: 40, hop_ns: HOP_NS, isAsked },
    attention_ns: (npu, rows) => rows * ATTENTION_NS_PER_ROW * (npu === slow ? SLOWER : 1),
    expert_ns: (rows) => Math.max(EXPERT_READ_NS, rows * EXPERT_NS_PER_ROW),
  });

const SLOW = 0;
const attentionNpus = DOMAINS * ATTENTION;
const sum = (tokens: Float64Array, first: number, end: number): number => tokens.subarray(first, end).reduce((total, count) => total + count, 0);

type Straggler = { schedule: Schedule; without: number; with_it: number; ratio: number; own_domain: number; wall_s: number };
/** Tokens a virtual second of the others: of all, and of those in the slow one's domain. */
type Rates = { readonly all: number; readonly own: number; readonly until_ns: number };

function measure(slow: number, schedule: Schedule, isAsked: (npu: number) => boolean, until_ns: number): Rates {
  const pod = makePod(schedule, LAYERS, [], slow, isAsked);
  pod.run(until_ns, () => (pod.tokens[SLOW] as number) >= SLOW_STEPS * BATCH);
  const rateOf = (first: number, end: number): number => sum(pod.tokens, first, end) / (pod.now_ns / 1e9);
  return { all: rateOf(1, attentionNpus), own: rateOf(1, ATTENTION), until_ns: pod.now_ns };
}

function straggle(schedule: Schedule): Straggler {
  const start = performance.now();
  // As long as the slow one takes for its steps; then the others for as long without it.
  const withIt = measure(SLOW, schedule, () => true, Number.POSITIVE_INFINITY);
  const without = measure(-1, schedule, (npu) => npu !== SLOW, withIt.until_ns);
  const [ratio, own_domain] = [withIt.all / without.all, withIt.own / without.own];
  return { schedule, without: without.all, with_it: withIt.all, ratio, own_domain, wall_s: (performance.now() - start) / 1000 };
}

/** All layers of DeepSeek-V3, once, under the schedule that the paper has. */
function iterate(): { virtual_ms: number; wall_s: number; memory_bytes: number; resident_bytes: number; events: number; tokens: number } {
  const start = performance.now();
  const pod = makePod('domains', 61, [0, 1, 2], -1, () => true);
  pod.run(Number.POSITIVE_INFINITY, () => pod.tokens_all >= BATCH * attentionNpus);
  return {
    virtual_ms: pod.now_ns / 1e6,
    wall_s: (performance.now() - start) / 1000,
    memory_bytes: pod.bytes,
    resident_bytes: process.memoryUsage().rss,
    events: pod.events,
    tokens: pod.tokens_all,
  };
}

const asked = process.env['BENCH_ONLY'];
const stragglers = asked === 'iteration' ? [] : (['dataflow', 'domains'] as const).map(straggle);
if (stragglers.length > 0)
  printTable(
    `One attention NPU ${SLOWER} × slower in ${TOPOLOGY}, ${BATCH} rows a die, ${LAYERS} layers: tokens/s of all others, virtual (${machine()['cores']} cores)`,
    ['schedule', 'without its requests', 'with them, slowed', 'ratio', 'goal', 'in its own domain', 'wall'],
    stragglers.map(({ schedule, without, with_it, ratio, own_domain, wall_s }) => [
      schedule,
      without.toFixed(0),
      with_it.toFixed(0),
      ratio.toFixed(3),
      schedule === 'dataflow' ? atLeast(GOAL, ratio) : 'reported',
      own_domain.toFixed(3),
      `${wall_s.toFixed(0)} s`,
    ]),
  );
const iteration = asked === 'straggler' ? null : iterate();
if (iteration !== null)
  printTable(
    `One decode iteration of ${TOPOLOGY}, ${BATCH} rows a die, 61 layers, domains in turn`,
    ['tokens', 'virtual', 'wall', 'events', 'pod memory', 'resident'],
    [
      [
        String(iteration.tokens),
        `${iteration.virtual_ms.toFixed(1)} ms`,
        `${iteration.wall_s.toFixed(0)} s`,
        `${(iteration.events / 1e6).toFixed(1)} M`,
        `${(iteration.memory_bytes / 2 ** 30).toFixed(2)} GiB`,
        `${(iteration.resident_bytes / 2 ** 30).toFixed(2)} GiB`,
      ],
    ],
  );
if (asked === undefined) writeResults('bench/results/schedules.json', { stragglers, iteration });
