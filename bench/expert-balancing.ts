/**
 * A skewed workload, tokens of one domain of texts only, with experts as the checkpoint lays them out, balanced, and with routing that is forced to be even: native,
 * balanced and Avg-routing of xDeepServe's figure 11. On a virtual clock with the paper's costs and real loads; and live, with the shipped model.
 * @module
 */
import { readFileSync } from 'node:fs';
import { expertLoads } from '../actors/policies/expert-placement/expert-loads.ts';
import type { ExpertMap } from '../actors/policies/expert-placement/expert-map.ts';
import type { PlacementShape } from '../actors/policies/expert-placement/placement-shape.ts';
import { PLACE_EXPERTS, type PlacementPolicy } from '../actors/policies/expert-placement/policies.ts';
import { imbalance } from '../actors/policies/expert-placement/predicted-balance.ts';
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { drawer } from './expert-loads.ts';
import { machine, median, printTable, writeResults } from './harness.ts';
import { TimedPod } from './timed-pod.ts';

const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 9);
const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 96);
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 4_000);
const asked = process.env['BENCH_ONLY'];

// ── Virtual: 32 attention NPUs and 32 expert NPUs, OLMoE's gates ─────────────────────────────────────────────────────

const EP = 32;
const REDUNDANT = 32;
const TOP_K = 8;
const BATCH = Number(process.env['BENCH_BATCH'] ?? 96);
const STEPS = 4;
const SHAPE: PlacementShape = { layers: 3, experts: 64, slots: 64 + REDUNDANT, ranks: EP, nodes: 1, groups: 1 };
/** xDeepServe §7, as bench/schedules.ts has it. */
const ATTENTION_NS_PER_ROW = 700_000 / 48;
const HOP_NS = 90_000;
const EXPERT_READ_NS = 27_500;
const EXPERT_NS_PER_ROW = 220;

const FILE = JSON.parse(readFileSync(new URL('../test/golden/expert-loads.json', import.meta.url), 'utf8'));
const DOMAINS = FILE['olmoe-1b-7b (64 experts, top-8)'] as Readonly<Record<string, number[][]>>;

/** Each token's experts, all different, as often as the domain's tokens had them. */
function chooser(counts: readonly (readonly number[])[]): (layer: number) => number[] {
  const draw = drawer(11);
  return (layer) => {
    const left = [...(counts[layer] as readonly number[])];
    const chosen: number[] = [];
    for (let slot = 0; slot < TOP_K; slot++) {
      const at = draw() * left.reduce((sum, count) => sum + count, 0);
      let expert = 0;
      for (let below = left[0] as number; below <= at && expert < left.length - 1; below += left[expert] as number) expert++;
      chosen.push(expert);
      left[expert] = 0;
    }
    return chosen.sort((a, b) => a - b);
  };
}

/** In turn, one row behind the other. */
function inTurn(): (layer: number) => number[] {
  const next = new Int32Array(SHAPE.layers);
  return (layer) => {
    const first = next[layer] as number;
    next[layer] = (first + TOP_K) % SHAPE.experts;
    return Array.from({ length: TOP_K }, (_, slot) => (first + slot) % SHAPE.experts).sort((a, b) => a - b);
  };
}

type Mode = 'native' | 'fixed_primaries' | 'global' | 'average';
const MODES: readonly Mode[] = ['native', 'fixed_primaries', 'global', 'average'];

function virtualRate(map: ExpertMap, choose: (layer: number) => number[]): number {
  const model = {
    layers: SHAPE.layers,
    vocabSize: 50_304,
    maxPositions: 256,
    eosTokenIds: [1],
    moe: { experts: 64, topK: TOP_K, sharedExperts: 0, denseLayers: [] },
  };
  const pod = new TimedPod({
    ...{ topology: `moe-attention:domains=1x${EP},experts=${EP}`, schedule: 'dataflow', model, batch: BATCH, tokens_max: 40, hop_ns: HOP_NS },
    ...{ isAsked: () => true, attention_ns: (_npu, rows) => rows * ATTENTION_NS_PER_ROW },
    ...{ expert_ns: (rows) => Math.max(EXPERT_READ_NS, rows * EXPERT_NS_PER_ROW), choose, placed: { redundant: REDUNDANT, map } },
  });
  const enough = STEPS * BATCH * EP;
  pod.run(Number.POSITIVE_INFINITY, () => pod.tokens_all >= enough);
  return (pod.tokens_all * 1e9) / pod.now_ns;
}

type VirtualRow = { domain: string; mode: Mode; imbalance: number; rate: number; to_native: number; to_average: number };

