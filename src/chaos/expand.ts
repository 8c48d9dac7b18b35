/**
 * A seed's plan: pod, calls and faults, all drawn from it. Its first fault is of the kind and phase whose turn it is, in
 * a pod that has the phase: neighbouring seeds have them all, and each comes with all topologies in turn.
 * @module
 */
import { isServing, largestTopology } from '../flowserve/scale-shapes.ts';
import type { PodOptions } from '../options.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Message } from '../protocol/messages.ts';
import { deploy, type Executor, npuOfExpert, parseTopology } from '../protocol/topology.ts';
import { dealtOutByKind } from '../runtime/directory.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { type Cell, cellsOf, isOfSameClient, LOSING, momentsOf } from './fault-kinds.ts';
import { type ChaosCall, type ChaosPlan, FAULT_KINDS, type FaultInput, type FaultKind, parsePlan } from './fault-plan.ts';
import { drawRecovery, RECOVERIES, type Recovery, withRecovery } from './recoveries.ts';
import { drawPod, TOPOLOGIES, topologiesWith } from './topologies.ts';
import { varied, variedCalls } from './varied-options.ts';

/** What a campaign draws from; missing: all that the pod is promised to survive. `real_kernels`: the share of seeds whose pods compute with the model itself. */
export type Scope = {
  readonly topologies?: readonly string[] | undefined;
  readonly faults?: readonly string[] | undefined;
  readonly recoveries?: readonly string[] | undefined;
  readonly real_kernels?: number | undefined;
};

/** A pod with the hash model runs a hundred times while one with real kernels does a few times, and finds more: what is stale or amiss changes all that follows. */
export const REAL_KERNELS = 0.06;
/** Of the share above, whose draws change no others. */
const KERNELS_STREAM = 8;
const VARIED_STREAM = 9;
const RECOVERY_STREAM = 10;
const RESTING_STREAM = 11;

/** The plan's draws are of no stream that a run draws from. */
const PLAN_STREAM = 7;
const FAULTS_MAX = 5;
/** Fewer than end a pod (restart-intensity.ts), and than end a request (actors/request.ts), but for one in so many runs. */
const LOSSES_MAX = 2;
/** Later calls, rebalances and changes of shape come within milliseconds, or within tenths: undisturbed, a call takes some hundredths. */
const ASKED_MS_MAX = 4;
const CHANGED_MS_MAX = 2.5;
const STRUCK_MS_MAX = 6;
/** Four blocks, and one token: what is shorter is computed sooner than fetched. */
const WORTH_FETCHING = 65;
const [ROUNDS, KEYS_AGAIN] = [4, 5];
/** When the first are answered, as a rule. */
const ASKED_AGAIN_MS = 0.7;
/** Calls of different runs are often the same, so that what they are answered undisturbed is known. */
const KEYS = 12;
/** They come once or twice in a run, if at all. */
const SELDOM: readonly Cell['phase'][] = ['kv-transfer', 'rebalance', 'scaling'];

/** What parts tell one another. */
const OF_REQUESTS = [
  ...(['ADMITTED', 'PLACE', 'PLACED', 'ENQUEUE', 'SCHEDULED', 'PREFILLED', 'HANDED_OVER', 'RECEIVING', 'DECODING', 'TRANSFERRED', 'GENERATED'] as const),
  ...(['ABANDON', 'ABANDONED', 'CANCEL', 'TASK_DONE', 'JOB_DONE', 'PREFIX_WANTED', 'PREFIX_LENT', 'STEP', 'STEP_DONE', 'STEP_FAILED'] as const),
] as const satisfies readonly Message['type'][];
const OF_LOSSES = [
  ...(['DISOWN', 'ABANDON', 'TAKE_OVER', 'TAKEN_OVER', 'MEMBER_READY', 'JOB_EXECUTORS', 'EXECUTOR_LOST', 'EXECUTOR_READY', 'REPLACE', 'REPLACED'] as const),
  ...(['REQUEST_MOVED', 'RANK_LOST', 'RANK_BACK', 'RESET', 'RANK_RESET', 'NPU_READY'] as const),
] as const satisfies readonly Message['type'][];
const OF_SHAPES = [
  'EXPERT_WORK',
  'EXPERT_WORK_DONE',
  'SERVE',
  'SERVING',
  'HAND_BACK',
  'HANDED_BACK',
  'TAKE_PART',
] as const satisfies readonly Message['type'][];

