/**
 * Traces and the virtual clock: what recording costs a live pod, what a delivery takes on disk, how fast a replay is, how fast virtual time can go.
 *
 * @example
 * node bench/trace.ts                                   # everything, writes bench/results/trace.json
 * BENCH_ONLY=recording,virtual BENCH_ROUNDS=3 node bench/trace.ts
 * @module
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { actsOf } from '../src/trace/acts.ts';
import { Replay } from '../src/trace/replay.ts';
import { TraceReader } from '../src/trace/trace-reader.ts';
import { atLeast, atMost, digits, isAsked, isWhole, medianRatio, ROUNDS, resultsPath, takeTurns } from './fabric-report.ts';
import { median, printTable, writeResults } from './harness.ts';
import { VirtualCast } from './trace-virtual-cast.ts';

const REQUESTS = 16;
const TOKENS = 128;
const WARM_ROUNDS = 10;
/** Two pods of the same options differ by up to a tenth for as long as they live: so several pairs, either one created first. */
const PAIRS = 4;
const PAIR_ROUNDS = 5;
const RATE_GOAL = 0.95;
const BYTES_GOAL = 60;
const REPLAY_GOAL = 5;
const DELIVERIES_GOAL_K = 150;
const PODS: readonly PodOptions[] = [
  { npus: 1, workers: 1 },
  { npus: 2, workers: 2 },
  { npus: 8, workers: 2 },
];

const folder = mkdtempSync(join(tmpdir(), 'minipod-bench-'));
const nameOf = ({ npus, workers }: PodOptions): string => `${npus} NPUs on ${workers} workers`;

/** Tokens a second, streaming to as many readers. */
async function rate(pod: Pod): Promise<number> {
  const start = performance.now();
  await Promise.all(
    Array.from({ length: REQUESTS }, async (_, index) => {
      for await (const _ of pod.generate([1, 86, 1461, 613, 265, 531, 460, 315 + index], { max_tokens: TOKENS, temperature: 0, ignore_eos: true })) {
        // As fast as they come.
      }
    }),
  );
  return (REQUESTS * TOKENS * 1000) / (performance.now() - start);
}

async function measureRecording(): Promise<unknown> {
  const rows = [];
  for (const options of PODS) {
    const came: { recorded: number[]; bare: number[] } = { recorded: [], bare: [] };
    for (let pair = 0; pair < PAIRS; pair++) {
      const path = join(folder, `${options.npus}-${options.workers}-${pair}.trace`);
      const bareFirst = pair % 2 === 0 ? await createPod(options) : null;
      await using recorded = await createPod({ ...options, record: path });
      await using bare = bareFirst ?? (await createPod(options));
      const more = await takeTurns({ recorded: () => rate(recorded), bare: () => rate(bare) }, WARM_ROUNDS, PAIR_ROUNDS);
      came.recorded.push(...more.recorded);
      came.bare.push(...more.bare);
    }
    rows.push({
      pod: nameOf(options),
      recorded: median(came.recorded),
      bare: median(came.bare),
      ratio: medianRatio(came.recorded, came.bare),
      goal: RATE_GOAL,
    });
  }
  printTable(
    `A recorded pod against one that is not, ${REQUESTS} requests of ${TOKENS} tokens: tokens/s`,
    ['pod', 'bare', 'recorded', 'ratio', 'goal'],
    rows.map((row) => [row.pod, row.bare.toFixed(0), row.recorded.toFixed(0), digits(row.ratio), atLeast(row.goal, row.ratio)]),
  );
  return rows;
}

/** One run of each kind, all of it requests. Its time is that of the requests alone. */
async function recordOne(options: PodOptions, name: string): Promise<{ path: string; run_ms: number; acts: number; bytes: number }> {
  const path = join(folder, `${name}.trace`);
  let run_ms = 0;
  {
    await using pod = await createPod({ ...options, record: path });
    const start = performance.now();
    for (let round = 0; round < 4; round++) await rate(pod);
    run_ms = performance.now() - start;
  }
  using reader = TraceReader.open(path);
  return { path, run_ms, acts: reader.totals?.records ?? Number.NaN, bytes: statSync(path).size };
}

function replay_ms(path: string): number {
  using reader = TraceReader.open(path);
  const start = performance.now();
  const replay = new Replay();
  for (const { act, index } of actsOf(reader)) {
    const divergence = replay.feed(act, index);
    if (divergence !== null) throw new Error(`${path}: record ${index}: ${divergence.difference}`);
  }
  return performance.now() - start;
}

async function measureReplay(): Promise<unknown> {
  const rows = [];
  const runs: readonly PodOptions[] = [...PODS, { npus: 4, workers: 2, clock: 'virtual', kernels: 'hash' }];
  for (const [index, options] of runs.entries()) {
    const { path, run_ms, acts, bytes } = await recordOne(options, `replayed-${index}`);
    const isLive = options.clock !== 'virtual';
    const replays_ms = Array.from({ length: ROUNDS }, () => replay_ms(path));
    const ratio = run_ms / median(replays_ms);
    rows.push({
      run: `${isLive ? 'live' : 'virtual, hash kernels'}: ${nameOf(options)}`,
      acts,
      bytes_per_act: bytes / acts,
      run_ms,
      replay_ms: median(replays_ms),
      ratio,
      isLive,
    });
  }
  printTable(
    'Traces of 64 requests: bytes of the file a delivery, and replaying without kernels against the run itself',
    ['run', 'deliveries', 'bytes each', 'goal', 'run, ms', 'replay, ms', 'faster by', 'goal'],
    rows.map((row) => [
      row.run,
      String(row.acts),
      digits(row.bytes_per_act),
      atMost(BYTES_GOAL, row.bytes_per_act),
      row.run_ms.toFixed(0),
      row.replay_ms.toFixed(0),
      digits(row.ratio),
      row.isLive ? atLeast(REPLAY_GOAL, row.ratio) : '',
    ]),
  );
  return rows;
}

/** By NPUs: requests at once, so that each has as many. */
const CASTS = [1, 8, 32] as const;
const REQUESTS_PER_NPU = 4;
const CAST_TOKENS = 32;

async function measureVirtual(): Promise<unknown> {
  const rows = [];
  for (const npus of CASTS) {
    const cast = await VirtualCast.create(npus);
    const run = (): number => {
      const before = cast.deliveries;
      const start = performance.now();
      while (performance.now() - start < 200) {
        cast.submit(npus * REQUESTS_PER_NPU, CAST_TOKENS);
        cast.runOut();
      }
      return (cast.deliveries - before) / (performance.now() - start);
    };
    const came = await takeTurns({ run }, 4);
    rows.push({ npus, requests: npus * REQUESTS_PER_NPU, deliveries_k_per_s: median(came.run), goal: DELIVERIES_GOAL_K });
  }
  printTable(
    'The virtual host with the shipped machines and kernels that answer at once, one core: thousand deliveries a second',
    ['NPUs', 'requests at once', 'k/s', 'goal'],
    rows.map((row) => [String(row.npus), String(row.requests), row.deliveries_k_per_s.toFixed(0), atLeast(row.goal, row.deliveries_k_per_s)]),
  );
  return rows;
}

const PARTS: Readonly<Record<string, () => Promise<unknown>>> = { recording: measureRecording, replay: measureReplay, virtual: measureVirtual };

const results: Record<string, unknown> = {};
try {
  for (const [part, measure] of Object.entries(PARTS)) if (isAsked(part)) results[part] = await measure();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
if (isWhole) writeResults(resultsPath('trace'), results);
