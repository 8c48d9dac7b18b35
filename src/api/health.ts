/**
 * `GET /health`: 200, with a body only where experts are done without (option `degraded`), or a task executor serves nobody and others do what it did; or 503 that says
 * what is wrong: the pod does not answer, a loop that has to go on by itself has stopped, somebody is silent whom nobody replaces, a lost worker's successor is long in
 * coming, or nobody is left for prefill or decode, since experts or DP groups are lost for good.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { PodStats } from '../stats.ts';
import { ApiError, toApiError } from './errors.ts';
import type { Service } from './service.ts';

/** A successor runs within tenths of a second; on a crowded machine, one that had to be loaded, within a few. */
const SUCCESSOR_SECONDS = 5;

export async function health(service: Service): Promise<Response> {
  if (service.admission.stopped) throw new MinipodError('closed', 'the server is closing');
  let stats: PodStats;
  try {
    stats = await service.pod.stats();
  } catch (error) {
    throw new ApiError(503, `The pod does not answer: ${toApiError(error).message}`, { cause: error, code: 'unhealthy' });
  }
  const troubles = [...deadLoops(stats), ...silentMembers(stats), ...lateSuccessors(stats), ...worn(stats), ...(isServed(stats) ? [] : lost(stats))];
  if (troubles.length > 0) throw new ApiError(503, troubles.join(' '), { code: 'unhealthy' });
  const reasons = [...masked(stats), ...lost(stats)];
  if (reasons.length > 0) return Response.json({ status: 'degraded', reasons });
  return new Response(null, { status: 200 });
}

const masked = ({ experts_masked }: PodStats): string[] =>
  experts_masked.map(
    ({ task_executor, npus }) =>
      `Task executor ${task_executor} serves without the experts that NPU ${npus.join(', ')} had: what it generates is marked degraded.`,
  );

const deadLoops = ({ loops }: PodStats): string[] =>
  loops
    .filter(({ stalled }) => stalled)
    .map(({ loop, owner, state, still_seconds }) => `The ${loop} loop of ${owner}, ${state}, has made no progress for ${still_seconds.toFixed(1)} s.`);

const WHY = {
  no_spare_seat: 'its thread cannot be ended, and no spare_workers are left for another',
  control_thread: 'it lives on the control thread, which is given up after 10 s of that',
} as const;

const silentMembers = ({ suspicions }: PodStats): string[] =>
  suspicions.standing.map(({ member, why, silent_seconds }) => `${member} has not answered for ${silent_seconds.toFixed(1)} s, and ${WHY[why]}.`);

/** Memory of which half has gone bad is no memory to go on with: its NPU serves ever fewer requests at once. */
const worn = ({ npus }: PodStats): string[] =>
  npus
    .filter(({ kv_blocks, kv_blocks_mapped_out }) => kv_blocks_mapped_out > 0 && kv_blocks_mapped_out >= kv_blocks)
    .map(({ npu, kv_blocks, kv_blocks_mapped_out: bad }) => `NPU ${npu} has lost ${bad} of its ${kv_blocks + bad} KV blocks to memory that went bad.`);

/** The latest loss of each worker counts: a successor that is lost before it runs has one of its own. What is told of a task executor is not told of its workers. */
const lateSuccessors = ({ recoveries, uptime_seconds, npus, experts_lost }: PodStats): string[] =>
  [...new Map(recoveries.map((recovery) => [recovery.worker, recovery])).values()]
    .filter(({ successor }) => successor)
    .map(({ worker, lost_at_seconds, start_ms }) => ({ worker, start_ms, seconds: uptime_seconds - lost_at_seconds }))
    .filter(({ start_ms, seconds }) => start_ms === null && seconds > SUCCESSOR_SECONDS)
    .filter(({ worker }) => {
      const own = npus.filter((npu) => npu.worker === worker);
      return own.length === 0 || own.some((npu) => !experts_lost.some(({ task_executor }) => task_executor === npu.task_executor));
    })
    .map(({ worker, seconds }) => `Worker ${worker} was lost ${seconds.toFixed(1)} s ago, and its successor does not run yet.`);

/** Each stage of a request has somebody who computes it. */
const isServed = ({ task_executors, experts_lost }: PodStats): boolean =>
  (['prefill', 'decode'] as const).every((stage) =>
    task_executors.some(
      ({ role, task_executor }) => (role === stage || role === 'colocated') && !experts_lost.some((lost) => lost.task_executor === task_executor),
    ),
  );

const lost = ({ experts_lost }: PodStats): string[] =>
  experts_lost.map(({ task_executor, reason }) => `Task executor ${task_executor} serves nobody: ${reason}.`);