/** Of the phase, what is told in it. */
const delayedAt = (phase: Cell['phase']): readonly Message['type'][] => {
  if (phase === 'takeover') return OF_LOSSES;
  return phase === 'rebalance' || phase === 'scaling' ? OF_SHAPES : [...OF_REQUESTS, ...OF_LOSSES, ...OF_SHAPES];
};
/** Until a pod has what a cell needs. */
const DRAWS_MAX = 16;
/** Of a layer of the shipped model. */
const EXPERTS = 32;

/** Which of a pod's parts there are so many of. */
type Parts = {
  readonly workers: number;
  readonly npus: number /** Of those, that run steps. */;
  readonly attention: readonly number[];
  readonly groups: number;
  readonly executors: number;
  /** Of an expert, at most, whichever executor's it is. */
  readonly copies: number;
  /** The worker that has it at first, of mirrored ones the first copy. */
  readonly holderOf: (fault: Extract<FaultInput, { readonly kind: 'expert-lost' }>) => number;
  readonly job_executors: number;
};

/** @throws `invalid_request` for a topology or a kind of fault that there is not */
export function expandSeed(
  seed: number,
  { topologies = TOPOLOGIES, faults: kinds = FAULT_KINDS, recoveries = RECOVERIES, real_kernels = REAL_KERNELS }: Scope = {},
): ChaosPlan {
  const unknown = topologies.find((name) => !TOPOLOGIES.includes(name));
  if (unknown !== undefined || topologies.length === 0)
    throw new MinipodError('invalid_request', `topology: there is no ${unknown ?? 'topology'}; there are ${TOPOLOGIES.join(', ')}`, { param: 'topology' });
  const strange = kinds.find((kind) => !FAULT_KINDS.includes(kind as FaultKind));
  if (strange !== undefined)
    throw new MinipodError('invalid_request', `faults: there is no ${strange}; there are ${FAULT_KINDS.join(', ')}`, { param: 'faults' });
  const foreign = recoveries.find((recovery) => !RECOVERIES.includes(recovery as Recovery));
  if (foreign !== undefined)
    throw new MinipodError('invalid_request', `recoveries: there is no ${foreign}; there are ${RECOVERIES.join(', ')}`, { param: 'recoveries' });
  const random = new SeededRandom(seed, PLAN_STREAM);
  const cells = cellsOf(kinds as readonly FaultKind[], recoveries as readonly Recovery[]);
  const at = seed % Math.max(1, cells.length);
  const cell = cells[at] ?? ANYTHING;
  const names = topologiesWith(cell.phase, topologies);
  const turn = (at + Math.floor(seed / Math.max(1, cells.length))) % names.length;
  const [drawn, recovery] = drawPodWith(
    cell,
    [...names.slice(turn), ...names.slice(0, turn)],
    recoveries as readonly Recovery[],
    random,
    new SeededRandom(seed, RECOVERY_STREAM),
  );
  const variety = new SeededRandom(seed, VARIED_STREAM);
  const isReal = recovery !== 'degraded' && new SeededRandom(seed, KERNELS_STREAM).below(1_000) < real_kernels * 1_000;
  const shaped = varied(isReal ? withRealKernels(drawn) : drawn, variety);
  const recovered = withRecovery(shaped, recovery, new SeededRandom(seed, RECOVERY_STREAM)) ?? shaped;
  const recovering = isOfControllers(cell) ? withControllers(recovered) : recovered;
  const pod = cell.kind === 'dram-bit-flip' ? withResting(recovering, new SeededRandom(seed, RESTING_STREAM)) : recovering;
  const asked = Array.from({ length: 2 + random.below(5) }, () => drawCall(random));
  const calls = cell.kind === 'dram-bit-flip' ? askedAgain(asked) : asked;
  const changes = { ...drawShapes(pod, random), ...drawRebalances(pod, random) };
  const faults: FaultInput[] = cell === ANYTHING ? [] : drawFaults(cell, kinds as readonly FaultKind[], partsOf(pod), calls.length, random);
  const twice = pod.speculative_config?.method === 'mtp' && variety.below(2) === 0;
  const drafts = twice && !readsAgain(pod, faults) ? { mtp_layers: 2 as const } : {};
  // Who trusts memory is promised nothing where it goes bad.
  const trusts = variety.below(8) === 0 && !faults.some(({ kind }) => kind === 'kv-bit-flip' || kind === 'dram-bit-flip') ? { kv_checks: 'off' as const } : {};
  const plan = { seed, pod: checking({ ...pod, ...trusts }, faults), ...drafts, calls: variedCalls(calls, pod, variety), ...changes, faults };
  return parsePlan(plan, `the plan of seed ${seed}`);
}

