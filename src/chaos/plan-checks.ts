/**
 * Plans that cannot be judged are refused, before anything of them happens: what of a plan its pod cannot do is nobody's fault.
 * @module
 */

import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { shapeAskedFor } from '../flowserve/scale-shapes.ts';
import type { PodOptions } from '../options.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { CallReport } from './client.ts';
import type { ChaosPlan } from './fault-plan.ts';
import { optionsOf, promptOf, type Undisturbed } from './undisturbed.ts';

const refuse = (param: 'calls' | 'shapes' | 'rebalances' | 'faults', why: string): MinipodError =>
  new MinipodError('invalid_request', `${param}: ${why}`, { param });

/** @throws `invalid_request` for what the pod cannot do, whoever is lost */
export function checkPlan({ pod, calls, shapes = [], rebalances = [], faults }: ChaosPlan, { hosting, options }: AnyPodPlan): void {
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
  for (const fault of faults)
    if ('call' in fault && fault.call >= calls.length) throw refuse('faults', `${fault.kind} names call ${fault.call}, and the plan has ${calls.length}`);
  // Which tokens of a request count is not told where it goes on from what was computed without some experts.
  const penalised = calls.findIndex(({ frequency_penalty = 0 }) => frequency_penalty !== 0);
  if (pod['degraded'] === true && penalised >= 0)
    throw refuse('calls', `${penalised}: frequency_penalty cannot be judged in a pod that does without experts (degraded): leave one of them out`);
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
