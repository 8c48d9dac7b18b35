/** One fault of a seed's plan: whom of a pod it strikes, when, and how. @module */
import { isServing, largestTopology } from '../flowserve/scale-shapes.ts';
import type { PodOptions } from '../options/options.ts';
import type { Message } from '../protocol/messages.ts';
import { deploy, type Executor, npuOfExpert, parseTopology } from '../protocol/topology.ts';
import { dealtOutByKind } from '../runtime/directory.ts';
import type { SeededRandom } from '../runtime/seeded-random.ts';
import { type Cell, momentsOf } from './fault-kinds.ts';
import type { FaultInput, FaultKind } from './fault-plan.ts';

/** After the first call; undisturbed, one takes some hundredths of a millisecond to tenths. */
const STRUCK_MS_MAX = 6;
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

/** Of a layer of the shipped model. */
const EXPERTS = 32;

/** Which of a pod's parts there are so many of. */
export type Parts = {
  readonly workers: number;
  readonly npus: number;
  /** Of those, that run steps. */
  readonly attention: readonly number[];
  readonly groups: number;
  readonly executors: number;
  /** Of an expert, at most, whichever executor's it is. */
  readonly copies: number;
  readonly job_executors: number;
  /** Phases that do not come. */
  readonly absent: readonly Cell['phase'][];
  /** The worker that the fault ends, as the pod is at first; of mirrored experts that of the first copy. −1: none that is known here. */
  readonly endedBy: (fault: FaultInput) => number;
};

export function partsOf(pod: PodOptions): Parts {
  const { topology, workers = 1, npu_workers, job_executors = 1, scale_max, scale_min } = pod;
  const { topology: largest, scaled } = largestTopology(parseTopology(topology as string), scale_max, scale_min);
  const deployment = deploy(largest, scaled?.experts == null ? null : { executor: scaled.executor, ...scaled.experts });
  const { npus, groups, executors } = deployment;
  const attention = npus.flatMap(({ id, kind }) => (kind === 'attention' ? [id] : []));
  const workerOf = npu_workers ?? dealtOutByKind(npus, workers, (npu) => isServing(deployment, scaled, npu));
  const holderOf = (expert: number, executor = 0): number => {
    const { first, npus: all, serving = all } = (executors[executor] as Executor).experts;
    return npuOfExpert(expert, { first, npus: serving });
  };
  return {
    workers,
    npus: npus.length,
    attention,
    groups: groups.length,
    executors: executors.length,
    copies: Math.min(...executors.map(({ experts }) => experts.npus)),
    job_executors,
    absent: absentFrom(pod),
    endedBy: (fault) => {
      switch (fault.kind) {
        case 'expert-lost':
          return workerOf[holderOf(fault.expert, fault.executor)] as number;
        case 'npu-crashes':
          return workerOf[fault.npu] as number;
        case 'dp-group-crashes':
          return workerOf[groups[fault.id]?.npus[0] as number] as number;
        case 'cluster-manager-crashes':
          return fault.id === 0 ? -1 : workers - 1;
        default:
          return 'worker' in fault ? fault.worker : -1;
      }
    },
  };
}

function absentFrom({ topology, prefix_sharing, expert_balancing, rehome_after_ms, respawn, scale_max }: PodOptions): Cell['phase'][] {
  const lends = prefix_sharing === true || parseTopology(topology as string).some(({ role }) => role === 'prefill');
  // Else experts of the lost may be loaded elsewhere.
  const keepsExperts = expert_balancing === undefined && rehome_after_ms === undefined && respawn !== false;
  return [
    ...(lends ? [] : (['kv-transfer'] as const)),
    ...(keepsExperts ? (['rebalance'] as const) : []),
    ...(keepsExperts && scale_max === undefined ? (['scaling'] as const) : []),
  ];
}

