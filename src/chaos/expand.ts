/**
 * A seed's plan: pod, calls and faults, all drawn from it. Its first fault is of the kind and phase whose turn it is, in
 * a pod that has the phase: neighbouring seeds have them all, and each comes with all topologies in turn.
 * @module
 */
import { largestTopology } from '../flowserve/scale-shapes.ts';
import type { PodOptions } from '../options.ts';
import { MinipodError } from '../protocol/errors.ts';
import { deploy, parseTopology } from '../protocol/topology.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { type Cell, cellsOf, KIND_TERMS, SURVIVED } from './fault-kinds.ts';
import { type ChaosCall, type ChaosPlan, FAULT_KINDS, type FaultInput, type FaultKind, parsePlan } from './fault-plan.ts';
import { drawPod, TOPOLOGIES, topologiesWith } from './topologies.ts';

/** What a campaign draws from; missing: all that the pod is promised to survive. */
export type Scope = { readonly topologies?: readonly string[] | undefined; readonly faults?: readonly string[] | undefined };

/** The plan's draws are of no stream that a run draws from. */
const PLAN_STREAM = 7;
const FAULTS_MAX = 5;
/** Fewer than end a pod (restart-intensity.ts), and than end a request (actors/request.ts), but for one in so many runs. */
const LOSSES_MAX = 2;
/** Calls of different runs are often the same, so that what they are answered undisturbed is known. */
const KEYS = 24;

const LOSING: ReadonlySet<FaultKind> = new Set(['worker-lost', 'controllers-lost']);
/** Which of a pod's parts there are so many of. */
type Parts = { readonly workers: number; readonly npus: number; readonly groups: number; readonly executors: number; readonly job_executors: number };

/** @throws `invalid_request` for a topology or a kind of fault that there is not */
export function expandSeed(seed: number, { topologies = TOPOLOGIES, faults: kinds = SURVIVED }: Scope = {}): ChaosPlan {
  const unknown = topologies.find((name) => !TOPOLOGIES.includes(name));
  if (unknown !== undefined || topologies.length === 0)
    throw new MinipodError('invalid_request', `topology: there is no ${unknown ?? 'topology'}; there are ${TOPOLOGIES.join(', ')}`, { param: 'topology' });
  const strange = kinds.find((kind) => !FAULT_KINDS.includes(kind as FaultKind));
  if (strange !== undefined)
    throw new MinipodError('invalid_request', `faults: there is no ${strange}; there are ${FAULT_KINDS.join(', ')}`, { param: 'faults' });
  const random = new SeededRandom(seed, PLAN_STREAM);
  const cells = cellsOf(kinds as readonly FaultKind[]);
  const at = seed % Math.max(1, cells.length);
  const cell = cells[at];
  const names = topologiesWith(cell?.phase ?? 'time', topologies);
  const pod = drawPod(names[(at + Math.floor(seed / Math.max(1, cells.length))) % names.length] as string, random);
  const calls = Array.from({ length: 2 + random.below(5) }, () => drawCall(random));
  const shapes = drawShapes(pod, random);
  const faults: FaultInput[] = cell === undefined ? [] : drawFaults(cell, kinds as readonly FaultKind[], partsOf(pod), calls.length, random);
  return parsePlan({ seed, pod, calls, ...shapes, faults }, `the plan of seed ${seed}`);
}

function drawFaults(cell: Cell, kinds: readonly FaultKind[], parts: Parts, calls: number, random: SeededRandom): FaultInput[] {
  const drawn = (kind: FaultKind, phase?: Cell['phase']): FaultInput => drawFault(kind, parts, calls, random, phase ?? drawPhase(kind, random));
  const faults = [drawn(cell.kind, cell.phase)];
  // Nobody is taken over from where nobody is lost.
  const losing = kinds.filter((kind) => LOSING.has(kind));
  if (cell.phase === 'takeover' && losing.length > 0) faults.push(drawn(losing[random.below(losing.length)] as FaultKind, 'admission'));
  const count = Math.min(FAULTS_MAX, 1 + random.below(3) + (random.below(4) === 0 ? 2 : 0));
  const lossesNow = (): number => faults.filter(({ kind }) => LOSING.has(kind)).length;
  while (faults.length < count) {
    const kind = kinds[random.below(kinds.length)] as FaultKind;
    const other = LOSING.has(kind) && lossesNow() >= LOSSES_MAX ? kinds.find((known) => !LOSING.has(known)) : kind;
    if (other === undefined) break;
    faults.push(drawn(other));
  }
  return faults;
}

