/**
 * Which thread hosts which role. Addresses name roles; this alone knows about threads.
 *
 *   thread 0: the caller    1: control (frontend, request, job, task, executors)    2…: workers (dp-group, npu, expert)
 * @module
 */
import { npuOfExpert, workerOfNpu } from '../../actors/policies/placement.ts';
import { type Address, idOf, roleOf } from '../protocol/address.ts';

export const CALLER_THREAD = 0;
export const CONTROL_THREAD = 1;
export const FIRST_WORKER_THREAD = 2;

export type Topology = { readonly npus: number; readonly workers: number };

export const threadOfWorker = (worker: number): number => FIRST_WORKER_THREAD + worker;

export function threadOf(to: Address, { npus, workers }: Topology): number {
  switch (roleOf(to)) {
    case 'caller':
      return CALLER_THREAD;
    case 'dp-group':
    case 'npu':
      return threadOfWorker(workerOfNpu(idOf(to), npus, workers));
    case 'expert':
      return threadOfWorker(workerOfNpu(npuOfExpert(idOf(to) & 0xffff, npus), npus, workers));
    case 'worker':
      return threadOfWorker(idOf(to));
    default:
      return CONTROL_THREAD;
  }
}