/** What is drawn where no kind of fault is asked for. */
const ANYTHING = { kind: 'client-gone', phase: 'time', recovery: 'any' } as const satisfies Cell;

/** One in which the phase may come and that has the recovery, of the first name whose pods have both. */
function drawPodWith(
  { phase, recovery: wanted }: Cell,
  names: readonly string[],
  recoveries: readonly Recovery[],
  random: SeededRandom,
  chance: SeededRandom,
): readonly [PodOptions, Recovery] {
  const recovery = wanted === 'any' ? drawRecovery(phase, recoveries, chance) : wanted;
  for (const name of names)
    for (let draws = 0; draws < DRAWS_MAX; draws++) {
      const pod = drawPod(name, random);
      if (suits(phase, pod) && withRecovery(pod, recovery, chance) !== null) return [pod, recovery];
    }
  return [drawPod(names[0] as string, random), 'successors'];
}

/** Where all workers begin anew with a lost one, nobody is left of whom more could be lost. */
const isOfControllers = ({ phase, recovery }: Cell): boolean => phase === 'takeover' && recovery === 'restart';

/** Each worker has some that others take over from. */
const withControllers = (pod: PodOptions): PodOptions => ({ ...pod, job_executors: 1 + (pod.workers ?? 1) });

/** KV that is soon in nobody's way leaves for DRAM, and comes back by a link that is worth it. */
function withResting({ prefix_caching: _, kv_block_size: __, ...pod }: PodOptions, random: SeededRandom): PodOptions {
  return { ...pod, kv_blocks: 8 + random.below(3), dram_blocks: 32, dram_bytes_per_s: 1e12 };
}

/** Prompts that differ, each once more later in the same order: what the first has left comes back. */
function askedAgain([first]: readonly ChaosCall[]): ChaosCall[] {
  const asked = { ...(first as ChaosCall), prompt_tokens: WORTH_FETCHING, stem_tokens: 0, max_tokens: 3, n: 1 };
  return Array.from({ length: ROUNDS * KEYS_AGAIN }, (_, index) => ({
    ...asked,
    key: index % KEYS_AGAIN,
    ms: Math.floor(index / KEYS_AGAIN) * ASKED_AGAIN_MS,
  }));
}

function suits(phase: Cell['phase'], { expert_balancing, workers = 1 }: PodOptions): boolean {
  if (phase === 'rebalance') return expert_balancing !== undefined;
  // Somebody is lost, and somebody else may be.
  return phase !== 'takeover' || workers > 1;
}

