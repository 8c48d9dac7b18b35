/**
 * Plans that cannot be judged are refused, before anything of them happens: what of a plan its pod cannot do is nobody's fault.
 * @module
 */

import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { shapeAskedFor } from '../flowserve/scale-shapes.ts';
import type { PodOptions } from '../options/options.ts';
import { CONTROL_SILENT_MS_MAX } from '../platform/suspicions.ts';
import { type Role, roleOf } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import { CLUSTER_MANAGERS } from '../runtime/directory.ts';
import { BIRTH, MESSAGE_TYPES } from '../trace/vocabulary.ts';
import type { CallReport } from './client.ts';
import { isOfSameClient, OF_CONTROL } from './fault-kinds.ts';
import type { ChaosPlan, Fault } from './fault-plan.ts';
import { actorNamedBy } from './struck-part.ts';
import { optionsOf, promptOf, type Undisturbed } from './undisturbed.ts';

const refuse = (param: 'calls' | 'shapes' | 'rebalances' | 'faults', why: string): MinipodError =>
  new MinipodError('invalid_request', `${param}: ${why}`, { param });

/** @throws `invalid_request` for what the pod cannot do, whoever is lost */
export function checkPlan({ pod, calls, shapes = [], rebalances = [], faults }: ChaosPlan, { hosting, options, config }: AnyPodPlan): void {
  const { deployment, scaled } = hosting;
  const nodes = options.expert_balancing?.nodes ?? 1;
  for (const [index, { ms: _, ...shape }] of shapes.entries())
    try {
      shapeAskedFor(shape, deployment, scaled == null ? null : { executor: scaled.executor, nodes });
    } catch (error) {
      throw error instanceof MinipodError ? refuse('shapes', `${index}: ${error.message}`) : error;
    }
  if (rebalances.length > 0 && options.expert_balancing === undefined)
    throw refuse('rebalances', 'experts of this pod stay where they are: give it expert_balancing');
  checkClients(faults);
  checkClocks(faults);
  checkTraces(faults);
  for (const fault of faults) checkFault(fault, calls.length, hosting, config.moe.experts);
  // Which tokens of a request count is not told where it goes on from what was computed without some experts.
  const penalised = calls.findIndex(({ frequency_penalty = 0 }) => frequency_penalty !== 0);
  if (pod['degraded'] === true && penalised >= 0)
    throw refuse('calls', `${penalised}: frequency_penalty cannot be judged in a pod that does without experts (degraded): leave one of them out`);
}

/** @throws `invalid_request` where a client is to do the same twice */
function checkClients(faults: readonly Fault[]): void {
  const twice = faults.find((fault, index) => faults.slice(0, index).some((other) => isOfSameClient(other, fault)));
  if (twice !== undefined && 'call' in twice)
    throw refuse('faults', `${twice.kind} names call ${twice.call} twice: whoever has left does not leave again, and dawdles one way; leave one of them out`);
}

/** @throws `invalid_request` where one clock is to be wrong twice over: together they may be further off than any one may */
function checkClocks(faults: readonly Fault[]): void {
  const threads = faults.flatMap((fault) => (fault.kind === 'clock-skew' ? [fault.thread] : []));
  const twice = threads.find((thread, index) => threads.indexOf(thread) !== index);
  if (twice !== undefined) throw refuse('faults', `clock-skew names thread ${twice} twice: say once how wrong its clock is`);
}

/** @throws `invalid_request` where a trace is judged, which is of one pod, and another one may begin in its place */
function checkTraces(faults: readonly Fault[]): void {
  const of = faults.find(mayLoseControl);
  if (of !== undefined && faults.some(({ kind }) => kind === 'trace-disk-full'))
    throw refuse('faults', `trace-disk-full is of one pod's trace, and with ${of.kind} another pod may begin in its place: leave one of them out`);
}

/** The first job executor and the first cluster manager live on the control thread, with all task executors; who hangs there for long is lost with it, but for the leader. */
function mayLoseControl(fault: Fault): boolean {
  if (fault.kind === 'control-lost') return true;
  const lasts = !('for_ms' in fault) || fault.for_ms >= CONTROL_SILENT_MS_MAX;
  if (!('id' in fault) || !lasts || !(OF_CONTROL.includes(fault.kind) || fault.kind === 'job-executor-hangs')) return false;
  return roleOf(actorNamedBy(fault)) === 'task-executor' || fault.id === 0 || ('phase' in fault.at && fault.at.there);
}

/** @throws `invalid_request` for a fault of what the pod, or the plan, does not have */
function checkFault(fault: Fault, calls: number, { workers, job_executors, deployment }: AnyPodPlan['hosting'], experts: number): void {
  const check = (what: string, value: number | 'control', count: number, whose = 'the pod'): void => {
    if (value !== 'control' && value >= count) throw refuse('faults', `${fault.kind} names ${what} ${value}, and ${whose} has ${count}`);
  };
  if ('call' in fault) check('call', fault.call, calls, 'the plan');
  if ('worker' in fault) check('worker', fault.worker, workers);
  if ('npu' in fault) check('NPU', fault.npu, deployment.npus.length);
  if ('thread' in fault) check('worker', fault.thread, workers);
  if ('from' in fault) for (const end of [fault.from, fault.to]) check('worker', end, workers);
  if ('from' in fault && fault.from === fault.to) throw refuse('faults', `${fault.kind} is between two threads, and from and to are both ${fault.from}`);
  if ('executor' in fault) check('task executor', fault.executor, deployment.executors.length);
  if ('expert' in fault) check('expert', fault.expert, experts);
  const copies = fault.kind === 'expert-lost' ? (deployment.executors[fault.executor]?.experts.npus ?? 0) : 0;
  // No NPU has two of them.
  if (fault.kind === 'expert-lost' && fault.copy >= copies)
    throw refuse(
      'faults',
      `expert-lost names copy ${fault.copy}, counted from 0, and of an expert there are ${copies} at most: one on each NPU that has experts`,
    );
  if ('type' in fault && fault.type !== undefined && (!MESSAGE_TYPES.has(fault.type) || fault.type === BIRTH))
    throw refuse('faults', `${fault.kind}: there is no message ${fault.type}; minipod trace ls names those of a run that was recorded (--record)`);
  if (!('id' in fault)) return;
  const role = roleOf(actorNamedBy(fault));
  const counts: Partial<Record<Role, number>> = {
    'dp-group': deployment.groups.length,
    'task-executor': deployment.executors.length,
    'job-executor': job_executors,
    'cluster-manager': CLUSTER_MANAGERS.length,
  };
  check(role, fault.id, counts[role] as number);
}

/** Who was refused for what he asked: is he where nothing goes wrong, too? @throws `invalid_request` if so, with the reason */
export async function checkRefused(plan: ChaosPlan, options: PodOptions, reports: readonly CallReport[], undisturbed: Undisturbed): Promise<void> {
  const refused = reports.flatMap(({ code }, index) => (code === 'invalid_request' ? [index] : []));
  if (refused.length === 0) return;
  await using pod = await undisturbed.createPod(options, plan.mtp_layers);
  for (const index of refused) {
    const call = plan.calls[index] as ChaosPlan['calls'][number];
    const again = await pod.complete(promptOf(call), optionsOf(call)).catch((error: unknown) => error);
    if (again instanceof MinipodError && again.code === 'invalid_request') throw refuse('calls', `${index}: ${again.message}`);
  }
}
