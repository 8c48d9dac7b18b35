/** How the control plane's actors come to life. @module */

import { job } from '../../actors/job.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import { request } from '../../actors/request.ts';
import { task } from '../../actors/task.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { type Address, address, idOf } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import type { Birth } from '../runtime/cast.ts';

/** Requests, jobs and tasks come to life with their first message. */
export function birthOf(to: Address, message: Message): Birth | null {
  switch (message.type) {
    case 'SUBMIT':
      return { machine: request, input: { self: to, job: address('job', idOf(to)), sequences: message.sequences } };
    case 'PLAN':
      return { machine: job, input: { self: to, request: message.request, sequences: message.sequences } };
    case 'ASSIGN':
      return { machine: task, input: { self: to, job: message.job, sequence: message.sequence } };
    default:
      return null;
  }
}

/** The executors live as long as the pod. */
export function spawnExecutors(spawn: (address: Address, birth: Birth) => void, { npus, workers, options }: AnyPodPlan, choices_max: number): void {
  spawn('job-executor/0', { machine: jobExecutor, input: { self: 'job-executor/0', choices_max } });
  spawn('task-executor/0', { machine: taskExecutor, input: { self: 'task-executor/0', npus, workers, batch_max: options.max_batch_requests } });
}
