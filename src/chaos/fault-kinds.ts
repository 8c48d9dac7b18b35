/**
 * What is known of each kind of fault: whether the pod is promised to survive it today, and if not, why. A campaign draws from the former alone; the latter may be
 * named in a plan, or in `--faults`, and are what a run finds something with.
 * @module
 */
import type { Fault, FaultKind, Phase } from './fault-plan.ts';

export type KindTerms = {
  /** Null: survived; else why a campaign leaves it out. */
  readonly excluded: string | null;
  /** Moments that make sense for it, beside any time. */
  readonly phases: readonly Phase[];
};

const ANY: readonly Phase[] = ['admission', 'prefill', 'decode', 'dispatch', 'kv-transfer', 'rebalance', 'scaling', 'takeover'];
const survived = (phases: readonly Phase[] = ANY): KindTerms => ({ excluded: null, phases });
const excluded = (why: string): KindTerms => ({ excluded: why, phases: [] });

export const KIND_TERMS: Readonly<Record<FaultKind, KindTerms>> = {
  'worker-lost': survived(),
  'controllers-lost': survived(),
  'worker-hangs': survived(),
  'npu-hangs': survived(),
  'npu-slow': survived(),
  'npu-jitter': survived(),
  'step-fails': survived(['prefill', 'decode', 'dispatch', 'kv-transfer', 'rebalance', 'scaling']),
  'dp-group-hangs': survived(),
  'task-executor-hangs': survived(),
  'job-executor-hangs': survived(),
  'cluster-manager-hangs': survived(),
  'link-slow': survived(),
  'link-cut': survived(),
  'clock-skew': survived(),
  'client-gone': survived([]),
  'client-slow': survived([]),
  'message-delayed': survived(),
  'message-dropped': survived(),
  'message-duplicated': survived(),
  'message-reordered': survived(),
  'message-corrupted': survived(),
  'kv-bit-flip': excluded('KV at rest has no checksum: a flipped bit is computed with'),
};

/** Kinds that a campaign draws from by itself. */
export const SURVIVED: readonly FaultKind[] = (Object.keys(KIND_TERMS) as FaultKind[]).filter((kind) => KIND_TERMS[kind].excluded === null);

/** Of the report: when it was to strike. */
export const phaseOf = (fault: Fault): Phase | 'time' | 'client' => {
  if (!('at' in fault)) return 'client';
  return 'phase' in fault.at ? fault.at.phase : 'time';
};
