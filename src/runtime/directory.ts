/**
 * Where everybody is: which thread hosts which role, and which die's memory an NPU has. Addresses name roles; this alone knows about threads and dies.
 *
 *   thread 0: the caller    1: control (frontend, request, job, task, executors)    2…: workers (dp-group, npu, expert), then spares
 *   die n: NPU n's, then spares
 *
 * A worker that was given up without proof that it stopped leaves its thread's rings and its dies to quarantine; its successor takes spare ones.
 * @module
 */
import { npuOfExpert, workerOfNpu } from '../../actors/policies/placement.ts';
import { type Address, expertOf, idOf, roleOf } from '../protocol/address.ts';

export const CALLER_THREAD = 0;
export const CONTROL_THREAD = 1;
const FIRST_WORKER_THREAD = 2;

export type Topology = { readonly npus: number; readonly workers: number; readonly spare_workers: number };

/** Who sits where: a plain value, as it travels to threads. */
export type Seating = { /** By worker. */ readonly threads: readonly number[] /** By NPU. */; readonly dies: readonly number[] };
/** A place for one worker: a thread's rings, and dies for its NPUs. */
export type Seat = { readonly thread: number; readonly dies: readonly number[] };

const npusOf = (worker: number, { npus, workers }: Topology): number[] =>
  Array.from({ length: npus }, (_, npu) => npu).filter((npu) => workerOfNpu(npu, npus, workers) === worker);

/**
 * All seats, the workers' first ones before the spares. With spares each has room for any worker, since a seat that comes back from quarantine may be
 * taken by another worker than it left.
 */
export function seatsOf(topology: Topology): Seat[] {
  const { npus, workers, spare_workers } = topology;
  const npus_max = Math.ceil(npus / workers);
  let next = npus;
  return Array.from({ length: workers + spare_workers }, (_, seat) => {
    const dies = seat < workers ? npusOf(seat, topology) : [];
    while (spare_workers > 0 && dies.length < npus_max) dies.push(next++);
    return { thread: FIRST_WORKER_THREAD + seat, dies };
  });
}

export const diesOf = (topology: Topology): number => seatsOf(topology).reduce((sum, { dies }) => sum + dies.length, 0);
export const threadsOf = ({ workers, spare_workers }: Topology): number => FIRST_WORKER_THREAD + workers + spare_workers;

/** One thread's knowledge of the seating. */
export class Directory {
  readonly topology: Topology;
  readonly #threads: number[];
  readonly #dies: number[];
  /** By die; −1: nobody's, a spare or in quarantine. */
  readonly #threadOfDie: Int32Array;

  constructor(topology: Topology, seating?: Seating) {
    this.topology = topology;
    this.#threads = [...(seating?.threads ?? Array.from({ length: topology.workers }, (_, worker) => FIRST_WORKER_THREAD + worker))];
    this.#dies = [...(seating?.dies ?? Array.from({ length: topology.npus }, (_, npu) => npu))];
    this.#threadOfDie = new Int32Array(diesOf(topology)).fill(-1);
    this.#listDies();
  }

  get seating(): Seating {
    return { threads: [...this.#threads], dies: [...this.#dies] };
  }

  npusOfWorker(worker: number): number[] {
    return npusOf(worker, this.topology);
  }

  workerOfNpu(npu: number): number {
    return workerOfNpu(npu, this.topology.npus, this.topology.workers);
  }

  threadOfWorker(worker: number): number {
    return this.#threads[worker] as number;
  }

  dieOfNpu(npu: number): number {
    return this.#dies[npu] as number;
  }

  /** −1: nobody's, a spare or in quarantine. */
  threadOfDie(die: number): number {
    return this.#threadOfDie[die] as number;
  }

  move(worker: number, { thread, dies }: Seat): void {
    this.#threads[worker] = thread;
    for (const [index, npu] of this.npusOfWorker(worker).entries()) this.#dies[npu] = dies[index] as number;
    this.#listDies();
  }

  #listDies(): void {
    this.#threadOfDie.fill(-1);
    for (const [npu, die] of this.#dies.entries()) this.#threadOfDie[die] = this.threadOfWorker(this.workerOfNpu(npu));
  }

  threadOf(to: Address): number {
    switch (roleOf(to)) {
      case 'caller':
        return CALLER_THREAD;
      case 'dp-group':
      case 'npu':
        return this.threadOfWorker(this.workerOfNpu(idOf(to)));
      case 'expert':
        return this.threadOfWorker(this.workerOfNpu(npuOfExpert(expertOf(to), this.topology.npus)));
      case 'worker':
        return this.threadOfWorker(idOf(to));
      default:
        return CONTROL_THREAD;
    }
  }
}