/** Else what is computed before weights that went bad are found comes of them. */
const checking = (pod: PodOptions, faults: readonly FaultInput[]): PodOptions =>
  faults.some(({ kind }) => kind === 'weights-bit-flip') ? { ...pod, weight_checks: 'each-step' } : pod;

/** Weights, from the folder that the model came from: a model with two MTP layers has none (mtp-twice.ts). */
const readsAgain = ({ kernels, rehome_after_ms, respawn }: PodOptions, faults: readonly FaultInput[]): boolean =>
  kernels === 'real' && (rehome_after_ms !== undefined || respawn === false || faults.some(({ kind }) => kind === 'weights-bit-flip'));

const withRealKernels = ({ hash_foreseeable: _, ...pod }: PodOptions): PodOptions => ({ ...pod, kernels: 'real' });

function drawFaults(cell: Cell, kinds: readonly FaultKind[], parts: Parts, calls: number, random: SeededRandom): FaultInput[] {
  const drawn = (kind: FaultKind, phase?: Cell['phase']): FaultInput => drawFault(kind, parts, calls, random, phase ?? drawPhase(kind, random));
  const faults = [drawn(cell.kind, cell.phase)];
  // What nobody wants back changes nothing.
  if (cell.kind === 'dram-bit-flip') faults.push(drawn(cell.kind, cell.phase));
  // Nobody is taken over from where nobody is lost. Where controllers alone are, what computes for them goes on for a while.
  const losing = kinds.filter((kind) => LOSING.includes(kind));
  if (cell.phase === 'takeover' && losing.length > 0) {
    const ofControllers = random.below(2) === 0 || isOfControllers(cell);
    const kind = losing.includes('controllers-lost') && ofControllers ? 'controllers-lost' : (losing[random.below(losing.length)] as FaultKind);
    const loss = asNamed(drawn(kind, (['admission', 'prefill', 'decode', 'decode'] as const)[random.below(4)]));
    const [first] = faults;
    // Who is lost already is not lost again.
    const struck = first?.kind === 'expert-lost' ? parts.holderOf(first) : first !== undefined && 'worker' in first ? first.worker : -1;
    faults.push('worker' in loss && loss.worker === struck ? { ...loss, worker: (loss.worker + 1) % parts.workers } : loss);
  }
  const count = Math.min(FAULTS_MAX, 1 + random.below(3) + (random.below(4) === 0 ? 2 : 0));
  const lossesNow = (): number => faults.filter(({ kind }) => LOSING.includes(kind)).length;
  while (faults.length < count) {
    const kind = kinds[random.below(kinds.length)] as FaultKind;
    const other = LOSING.includes(kind) && lossesNow() >= LOSSES_MAX ? kinds.find((known) => !LOSING.includes(known)) : kind;
    // A clock twenty times as slow twice over waits for hours.
    if (other === 'clock-skew' && faults.some((fault) => fault.kind === other)) break;
    if (other === undefined) break;
    const fault = drawn(other);
    if (faults.some((before) => isOfSameClient(before, fault))) break;
    faults.push(fault);
  }
  return faults;
}

/** It strikes whom it names, and not whom its phase comes to. */
const asNamed = (fault: FaultInput): FaultInput =>
  'at' in fault && fault.at !== undefined && 'phase' in fault.at ? { ...fault, at: { ...fault.at, there: false } } : fault;

const drawPhase = (kind: FaultKind, random: SeededRandom): Cell['phase'] => {
  const moments = momentsOf(kind);
  return moments[random.below(moments.length + 1)] ?? (moments.at(-1) as Cell['phase']);
};

/** Up to so many milliseconds, or to a tenth of that. */
function drawMs(ms_max: number, random: SeededRandom): number {
  const unit = random.below(2) === 0 ? 10 : 100;
  return random.below(ms_max * 10) / unit;
}

