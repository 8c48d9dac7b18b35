/** How the control plane's actors come to life. @module */

import { clusterManager } from '../../actors/cluster-manager.ts';
import { expertMap } from '../../actors/expert-map.ts';
import { job } from '../../actors/job.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import type { ExecutorSeat } from '../../actors/policies/executor-choice.ts';
import type { GroupSeat } from '../../actors/policies/group-choice.ts';
import { balancingOf } from '../../actors/policies/placement.ts';
import { request } from '../../actors/request.ts';
import { roleSwitch } from '../../actors/role-switch.ts';
import { scaling } from '../../actors/scaling.ts';
import { task } from '../../actors/task.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import { firstMap } from '../flowserve/experts/expert-routing.ts';
import { layersWithExperts } from '../flowserve/experts/expert-slots.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { roleSeatsOf, switchesRoles, waitsForSwitch } from '../flowserve/role-seats.ts';
import { isServing, maybeCleared } from '../flowserve/scale-shapes.ts';
import { type Address, address, idOf, roleOf } from '../protocol/address.ts';
import { assert, invariantBroken } from '../protocol/errors.ts';
import type { Message } from '../protocol/messages.ts';
import { supervisorOf } from '../protocol/request-ids.ts';
import { type DpGroupPlace, type Executor, projectionGroupOf, sharedExpertNpusOf } from '../protocol/topology.ts';
import type { Birth } from '../runtime/cast.ts';
import { CLUSTER_MANAGERS } from '../runtime/directory.ts';

/** Requests, jobs and tasks come to life with their first message. */
export function birthOf(to: Address, message: Message): Birth | null {
  switch (message.type) {
    case 'SUBMIT':
      return requestWith(to, { sequences: message.sequences, placements: [], deadline_ms: message.deadline_ms });
    case 'RESUME':
      return requestWith(to, { sequences: message.sequences, placements: message.placements, deadline_ms: message.deadline_ms });
    case 'PLAN':
      return {
        machine: job,
        input: { self: to, job_executor: supervisorOf(to), request: message.request, sequences: message.sequences, placements: message.placements },
      };
    case 'ASSIGN':
      return { machine: task, input: { self: to, job: message.job, sequence: message.sequence, placement: message.placement, handoff: message.handoff } };
    default:
      return null;
  }
}

const requestWith = (self: Address, what: object): Birth => ({
  machine: request,
  input: { self, job_executor: supervisorOf(self), job: address('job', idOf(self)), ...what },
});

const othersOf = (manager: Address): Address[] => CLUSTER_MANAGERS.filter((other) => other !== manager);
/** Managers that know what a new one has to hear: in its first life those that began before it. */
export const peersOf = (self: Address, life: number): Address[] => othersOf(self).filter((other) => life > 1 || idOf(other) < idOf(self));

/** Those who live as long as their thread: cluster managers, job executors and task executors. `life`: the thread's epoch. */
export function birthOfController(self: Address, plan: AnyPodPlan, life: number): Birth {
  const { hosting, options } = plan;
  const { executors, groups, npus } = hosting.deployment;
  switch (roleOf(self)) {
    case 'cluster-manager':
      return { machine: clusterManager, input: { self, life, others: othersOf(self), peers: peersOf(self, life) } };
    case 'job-executor': {
      const seats = executors.map(
        ({ id, role, attention, groups: own }): ExecutorSeat => ({ address: address('task-executor', id), role, npus: attention.npus, groups: own }),
      );
      // Of those alike each takes the first, and each begins with another: so what each has one too many of evens out. Who decodes is chosen among those who do.
      const inTurn = (alike: readonly ExecutorSeat[]): ExecutorSeat[] => {
        const first = Math.floor((idOf(self) * alike.length) / hosting.job_executors);
        return [...alike.slice(first), ...alike.slice(0, first)];
      };
      const inTurns = [...inTurn(seats.filter(({ role }) => role !== 'decode')), ...inTurn(seats.filter(({ role }) => role === 'decode'))];
      return { machine: jobExecutor, input: { self, life, choices_max: options.max_queued, managers: CLUSTER_MANAGERS, executors: inTurns } };
    }
    case 'task-executor': {
      const executor = executors[idOf(self)];
      assert(executor, `there is no ${self}`);
      const seats = executor.groups.map((group): GroupSeat => {
        const { npus: ranks } = groups[group] as DpGroupPlace;
        const { first, npus: together } = projectionGroupOf(hosting.deployment, ranks[0] as number);
        const needs = Array.from({ length: together }, (_, index) => first + index).filter((npu) => !ranks.includes(npu));
        return { group, npus: ranks, worker: hosting.worker_of_npu[ranks[0] as number] as number, ...(needs.length > 0 && { needs }) };
      });
      const others = { batch_max: options.max_batch_requests, choice: balancingOf(executor.role, executor.groups.length, options.load_balancing) };
      const standby = executor.groups.filter(
        (group) => !isServing(hosting.deployment, hosting.scaled ?? null, (groups[group] as DpGroupPlace).npus[0] as number),
      );
      const long = { tokens: options.long_prompt_tokens, groups: options.long_prompt_groups };
      const experts = npus.flatMap(({ id, kind, executor: of }) => (kind === 'experts' && of === executor.id ? [id] : []));
      const apart = experts.filter((npu) => isServing(hosting.deployment, hosting.scaled ?? null, npu));
      const holders = experts.length > 0 ? apart : Array.from({ length: executor.experts.npus }, (_, index) => executor.experts.first + index);
      return {
        machine: taskExecutor,
        input: {
          self,
          managers: CLUSTER_MANAGERS,
          groups: seats,
          standby,
          experts,
          holders,
          holders_min: hosting.degraded === true ? holdersMin(plan, holders.length) : null,
          long,
          expert_map: hasExpertMap(plan, executor) ? address('expert-map', executor.id) : null,
          role_switch: switchesRoles(hosting, options, executor) ? address('role-switch', executor.id) : null,
          scaling: hosting.scaled?.executor === executor.id ? address('scaling', executor.id) : null,
          respawns: hosting.respawn !== false,
          ...others,
        },
      };
    }
    case 'scaling': {
      const { id, groups: own, experts } = executors[idOf(self)] as Executor;
      const { serving } = experts;
      const expert_map = hasExpertMap(plan, executors[idOf(self)] as Executor) ? address('expert-map', id) : null;
      const expert_npus = serving === undefined ? [] : Array.from({ length: experts.npus }, (_, index) => experts.first + index);
      const shape = { attention: hosting.scaled?.groups ?? own.length, experts: serving ?? 0, expert_npus };
      const ranks = own.map((group) => (groups[group] as DpGroupPlace).npus);
      const clears = maybeCleared(executors[idOf(self)] as Executor);
      return { machine: scaling, input: { self, task_executor: address('task-executor', id), expert_map, groups: own, ranks, clears, ...shape } };
    }
    default:
      return invariantBroken(`${self} is no part of the control plane`);
  }
}

