/** How the control plane's actors come to life. @module */

import { job } from '../../actors/job.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import type { ExecutorSeat } from '../../actors/policies/executor-choice.ts';
import type { GroupChoice, GroupSeat } from '../../actors/policies/group-choice.ts';
import { request } from '../../actors/request.ts';
import { task } from '../../actors/task.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { type Address, address, idOf } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import type { DpGroupPlace, ExecutorRole } from '../protocol/topology.ts';
import type { Birth } from '../runtime/cast.ts';

/** Requests, jobs and tasks come to life with their first message. */
export function birthOf(to: Address, message: Message): Birth | null {
  switch (message.type) {
    case 'SUBMIT':
      return { machine: request, input: { self: to, job: address('job', idOf(to)), sequences: message.sequences, deadline_ms: message.deadline_ms } };
    case 'PLAN':
      return { machine: job, input: { self: to, request: message.request, sequences: message.sequences, placements: message.placements } };
    case 'ASSIGN':
      return { machine: task, input: { self: to, job: message.job, sequence: message.sequence, placement: message.placement, handoff: message.handoff } };
    default:
      return null;
  }
}

/** The executors live as long as the pod. */
export function spawnExecutors(spawn: (address: Address, birth: Birth) => void, { hosting, options }: AnyPodPlan, choices_max: number): void {
  const { executors, groups } = hosting.deployment;
  const seats = executors.map(
    ({ id, role, experts, groups: own }): ExecutorSeat => ({ address: address('task-executor', id), role, npus: experts.npus, groups: own }),
  );
  spawn('job-executor/0', { machine: jobExecutor, input: { self: 'job-executor/0', choices_max, executors: seats } });
  for (const { id, role, groups: own } of executors) {
    const self = address('task-executor', id);
    const groupSeats = own.map((group): GroupSeat => {
      const { npus } = groups[group] as DpGroupPlace;
      return { group, npus, worker: hosting.worker_of_npu[npus[0] as number] as number };
    });
    spawn(self, {
      machine: taskExecutor,
      input: { self, groups: groupSeats, batch_max: options.max_batch_requests, choice: choiceOf(role, options.load_balancing) },
    });
  }
}

/** What suits a role, unless the pod's options name one for all. */
const choiceOf = (role: ExecutorRole, asked: AnyPodPlan['options']['load_balancing']): GroupChoice =>
  asked !== 'auto' ? asked : role === 'decode' ? 'least_kv' : 'packed';
