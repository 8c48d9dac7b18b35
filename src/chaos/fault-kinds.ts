/**
 * What is known of each kind of fault: when it makes sense, and how a pod survives it, as all do.
 * @module
 */
import type { Fault, FaultInput, FaultKind, Phase } from './fault-plan.ts';
import { ENDING, isTriedAt, RECOVERIES, type Recovery } from './recoveries.ts';

export type KindTerms = {
  /** Moments that make sense for it, beside any time. */
  readonly phases: readonly Phase[];
  /** How the pod goes on. */
  readonly recovery: string;
  /** Why it is not tried at the other phases. */
  readonly not_at?: string;
  /** The recoveries that it is tried with, and why with no others; missing: all. */
  readonly tried_with?: { readonly recoveries: readonly Recovery[]; readonly why: string };
};

const ANY: readonly Phase[] = ['admission', 'prefill', 'decode', 'dispatch', 'kv-transfer', 'rebalance', 'scaling', 'takeover'];
const survived = (recovery: string, phases: readonly Phase[] = ANY, not_at?: string): KindTerms => ({
  phases,
  recovery,
  ...(not_at !== undefined && { not_at }),
});

const STEPPING: readonly Phase[] = ['prefill', 'decode', 'dispatch', 'kv-transfer', 'rebalance', 'scaling'];
const WAITED_FOR = 'what needs it waits until it heals, or is found silent on its worker, given up and succeeded';
const LEASED = 'another leads when its lease has run out';
const CRASHED: KindTerms = {
  ...survived('its thread ends by the error with all that lives there: what a lost worker is survived by'),
  tried_with: { recoveries: ['successors', 'restart', 'no-successors'], why: 'its worker ends as any lost one does, which `worker-lost` tries with all' },
};
const READERS = 'it is by how much has been read: clients see no phases';

export const KIND_TERMS: Readonly<Record<FaultKind, KindTerms>> = {
  'worker-lost': survived('successors; requests move, and their KV is computed anew'),
  'controllers-lost': survived('other job executors take requests over, another manager leads'),
  'control-lost': survived('another one begins with all other threads: calls go on from their records, and what nobody had opened is asked again'),
  'zombie-writes': survived('what it writes is of an epoch that is over: nobody believes it'),
  'expert-lost': survived('asked of its copies, or of the successor that has its weights again'),
  'worker-hangs': survived(WAITED_FOR),
  'thread-pauses': survived('what needs it waits, and nobody is given up'),
  'npu-hangs': survived(WAITED_FOR),
  'npu-slow': survived('others take what is not placed yet'),
  'npu-jitter': survived('others take what is not placed yet'),
  'step-fails': survived('its NPU is reset, what it held fails, all else goes on', STEPPING, 'it is tried where steps run'),
  'dp-group-hangs': survived(WAITED_FOR),
  'task-executor-hangs': survived('what needs it waits until it heals, or is found silent, and the control thread is lost with it'),
  'job-executor-hangs': survived(WAITED_FOR),
  'cluster-manager-hangs': survived(LEASED),
  'npu-crashes': CRASHED,
  'dp-group-crashes': CRASHED,
  'task-executor-crashes': survived('it lives on the control thread, and its loss is survived'),
  'job-executor-crashes': CRASHED,
  'cluster-manager-crashes': CRASHED,
  'link-slow': survived('nothing overtakes, nothing is lost'),
  'link-cut': survived('what is cut off waits in its ring'),
  'ring-full': survived('what finds no room waits at its sender, in order, and nobody waits for room'),
  'trace-disk-full': survived('the run goes on; its trace ends with what was written whole, and says so'),
  'clock-skew': survived('no order depends on a clock'),
  'client-gone': survived('its request is let go of wherever it is'),
  'client-slow': survived('its chunks wait for it', [], READERS),
  'message-delayed': survived('nothing overtakes, nothing is lost'),
  'message-dropped': survived('sent again'),
  'message-duplicated': survived('told by its number'),
  'message-reordered': survived('sorted by numbers'),
  'message-corrupted': survived('told by its sum, sent again'),
  'kv-bit-flip': survived(
    'found by its sum before a token is drawn from it; the block is mapped out, what lay there is computed anew',
    ['prefill', 'decode', 'dispatch', 'kv-transfer', 'rebalance', 'scaling', 'takeover'],
    'nothing is held yet',
  ),
  'dram-bit-flip': survived(
    'found by its sum when it comes back to the NPU; the block of DRAM is mapped out, what lay there is computed anew',
    ['prefill', 'decode', 'dispatch', 'kv-transfer', 'rebalance', 'scaling', 'takeover'],
    'nothing has left the NPU yet',
  ),
  'row-bit-flip': survived('found by their sum before anything comes of them; the step is computed once more', STEPPING, 'it is tried where steps run'),
  'weights-bit-flip': survived("found by their sum before anybody hears of what came of them; a successor loads its worker's weights anew"),
};

