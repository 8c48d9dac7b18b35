/**
 * How long streams stall where a worker is lost, by recovery.
 *
 *   live      two pods of the shipped model take turns, one restarts everything and one the lost worker alone; their ratio is of one run
 *   virtual   80 NPUs, 48 with attention and 32 with experts, as ReviveMoE was measured on (arXiv 2602.21140), and its costs: what it takes to have an engine again
 *             is given, who waits for that and what is computed anew is the pod's
 */
import { chaos } from '../src/chaos/index.ts';
import { createPod, type PodOptions } from '../src/index.ts';
import type { VirtualPod } from '../src/pod/virtual-pod.ts';
import { machine, median, printTable, writeResults } from './harness.ts';

const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 4);
/** Of a round; fewer than end a pod (restart-intensity.ts). */
const STRIKES = 3;
const RATIO_GOAL = 1;
const NEAR = 0.1;

// ── Live ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const LIVE = [
  { topology: 'colocated:dp=2', workers: 2 },
  { topology: 'colocated:dp=4', workers: 4 },
] as const;

async function liveStalls(topology: string, workers: number, recovery: 'fine-grained' | 'restart', seed: number): Promise<number[]> {
  const { strikes, verdict, violations } = await chaos.live({ seed, strikes: STRIKES, topology, workers, recovery, kinds: ['worker-dies'] });
  if (verdict !== 'held') throw new Error(violations.map(({ what }) => what).join('; '));
  return strikes.filter(({ struck }) => struck).map(({ stall_ms }) => stall_ms);
}

async function compareLive({ topology, workers }: (typeof LIVE)[number]) {
  const stalls = { 'fine-grained': [] as number[], restart: [] as number[] };
  for (let round = 0; round < ROUNDS; round++)
    for (const recovery of ['fine-grained', 'restart'] as const) stalls[recovery].push(...(await liveStalls(topology, workers, recovery, round + 1)));
  const [fine_ms, restart_ms] = [median(stalls['fine-grained']), median(stalls.restart)];
  return { topology, workers, strikes: stalls.restart.length, fine_ms, restart_ms, ratio: fine_ms / restart_ms };
}

// ── Virtual ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const [ATTENTION, EXPERTS] = [48, 32];
const WORKERS = 4;
/** The last attention NPU and the last expert NPU have workers of their own. */
const NPU_WORKERS = Array.from({ length: ATTENTION + EXPERTS }, (_, npu) =>
  npu === ATTENTION - 1 ? 2 : npu === ATTENTION + EXPERTS - 1 ? 3 : npu < ATTENTION ? 0 : 1,
);
const [ATTENTION_WORKER, EXPERT_WORKER] = [2, 3];
const S = 1e9;
/** Of ReviveMoE, in seconds: all engines from cached graphs; one engine's place in a new communication domain; and an expert NPU's weights from disk. */
const PAPER = { restart: 83.1, attention: 10.2, redundant: 10.7, role_switch: 52.7, weights: 40.6 } as const;

type Scenario = {
  readonly what: string;
  readonly worker: number;
  readonly options: PodOptions;
  /** What having the lost engine again takes. */
  readonly successor_s: number;
  readonly paper_s: number;
  /** Ours is to be as theirs; else it waits for less. */
  readonly isAlike: boolean;
};

const mirrored = { expert_balancing: { policy: 'mirrored', redundant_slots: 32, period_ms: 2 ** 31 - 1 } } as const;
const SCENARIOS: readonly Scenario[] = [
  {
    what: 'restart everything, cached',
    worker: ATTENTION_WORKER,
    options: { recovery: 'restart' },
    successor_s: PAPER.restart,
    paper_s: PAPER.restart,
    isAlike: true,
  },
  {
    what: 'experts without a copy: their weights from disk',
    worker: EXPERT_WORKER,
    options: {},
    successor_s: PAPER.attention + PAPER.weights,
    paper_s: PAPER.role_switch,
    isAlike: true,
  },
  { what: 'experts with copies', worker: EXPERT_WORKER, options: mirrored, successor_s: PAPER.redundant, paper_s: PAPER.redundant, isAlike: false },
  { what: 'attention', worker: ATTENTION_WORKER, options: {}, successor_s: PAPER.attention, paper_s: PAPER.attention, isAlike: false },
];