function virtualRows(domain: string): VirtualRow[] {
  const counts = DOMAINS[domain] as number[][];
  const loads = expertLoads([counts]);
  const even = expertLoads([counts.map((row) => row.map(() => 1))]);
  const rows = MODES.map((mode) => {
    const map = PLACE_EXPERTS[mode === 'average' ? 'native' : (mode satisfies PlacementPolicy)](loads, SHAPE);
    const rate = virtualRate(map, mode === 'average' ? inTurn() : chooser(counts));
    return { domain, mode, imbalance: imbalance(map, mode === 'average' ? even : loads), rate };
  });
  const rateOf = (mode: Mode): number => rows.find((row) => row.mode === mode)?.rate ?? Number.NaN;
  return rows.map((row) => ({ ...row, to_native: row.rate / rateOf('native'), to_average: row.rate / rateOf('average') }));
}

// ── Live: the shipped model, tales only ──────────────────────────────────────────────────────────────────────────────

const WORKERS = 2;
const REQUESTS = [16, 32];
const LIVE: PodOptions = { topology: 'colocated:dp=4', workers: WORKERS };
const OPENINGS = ['Once upon a time', 'The wolf went', 'There was a king who', 'In the forest lived'];

async function serve(pod: Pod, requests: number): Promise<number> {
  const start = performance.now();
  await Promise.all(
    Array.from({ length: requests }, (_, index) =>
      pod.complete(OPENINGS[index % OPENINGS.length] as string, { max_tokens: TOKENS, temperature: 1, seed: index, ignore_eos: true }),
    ),
  );
  return (requests * TOKENS * 1000) / (performance.now() - start);
}

const evenness = async (pod: Pod): Promise<number> => {
  const layers = (await pod.experts({ measure: false })).task_executors[0]?.layers ?? [];
  return layers.reduce((sum, { busiest_over_mean_npu }) => sum + busiest_over_mean_npu, 0) / layers.length;
};

type LiveRow = { mode: string; requests: number; imbalance: number; rate: number; to_native: number };

async function liveRows(): Promise<LiveRow[]> {
  await using native = await createPod(LIVE);
  await using balanced = await createPod({ ...LIVE, expert_balancing: { redundant_slots: 8, period_ms: 3_600_000 } });
  await using average = await createPod({ ...LIVE, average_routing: true });
  const pods = { native, balanced, average };
  for (const warm = performance.now(); performance.now() - warm < WARM_MS; ) for (const pod of Object.values(pods)) await serve(pod, 16);
  const [report] = await balanced.rebalance();
  console.log(`balanced: ${report?.outcome}, ${report?.reason}, ${report?.slots} slots`);
  const rows: LiveRow[] = [];
  for (const requests of REQUESTS) {
    const rates: Record<keyof typeof pods, number[]> = { native: [], balanced: [], average: [] };
    for (let round = 0; round < ROUNDS; round++)
      for (const [mode, pod] of Object.entries(pods)) rates[mode as keyof typeof pods].push(await serve(pod, requests));
    for (const [mode, pod] of Object.entries(pods)) {
      const own = rates[mode as keyof typeof pods];
      const to_native = median(own.map((rate, round) => rate / (rates.native[round] as number)));
      rows.push({ mode, requests, imbalance: await evenness(pod), rate: median(own), to_native });
    }
  }
  return rows;
}

const virtual = asked === 'live' ? [] : Object.keys(DOMAINS).flatMap(virtualRows);
if (virtual.length > 0)
  printTable(
    `${EP} attention NPUs, ${EP} expert NPUs, OLMoE's experts and loads (3 layers of 64, top ${TOP_K}), ${BATCH} rows a die, one redundant slot an NPU; tokens/s, virtual`,
    ['domain', 'experts', 'busiest / mean NPU', 'tokens/s', 'against native', 'against Avg-routing'],
    virtual.map(({ domain, mode, imbalance, rate, to_native, to_average }) => [
      domain,
      mode === 'average' ? 'Avg-routing' : mode,
      imbalance.toFixed(3),
      rate.toFixed(0),
      to_native.toFixed(3),
      to_average.toFixed(3),
    ]),
  );
const live = asked === 'virtual' ? [] : await liveRows();
if (live.length > 0)
  printTable(
    `The shipped model, tales only, ${LIVE.topology} on ${WORKERS} workers, 8 redundant slots, tokens/s (medians of ${ROUNDS} rounds; ${machine()['cpu']}, ${machine()['cores']} cores)`,
    ['experts', 'requests', 'busiest / mean NPU since the start', 'tokens/s', 'against native'],
    live.map(({ mode, requests, imbalance, rate, to_native }) => [
      mode === 'average' ? 'Avg-routing' : mode,
      String(requests),
      imbalance.toFixed(3),
      rate.toFixed(0),
      to_native.toFixed(3),
    ]),
  );
if (asked === undefined) writeResults('bench/results/expert-balancing.json', { virtual, live });