/** Of these a request bears as many as of lost workers. */
export const LOSING: readonly FaultKind[] = [
  ...(['worker-lost', 'zombie-writes', 'expert-lost', 'controllers-lost', 'weights-bit-flip'] as const),
  ...(['npu-crashes', 'dp-group-crashes', 'job-executor-crashes', 'cluster-manager-crashes', 'control-lost', 'task-executor-crashes'] as const),
];

/** The control thread may be lost by them. */
export const OF_CONTROL: readonly FaultKind[] = [
  ...(['control-lost', 'task-executor-crashes', 'task-executor-hangs', 'job-executor-crashes', 'cluster-manager-crashes'] as const),
];

/** A kind of fault at a phase; `time`: at any. `any`: it ends no worker, whatever the pod does then. */
export type Cell = { readonly kind: FaultKind; readonly phase: Phase | 'time' | 'client'; readonly recovery: Recovery | 'any' };

/** A kind's phases, any time, and by how much a client has read. */
export const momentsOf = (kind: FaultKind): readonly Cell['phase'][] => {
  if (kind === 'client-slow') return ['client'];
  return [...KIND_TERMS[kind].phases, 'time', ...(kind === 'client-gone' ? (['client'] as const) : [])];
};

/** What of a pod's recovery the kind is told apart by. */
export const recoveryFor = (kind: FaultKind, recovery: Recovery): Cell['recovery'] => (ENDING.includes(kind) ? recovery : 'any');

/** What a campaign of these kinds and recoveries tries, in turn. */
export const cellsOf = (kinds: readonly FaultKind[], tried: readonly Recovery[] = RECOVERIES): Cell[] =>
  kinds.flatMap((kind): Cell[] => {
    const own = tried.filter((recovery) => KIND_TERMS[kind].tried_with?.recoveries.includes(recovery) ?? true);
    const recoveries = ENDING.includes(kind) ? (own.length > 0 ? own : tried) : (['any'] as const);
    return momentsOf(kind).flatMap((phase) =>
      recoveries.filter((recovery) => recovery === 'any' || isTriedAt(recovery, phase)).map((recovery) => ({ kind, phase, recovery })),
    );
  });

/** Of the report: when it was to strike. */
export const phaseOf = (fault: Fault): Phase | 'time' | 'client' => {
  if (!('at' in fault) || fault.at === undefined) return 'client';
  return 'phase' in fault.at ? fault.at.phase : 'time';
};

/** Both name the same call's client for the same, rather than whomever they meet. */
export const isOfSameClient = (one: FaultInput, other: FaultInput): boolean =>
  'call' in one && 'call' in other && one.kind === other.kind && one.call === other.call && !meets(one) && !meets(other);

const meets = (fault: FaultInput): boolean => 'at' in fault && fault.at !== undefined && 'there' in fault.at && fault.at.there === true;
