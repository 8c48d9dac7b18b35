/** Which part of a pod a phase has come to, for faults that strike just there. @module */
import { type Address, executorOf, expertOf, idOf, roleOf } from '../protocol/address.ts';
import { jobExecutorOf, requestOfTask } from '../protocol/request-ids.ts';
import { type Executor, npuOfExpert } from '../protocol/topology.ts';
import type { Mail } from '../runtime/cast.ts';
import type { Directory } from '../runtime/directory.ts';
import type { Fault } from './fault-plan.ts';

type Thread = number | 'control';

/** Who hangs, or crashes, of those that faults name by an id. */
export const actorNamedBy = ({ kind, id }: Extract<Fault, { readonly id: number }>): Address => `${kind.replace(/-(?:hangs|crashes)$/, '')}/${id}` as Address;

/** The fault, of those to whom the mail has come, or of the link that it came by. What is not among them stays whom the plan names. */
export function struckBy(fault: Fault, mail: Mail, directory: Directory): Fault {
  const { to, from } = mail;
  switch (fault.kind) {
    case 'worker-lost':
    case 'zombie-writes':
    case 'controllers-lost':
    case 'worker-hangs': {
      const thread = threadOf(to, directory);
      return thread === 'control' ? fault : { ...fault, worker: thread };
    }
    case 'npu-slow':
    case 'npu-jitter':
    case 'step-fails': {
      const npu = npuOf(to, directory);
      return npu !== undefined && groupOf(to, directory) !== undefined ? { ...fault, npu } : fault;
    }
    case 'npu-hangs':
    case 'npu-crashes':
    case 'kv-bit-flip':
    case 'dram-bit-flip':
    case 'row-bit-flip':
    case 'weights-bit-flip':
      return { ...fault, npu: npuOf(to, directory) ?? fault.npu };
    case 'dp-group-hangs':
    case 'dp-group-crashes':
      return { ...fault, id: groupOf(to, directory) ?? fault.id };
    case 'task-executor-hangs':
    case 'task-executor-crashes':
      return { ...fault, id: taskExecutorOf(to, directory) ?? fault.id };
    case 'job-executor-hangs':
    case 'job-executor-crashes':
      return { ...fault, id: jobExecutorFor(to) ?? fault.id };
    case 'cluster-manager-hangs':
    case 'cluster-manager-crashes':
      return { ...fault, id: managerOf(to) ?? fault.id };
    case 'link-slow':
    case 'link-cut':
    case 'ring-full': {
      const ends = { from: threadOf(from, directory), to: threadOf(to, directory) };
      return ends.from === ends.to ? fault : { ...fault, ...ends };
    }
    case 'clock-skew':
    case 'thread-pauses':
      return { ...fault, thread: threadOf(to, directory) };
    default:
      return fault;
  }
}

/** A worker, or the thread of the control plane. */
function threadOf(actor: Address, directory: Directory): Thread {
  const worker = directory.seating.threads.indexOf(directory.threadOf(actor));
  return worker < 0 ? 'control' : worker;
}

function npuOf(actor: Address, { hosting: { deployment } }: Directory): number | undefined {
  switch (roleOf(actor)) {
    case 'npu':
      return idOf(actor);
    case 'dp-group':
    case 'output':
      return deployment.groups[idOf(actor)]?.npus[0];
    case 'expert':
      return npuOfExpert(expertOf(actor), (deployment.executors[executorOf(actor)] as Executor).experts);
    default:
      return undefined;
  }
}

function groupOf(actor: Address, directory: Directory): number | undefined {
  const npu = npuOf(actor, directory);
  const place = npu === undefined ? undefined : directory.hosting.deployment.npus[npu];
  return place?.kind === 'attention' ? place.group : undefined;
}

function taskExecutorOf(actor: Address, directory: Directory): number | undefined {
  switch (roleOf(actor)) {
    case 'task-executor':
    case 'expert-map':
    case 'scaling':
    case 'role-switch':
      return idOf(actor);
    default: {
      const npu = npuOf(actor, directory);
      return npu === undefined ? undefined : directory.hosting.deployment.npus[npu]?.executor;
    }
  }
}

const managerOf = (actor: Address): number | undefined => (roleOf(actor) === 'cluster-manager' ? idOf(actor) : undefined);

function jobExecutorFor(actor: Address): number | undefined {
  switch (roleOf(actor)) {
    case 'job-executor':
      return idOf(actor);
    case 'request':
    case 'job':
      return jobExecutorOf(idOf(actor));
    case 'task':
      return jobExecutorOf(requestOfTask(actor));
    default:
      return undefined;
  }
}