function drawCall(random: SeededRandom): ChaosCall {
  const prompt_tokens = [3, 17, 33, 40][random.below(4)] as number;
  return {
    ms: random.below(2) === 0 ? 0 : drawMs(ASKED_MS_MAX, random),
    key: random.below(KEYS),
    prompt_tokens,
    stem_tokens: random.below(3) === 0 ? 16 : 0,
    max_tokens: [2, 5, 9, 24][random.below(4)] as number,
    n: random.below(4) === 0 ? 2 : 1,
    ...(random.below(4) === 0 && { priority: random.below(5) - 2 }),
    ...(random.below(16) === 0 && { deadline_ms: [2, 20, 200][random.below(3)] as number }),
  };
}

/** Up to what memory is reserved for. */
function drawShapes({ topology, scale_max, scale_min }: PodOptions, random: SeededRandom): Pick<ChaosPlan, 'shapes'> {
  if (scale_max === undefined) return {};
  const { attention = 1, experts = 0, executor } = scale_max;
  const domains = parseTopology(topology as string)[0]?.split?.domains ?? 1;
  const fewest = scale_min?.experts ?? experts;
  const draw = (): NonNullable<ChaosPlan['shapes']>[number] => ({
    ms: drawMs(CHANGED_MS_MAX, random),
    ...(typeof executor === 'number' && { executor }),
    attention: domains * (1 + random.below(Math.floor(attention / domains))),
    ...(experts > 0 && { experts: fewest + random.below(experts - fewest + 1) }),
    deadline_ms: [5, 1_000][random.below(2)] as number,
  });
  return { shapes: Array.from({ length: 1 + random.below(3) }, draw) };
}

/** The pod balances by itself too, seldom: so that little happens while it waits for what hangs. */
function drawRebalances({ expert_balancing }: PodOptions, random: SeededRandom): Pick<ChaosPlan, 'rebalances'> {
  if (expert_balancing === undefined) return {};
  return { rebalances: Array.from({ length: 1 + random.below(4) }, () => ({ ms: drawMs(CHANGED_MS_MAX, random) })) };
}

function partsOf({ topology, workers = 1, npu_workers, job_executors = 1, scale_max, scale_min }: PodOptions): Parts {
  const { topology: largest, scaled } = largestTopology(parseTopology(topology as string), scale_max, scale_min);
  const deployment = deploy(largest, scaled?.experts == null ? null : { executor: scaled.executor, ...scaled.experts });
  const { npus, groups, executors } = deployment;
  const attention = npus.flatMap(({ id, kind }) => (kind === 'attention' ? [id] : []));
  const workerOf = npu_workers ?? dealtOutByKind(npus, workers, (npu) => isServing(deployment, scaled, npu));
  return {
    workers,
    npus: npus.length,
    attention,
    groups: groups.length,
    executors: executors.length,
    copies: Math.min(...executors.map(({ experts }) => experts.npus)),
    holderOf: ({ executor = 0, expert }) => {
      const { first, npus: all, serving = all } = (executors[executor] as Executor).experts;
      return workerOf[npuOfExpert(expert, { first, npus: serving })] as number;
    },
    job_executors,
  };
}