/** So many that have their share of the experts: a gate has enough to choose from. */
export const holdersMin = ({ config: { moe } }: AnyPodPlan, holders: number): number =>
  Math.ceil(moe.topK / Math.max(1, Math.floor(moe.experts / Math.max(1, holders))));

/** The executor's experts may come to lie elsewhere, or to lie nowhere. */
export const hasExpertMap = ({ options, hosting }: AnyPodPlan, { experts }: Executor): boolean =>
  options.expert_balancing !== undefined || experts.serving !== undefined || hosting.respawn === false;

/** Slots of all NPUs have room to be changed in. */
export const mayMove = ({ options, hosting }: AnyPodPlan): boolean =>
  options.expert_balancing !== undefined || hosting.deployment.executors.some(({ experts }) => experts.serving !== undefined);

/** Nobody balances: they move for others' entries of the map's log alone, and to where they lie in the checkpoint's order. */
const NO_BALANCING = { policy: 'native', windows: 1, threshold: 1, period_ms: null } as const;

/** A successor takes tens of milliseconds, one whose weights are loaded anew seconds. */
const SUCCESSOR_MS = 5_000;

/** So long one is waited for before experts are loaded elsewhere. Where all begin anew with a lost one nobody is left for that: it is for ever, as in `ExpertMap`'s input. */
export const successorMs = ({ respawn, recovery, rehome_after_ms = SUCCESSOR_MS }: AnyPodPlan['hosting']): number | null => {
  if (respawn === false) return 0;
  return recovery === 'restart' ? null : rehome_after_ms;
};

/** Expert maps of the executors whose experts move: they live with the executors. */
export function expertMapsOf(plan: AnyPodPlan): { readonly self: Address; readonly birth: Birth }[] {
  const { config, hosting, options } = plan;
  const { policy, windows, threshold, period_ms } = options.expert_balancing ?? NO_BALANCING;
  const successor_ms = successorMs(hosting);
  return hosting.deployment.executors
    .filter((executor) => hasExpertMap(plan, executor))
    .map((executor) => {
      const { attention, experts } = executor;
      const self = address('expert-map', executor.id);
      const tells = address(switchesRoles(hosting, options, executor) ? 'role-switch' : 'task-executor', executor.id);
      const { shape, expertOfSlot } = firstMap(config, options, executor);
      const askers = Array.from({ length: attention.npus }, (_, index) => attention.first + index);
      const layers = layersWithExperts(config);
      const shared = config.moe.sharedExperts > 0 ? sharedExpertNpusOf(executor) : [];
      const settings = { policy, windows, threshold };
      return {
        self,
        birth: {
          machine: expertMap,
          input: {
            self,
            tells,
            askers,
            first: experts.first,
            shared,
            layers,
            movable: mayMove(plan),
            settings,
            period_ms,
            successor_ms,
            shape,
            slots: [...expertOfSlot],
            scaling: experts.serving !== undefined ? address('scaling', executor.id) : null,
          },
        },
      };
    });
}

/** Who decides on role switches, of the executors where there may be any. */
export function roleSwitchesOf({ hosting, options }: AnyPodPlan): { readonly self: Address; readonly birth: Birth }[] {
  const { executors, groups } = hosting.deployment;
  return executors
    .filter((executor) => switchesRoles(hosting, options, executor))
    .map((executor) => {
      const { id } = executor;
      const self = address('role-switch', id);
      const serves = (group: number): boolean => isServing(hosting.deployment, hosting.scaled ?? null, (groups[group] as DpGroupPlace).npus[0] as number);
      const input = {
        self,
        task_executor: address('task-executor', id),
        expert_map: address('expert-map', id),
        scaling: hosting.scaled?.executor === id ? address('scaling', id) : null,
        seats: roleSeatsOf(hosting, executor),
        serving: executor.groups.filter(serves),
        waits: waitsForSwitch(hosting, executor),
      };
      return { self, birth: { machine: roleSwitch, input } };
    });
}
