/**
 * Why a sequence that waited had no part in a step: as its scheduler decided it, told from outside.
 * @module
 */
import type { SchedulerLimits } from '../../../actors/policies/scheduler-limits.ts';
import type { Sequence } from '../../protocol/messages.ts';
import type { NpuStep } from './npu-steps.ts';
import type { PassedOver } from './request-life.ts';

export type StepLimits = {
  readonly max_batch_tokens: number;
  readonly max_batch_requests: number;
  /** Of its DP group; undefined: the trace does not have its birth. */
  readonly scheduler: SchedulerLimits | undefined;
};

export function whyPassedOver(
  step: NpuStep,
  sequence: Sequence | undefined,
  limits: StepLimits,
  sequenceOf: (request: number, choice: number) => Sequence | undefined,
): PassedOver {
  if (step.tokens >= limits.max_batch_tokens) return 'batch_tokens';
  if (step.parts.length >= limits.max_batch_requests) return 'batch_requests';
  return sequence !== undefined && isPrefixUnderWay(step, sequence, limits.scheduler, sequenceOf) ? 'prefix' : 'kv_blocks';
}

/** Whether another computes more of the same prefix in this step, or in the one that ran when it was planned, as the scheduler asks it (actors/policies/running-batch.ts). */
function isPrefixUnderWay(
  { parts, parts_before }: NpuStep,
  { prompt, cache_salt, sampling }: Sequence,
  scheduler: SchedulerLimits | undefined,
  sequenceOf: (request: number, choice: number) => Sequence | undefined,
): boolean {
  if (!scheduler?.has_prefix_cache || sampling.prompt_logprobs >= 0) return false;
  const block = scheduler.kv_block_size;
  return [...parts, ...parts_before].some(({ request, choice, kind, start }) => {
    const other = sequenceOf(request, choice);
    if (kind === 'decode' || other === undefined || other.cache_salt !== cache_salt) return false;
    const wanted = (Math.floor(start / block) + 1) * block;
    const isLong = wanted < prompt.length && wanted <= other.prompt.length && start < other.prompt.length - 1;
    return isLong && prompt.slice(0, wanted).every((token, at) => token === other.prompt[at]);
  });
}