/** The longest that any stream waits between two tokens, in virtual time, and all of its tokens. */
async function serve(options: PodOptions, strike: (pod: VirtualPod) => void): Promise<{ readonly stall_s: number; readonly tokens: string }> {
  const topology = `moe-attention:domains=1x${ATTENTION},experts=${EXPERTS}`;
  const shape = { topology, workers: WORKERS, npu_workers: NPU_WORKERS, load_balancing: 'round_robin' } as const;
  await using pod = (await createPod({
    clock: 'virtual',
    kernels: 'hash',
    job_executors: 1,
    kv_blocks: 16,
    max_batch_tokens: 32,
    ...shape,
    ...options,
  })) as VirtualPod;
  const { host } = pod.control;
  let stall_ns = 0;
  let hasStruck = false;
  const streams = Array.from({ length: ATTENTION }, async (_, index) => {
    const ids: number[] = [];
    let last_ns = Number.NaN;
    for await (const { token_ids } of pod.generate([1, 86, 1461, 613, 265, 531 + index], { max_tokens: 24, seed: index, ignore_eos: true })) {
      if (ids.length > 0) stall_ns = Math.max(stall_ns, host.now_ns - last_ns);
      last_ns = host.now_ns;
      ids.push(...token_ids);
      if (!hasStruck && ids.length >= 8) {
        hasStruck = true;
        strike(pod);
      }
    }
    return ids;
  });
  const tokens = JSON.stringify(await Promise.all(streams));
  return { stall_s: stall_ns / S, tokens };
}

async function compareVirtual({ what, worker, options, successor_s, paper_s, isAlike }: Scenario, right: string) {
  const { stall_s, tokens } = await serve(options, ({ control: { host, workers } }) => {
    workers.successorTime = () => successor_s * S;
    host.later(0, () => workers.lose(worker, 'the benchmark killed it'));
  });
  if (tokens !== right) throw new Error(`${what}: other tokens`);
  return { what, stall_s, paper_s, deviation: stall_s / paper_s - 1, isAlike };
}

const inSeconds = (s: number): string => (s < 0.1 ? `${(s * 1e3).toFixed(3)} ms` : `${s.toFixed(2)} s`);

const live = [];
for (const pod of LIVE) live.push(await compareLive(pod));
printTable(
  `stall of a stream where a worker dies, live, shipped model (medians; rounds in turn; ${machine()['cpu']}, ${machine()['cores']} cores)`,
  ['pod', 'strikes', 'fine-grained ms', 'restart ms', 'ratio', 'goal'],
  live.map(({ topology, workers, strikes, fine_ms, restart_ms, ratio }) => [
    `${topology}, ${workers} workers`,
    `${strikes}`,
    fine_ms.toFixed(0),
    restart_ms.toFixed(0),
    ratio.toFixed(2),
    `< ${RATIO_GOAL}`,
  ]),
);
const { tokens: right, stall_s: undisturbed_s } = await serve({}, () => {});
const virtual = [];
for (const scenario of SCENARIOS) virtual.push(await compareVirtual(scenario, right));
printTable(
  `stall of a stream in virtual time, ${ATTENTION + EXPERTS} NPUs, engines as slow as ReviveMoE's (undisturbed ${inSeconds(undisturbed_s)})`,
  ['what is lost', 'stall', 'ReviveMoE', 'deviation', 'goal'],
  virtual.map(({ what, stall_s, paper_s, deviation, isAlike }) => [
    what,
    inSeconds(stall_s),
    `${paper_s} s`,
    `${(deviation * 100).toFixed(1)} %`,
    isAlike ? `within ${NEAR * 100} %` : 'less: nobody pauses',
  ]),
);
writeResults('bench/results/recovery.json', { live, undisturbed_s, virtual });