/** At any of its moments that come in the pod, those that come seldom the more often. */
export function drawPhase(kind: FaultKind, { absent }: Parts, random: SeededRandom): Cell['phase'] {
  const moments = momentsOf(kind).filter((phase) => !absent.includes(phase));
  const weighed = moments.flatMap((phase) => (SELDOM.includes(phase) ? [phase, phase, phase] : [phase]));
  return weighed[random.below(weighed.length + 1)] ?? (moments.at(-1) as Cell['phase']);
}

/** Up to so many milliseconds, or to a tenth of that. */
export function drawMs(ms_max: number, random: SeededRandom): number {
  const unit = random.below(2) === 0 ? 10 : 100;
  return random.below(ms_max * 10) / unit;
}

export function drawFault(kind: FaultKind, parts: Parts, calls: number, random: SeededRandom, phase: Cell['phase']): FaultInput {
  const draw = (limit: number): number => random.below(limit);
  const often = SELDOM.includes(phase) ? [1, 1, 1, 2] : [1, 1, 2, 3];
  // Nothing rests in DRAM at first.
  const nth = (kind === 'dram-bit-flip' && phase !== 'takeover' ? [1, 2, 4, 8] : often)[draw(4)] as number;
  const anyTime = draw(2) === 0 ? { event: 1 + draw(500) } : { ms: drawMs(STRUCK_MS_MAX, random) };
  const whileAsked = kind === 'dram-bit-flip' ? { ms: drawMs(2, random) } : anyTime;
  const isTimed = phase === 'time' || phase === 'client';
  const at = isTimed ? whileAsked : { phase, nth, there: draw(2) === 0 };
  // Of what strikes the same whomever its phase comes to.
  const when = isTimed ? whileAsked : { phase, nth };
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
    case 'control-lost':
      return { kind, successor_ms: [0.5, 2, 20, 1_000][draw(4)] as number, at: when };
    case 'expert-lost':
      return { kind, executor: draw(parts.executors), expert: draw(EXPERTS), copy: draw(2) % parts.copies, at: when };
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
      // Longer than the control thread is given for that, or not.
      return { kind, id: draw(parts.executors), at, for_ms: draw(3) > 0 ? for_ms : 12_000 };
    case 'job-executor-hangs':
      return { kind, id: draw(parts.job_executors), at, for_ms };
    case 'cluster-manager-hangs':
      // Longer than another one takes to lead, or not.
      return { kind, id: draw(2), at, for_ms: draw(2) === 0 ? for_ms : 7_000 };
    case 'npu-crashes':
      return { kind, npu, at };
    case 'dp-group-crashes':
      return { kind, id: draw(parts.groups), at };
    case 'task-executor-crashes':
      return { kind, id: draw(parts.executors), at };
    case 'job-executor-crashes':
      // The first one is on the control thread, which is another kind's, too.
      return { kind, id: parts.job_executors > 1 && draw(4) > 0 ? 1 + draw(parts.job_executors - 1) : 0, at };
    case 'cluster-manager-crashes':
      return { kind, id: Math.min(1, draw(4)), at };
    case 'link-slow':
      return { kind, ...ends(), factor: 10 + draw(1_000), at, for_ms };
    case 'link-cut':
      return { kind, ...ends(), both: draw(2) === 0, at, for_ms };
    case 'ring-full':
      return { kind, ...ends(), frames: [1, 1, 2, 4][draw(4)] as number, every_ms: [0.1, 1, 5, 20][draw(4)] as number, at, for_ms };
    case 'trace-disk-full':
      return { kind, bytes: [0, 1_000, 10_000, 50_000][draw(4)] as number, at: when };
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
      return { kind, delay_ms, ...which, at: when, for_ms };
    }
    case 'message-reordered':
      return { kind, delay_ms: [0.01, 0.1, 1][draw(3)] as number, share: 0.2, at: when, for_ms };
    case 'message-duplicated':
      return { kind, late_ms: [0, 0.1, 5, 50][draw(4)] as number, share: 0.2, at: when, for_ms };
    case 'message-dropped':
    case 'message-corrupted':
      return { kind, share: 0.2, at: when, for_ms };
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
