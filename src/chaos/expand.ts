/**
 * A seed's plan: pod, calls and faults, all drawn from it. Its first fault is of the kind and phase whose turn it is, in
 * a pod that has the phase: neighbouring seeds have them all, and each comes with all topologies in turn.
 * @module
 */
import type { PodOptions } from '../options/options.ts';
import { MinipodError } from '../protocol/errors.ts';
import { parseTopology } from '../protocol/topology.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { drawFault, drawMs, drawPhase, type Parts, partsOf } from './drawn-fault.ts';
import { type Cell, cellsOf, isOfSameClient, KIND_TERMS, LOSING, OF_CONTROL } from './fault-kinds.ts';
import { type ChaosCall, type ChaosPlan, FAULT_KINDS, type FaultInput, type FaultKind, parsePlan } from './fault-plan.ts';
import { drawRecovery, ENDING, RECOVERIES, type Recovery, withRecovery } from './recoveries.ts';
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
/** Four blocks, and one token: what is shorter is computed sooner than fetched. */
const WORTH_FETCHING = 65;
const [ROUNDS, KEYS_AGAIN] = [4, 5];
/** When the first are answered, as a rule. */
const ASKED_AGAIN_MS = 0.7;
/** Calls of different runs are often the same, so that what they are answered undisturbed is known. */
const KEYS = 12;
/** Until a pod has what a cell needs. */
const DRAWS_MAX = 16;

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
  cell: Cell,
  names: readonly string[],
  recoveries: readonly Recovery[],
  random: SeededRandom,
  chance: SeededRandom,
): readonly [PodOptions, Recovery] {
  const { phase, recovery: wanted } = cell;
  const recovery = wanted === 'any' ? drawRecovery(phase, recoveries, chance) : wanted;
  for (const name of names)
    for (let draws = 0; draws < DRAWS_MAX; draws++) {
      const pod = drawPod(name, random);
      if (suits(cell, pod) && withRecovery(pod, recovery, chance) !== null) return [pod, recovery];
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

function suits({ kind, phase }: Cell, { expert_balancing, workers = 1, job_executors = 1 }: PodOptions): boolean {
  // Else it is the control thread's loss.
  if (kind === 'job-executor-crashes' && job_executors === 1) return false;
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
  const drawn = (kind: FaultKind, phase?: Cell['phase']): FaultInput => drawFault(kind, parts, calls, random, phase ?? drawPhase(kind, parts, random));
  const faults = [drawn(cell.kind, cell.phase)];
  // What nobody wants back changes nothing.
  if (cell.kind === 'dram-bit-flip') faults.push(drawn(cell.kind, cell.phase));
  // What is told apart by all recoveries has the most cells; weights that went bad are used the most seldom.
  const hasAllRecoveries = (kind: FaultKind): boolean => ENDING.includes(kind) && KIND_TERMS[kind].tried_with === undefined;
  const weighed = kinds.flatMap((kind) => new Array<FaultKind>(kind === 'weights-bit-flip' ? 3 : hasAllRecoveries(kind) ? 2 : 1).fill(kind));
  // Nobody is taken over from where nobody is lost. Where controllers alone are, what computes for them goes on for a while.
  const losing = kinds.filter((kind) => LOSING.includes(kind) && !OF_CONTROL.includes(kind));
  if (cell.phase === 'takeover' && losing.length > 0) {
    const ofControllers = random.below(2) === 0 || isOfControllers(cell);
    const kind = losing.includes('controllers-lost') && ofControllers ? 'controllers-lost' : (losing[random.below(losing.length)] as FaultKind);
    const loss = asNamed(drawn(kind, (['admission', 'prefill', 'decode', 'decode'] as const)[random.below(4)]));
    const [first] = faults;
    // Who is lost already is not lost again.
    const struck = first === undefined ? -1 : parts.endedBy(first);
    faults.push('worker' in loss && loss.worker === struck ? { ...loss, worker: (loss.worker + 1) % parts.workers } : loss);
  }
  const count = Math.min(FAULTS_MAX, 1 + random.below(3) + (random.below(4) === 0 ? 2 : 0));
  const lossesNow = (): number => faults.filter(({ kind }) => LOSING.includes(kind)).length;
  while (faults.length < count && kinds.length > 0) {
    const kind = weighed[random.below(weighed.length)] as FaultKind;
    const other = LOSING.includes(kind) && lossesNow() >= LOSSES_MAX ? kinds.find((known) => !LOSING.includes(known)) : kind;
    // A clock twenty times as slow twice over waits for hours.
    if (other === 'clock-skew' && faults.some((fault) => fault.kind === other)) break;
    if (other === undefined) break;
    if (isApartFrom(faults, other)) break;
    const fault = drawn(other);
    if (faults.some((before) => isOfSameClient(before, fault))) break;
    faults.push(fault);
  }
  return faults;
}

/** A trace is of one pod: none is judged where another one may begin in its place. */
const isApartFrom = (faults: readonly FaultInput[], other: FaultKind): boolean =>
  other === 'trace-disk-full'
    ? faults.some(({ kind }) => OF_CONTROL.includes(kind))
    : OF_CONTROL.includes(other) && faults.some(({ kind }) => kind === 'trace-disk-full');

/** It strikes whom it names, and not whom its phase comes to. */
const asNamed = (fault: FaultInput): FaultInput =>
  'at' in fault && fault.at !== undefined && 'phase' in fault.at ? { ...fault, at: { ...fault.at, there: false } } : fault;

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