const drawPhase = (kind: FaultKind, random: SeededRandom): Cell['phase'] => {
  const { phases } = KIND_TERMS[kind];
  return phases[random.below(phases.length + 2)] ?? 'time';
};

function drawCall(random: SeededRandom): ChaosCall {
  const prompt_tokens = [3, 17, 33, 40][random.below(4)] as number;
  return {
    key: random.below(KEYS),
    prompt_tokens,
    stem_tokens: random.below(3) === 0 ? 16 : 0,
    max_tokens: [2, 5, 9][random.below(3)] as number,
    n: random.below(4) === 0 ? 2 : 1,
    ...(random.below(4) === 0 && { priority: random.below(5) - 2 }),
    ...(random.below(16) === 0 && { deadline_ms: [2, 20, 200][random.below(3)] as number }),
  };
}

/** Up to what memory is reserved for. */
function drawShapes({ topology, scale_max, scale_min }: PodOptions, random: SeededRandom): Pick<ChaosPlan, 'shapes'> {
  if (scale_max === undefined) return {};
  const { attention = 1, experts = 0 } = scale_max;
  const domains = parseTopology(topology as string)[0]?.split?.domains ?? 1;
  const fewest = scale_min?.experts ?? experts;
  const draw = (): NonNullable<ChaosPlan['shapes']>[number] => ({
    ms: random.below(150) / 10,
    attention: domains * (1 + random.below(Math.floor(attention / domains))),
    ...(experts > 0 && { experts: fewest + random.below(experts - fewest + 1) }),
    deadline_ms: [5, 1_000][random.below(2)] as number,
  });
  return { shapes: Array.from({ length: 1 + random.below(3) }, draw) };
}

function partsOf({ topology, workers = 1, job_executors = 1, scale_max, scale_min }: PodOptions): Parts {
  const { npus, groups, executors } = deploy(largestTopology(parseTopology(topology as string), scale_max, scale_min).topology);
  return { workers, npus: npus.length, groups: groups.length, executors: executors.length, job_executors };
}

function drawFault(kind: FaultKind, parts: Parts, calls: number, random: SeededRandom, phase: Cell['phase']): FaultInput {
  const draw = (limit: number): number => random.below(limit);
  const nth = [1, 1, 2, 3][draw(4)] as number;
  const anyTime = draw(2) === 0 ? { event: 1 + draw(500) } : { ms: draw(200) / 10 };
  const at = phase === 'time' || phase === 'client' ? anyTime : { phase, nth };
  const for_ms = [0.5, 5, 50, 500][draw(4)] as number;
  const [worker, npu] = [draw(parts.workers), draw(parts.npus)];
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
    case 'worker-hangs':
      return { kind, worker, at, for_ms };
    case 'npu-hangs':
      return { kind, npu, at, for_ms };
    case 'npu-slow':
    case 'npu-jitter':
      return { kind, npu, factor: 2 + draw(30), at, for_ms };
    case 'step-fails':
      return { kind, npu, at };
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
      return { kind, call: draw(calls), after_chunks: draw(5) };
    case 'client-slow':
      return { kind, call: draw(calls), turns: 1 + draw(4) };
    case 'message-delayed':
      return { kind, delay_ms: [0.1, 1, 20][draw(3)] as number, share: [1, 0.3, 0.05][draw(3)] as number, at, for_ms };
    case 'message-reordered':
      return { kind, delay_ms: [0.01, 0.1, 1][draw(3)] as number, share: 0.2, at, for_ms };
    case 'message-dropped':
    case 'message-duplicated':
    case 'message-corrupted':
      return { kind, share: 0.2, at, for_ms };
    case 'kv-bit-flip':
      return { kind, npu, bit: draw(1_024), at };
  }
}