function drawFault(kind: FaultKind, parts: Parts, calls: number, random: SeededRandom, phase: Cell['phase']): FaultInput {
  const draw = (limit: number): number => random.below(limit);
  const often = SELDOM.includes(phase) ? [1, 1, 1, 2] : [1, 1, 2, 3];
  // Nothing rests in DRAM at first.
  const nth = (kind === 'dram-bit-flip' && phase !== 'takeover' ? [1, 2, 4, 8] : often)[draw(4)] as number;
  const anyTime = draw(2) === 0 ? { event: 1 + draw(500) } : { ms: drawMs(STRUCK_MS_MAX, random) };
  const whileAsked = kind === 'dram-bit-flip' ? { ms: drawMs(2, random) } : anyTime;
  const at = phase === 'time' || phase === 'client' ? whileAsked : { phase, nth, there: draw(2) === 0 };
  // Who hangs while others take over is the more often found to hang.
  const for_ms = (phase === 'takeover' ? [5, 50, 500, 500] : [0.5, 5, 50, 500])[draw(4)] as number;
  const [worker, npu] = [draw(parts.workers), draw(parts.npus)];
  const stepping = (): number => parts.attention[draw(parts.attention.length)] as number;
  const thread = (): number | 'control' => (draw(2) === 0 ? 'control' : draw(parts.workers));
  const ends = (): { readonly from: number | 'control'; readonly to: number | 'control' } => {
    const from = thread();
    if (from === 'control') return { from, to: draw(parts.workers) };
    const to = draw(2) === 0 ? 'control' : draw(parts.workers);
    return { from, to: to === from ? 'control' : to };
  };
  switch (kind) {
    case 'worker-lost':
    case 'controllers-lost':
      return { kind, worker, at };
    case 'zombie-writes':
      return { kind, worker, at };
    case 'expert-lost':
      return { kind, executor: draw(parts.executors), expert: draw(EXPERTS), copy: draw(2) % parts.copies, at };
    case 'worker-hangs':
      return { kind, worker, at, for_ms };
    case 'thread-pauses':
      return { kind, thread: thread(), at, for_ms: [0.5, 5, 50, 100][draw(4)] as number };
    case 'npu-hangs':
      return { kind, npu, at, for_ms };
    case 'npu-slow':
    case 'npu-jitter':
      return { kind, npu: stepping(), factor: 2 + draw(30), at, for_ms: 10 * for_ms };
    case 'step-fails':
      return { kind, npu: stepping(), at };
    case 'dp-group-hangs':
      return { kind, id: draw(parts.groups), at, for_ms };
    case 'task-executor-hangs':
      return { kind, id: draw(parts.executors), at, for_ms };
    case 'job-executor-hangs':
      return { kind, id: draw(parts.job_executors), at, for_ms };
    case 'cluster-manager-hangs':
      // Longer than its lease, or not.
      return { kind, id: draw(2), at, for_ms: draw(2) === 0 ? for_ms : 5_000 };
    case 'link-slow':
      return { kind, ...ends(), factor: 10 + draw(1_000), at, for_ms };
    case 'link-cut':
      return { kind, ...ends(), both: draw(2) === 0, at, for_ms };
    case 'clock-skew':
      return { kind, thread: thread(), factor: [0.1, 0.5, 3, 20][draw(4)] as number, at, for_ms: 500 };
    case 'client-gone':
      return { kind, call: draw(calls), ...(phase === 'client' ? { after_chunks: draw(5) } : { at }) };
    case 'client-slow':
      return { kind, call: draw(calls), turns: 1 + draw(4) };
    case 'message-delayed': {
      const delay_ms = [0.1, 1, 20][draw(3)] as number;
      const types = delayedAt(phase);
      // All of one type are late, and all else is not: who should hear of it first hears of it last.
      const which = draw(2) === 0 ? { type: types[draw(types.length)] as string } : { share: [1, 0.3, 0.05][draw(3)] as number };
      return { kind, delay_ms, ...which, at, for_ms };
    }
    case 'message-reordered':
      return { kind, delay_ms: [0.01, 0.1, 1][draw(3)] as number, share: 0.2, at, for_ms };
    case 'message-duplicated':
      return { kind, late_ms: [0, 0.1, 5, 50][draw(4)] as number, share: 0.2, at, for_ms };
    case 'message-dropped':
    case 'message-corrupted':
      return { kind, share: 0.2, at, for_ms };
    case 'kv-bit-flip':
      return { kind, npu: stepping(), block: draw(64), bit: draw(1_024), at };
    case 'dram-bit-flip':
      return { kind, npu: stepping(), block: draw(64), bit: draw(1 << 20), at };
    case 'row-bit-flip':
      return { kind, npu, bit: draw(4_096), at };
    case 'weights-bit-flip':
      return { kind, npu, part: draw(64), bit: draw(1_024), at };
  }
}
