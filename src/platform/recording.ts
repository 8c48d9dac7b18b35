/** What a pod's trace begins with, and who writes it. @module */
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { modelDigest } from '../model/model-digest.ts';
import type { MinipodError } from '../protocol/errors.ts';
import { formatTopology } from '../protocol/topology.ts';
import { type ActRing, makeActRing, type WhenFull } from '../trace/act-log.ts';
import { LiveRecorder } from '../trace/live-recorder.ts';
import { type RunHeader, runHeader } from '../trace/run-header.ts';
import type { ControlOptions, OnInspected } from './control-handle.ts';

type Run = Pick<RunHeader, 'clock' | 'seed' | 'kernels'> & { readonly record_prompts: boolean };

export function headerOf({ clock, seed, kernels, record_prompts }: Run, checkpoint: Checkpoint, { hosting, npus, workers, options }: AnyPodPlan): RunHeader {
  const { kv_blocks, dram_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued } = options;
  return runHeader({
    clock,
    seed,
    kernels,
    model: { name: checkpoint.config.name, digest: modelDigest(checkpoint) },
    ...(!record_prompts && { prompts: 'redacted' as const }),
    topology: formatTopology(hosting.deployment.topology),
    npus,
    workers,
    options: { kv_blocks, dram_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued, job_executors: hosting.job_executors },
  });
}

/** The run goes on, or has ended well; whoever wanted its trace must hear that there is no whole one. */
export const warnRecordingEnded = (error: MinipodError): void => process.emitWarning(error.message, { type: 'RecordingEnded' });

type Wishes = { readonly record_when_full?: WhenFull | undefined; readonly record_prompts: boolean };

/** @throws `trace_not_written` */
export const startRecorder = (
  path: string,
  { record_when_full = 'wait', record_prompts }: Wishes,
  checkpoint: Checkpoint,
  plan: AnyPodPlan,
): Promise<LiveRecorder> =>
  LiveRecorder.create({
    path,
    header: headerOf({ clock: 'live', seed: null, kernels: 'real', record_prompts }, checkpoint, plan),
    whenFull: record_when_full,
    onEnded: warnRecordingEnded,
  });

/** For a life of a thread: to whoever looks on, if anybody does. */
export function inspectionRings({ inspected }: ControlOptions, thread: number, onInspected: OnInspected): ActRing[] {
  if (inspected === undefined) return [];
  const ring = makeActRing(thread, inspected, { whenFull: 'wait', prompts: 'recorded' });
  onInspected(ring);
  return [ring];
}
