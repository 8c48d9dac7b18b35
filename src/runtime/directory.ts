/**
 * Where everybody is: which thread hosts which role, and which die's memory an NPU has. Addresses name roles; this alone knows about threads and dies.
 *
 *   thread 0: the caller    1: control (frontend, task executors)    2…: workers (dp-group, output, npu, expert), then spares, then the network card if there is one
 *
 * Job executors are spread over the control thread and the workers, each with its requests, jobs and tasks; so are the two cluster managers. The first of both
 * live on the control thread, which cannot be lost alone.
 *
 *   die n: NPU n's, then spares
 *
 * A worker that was given up without proof that it stopped leaves its thread's rings and its dies to quarantine; its successor takes spare ones.
 * @module
 */
import { type Address, address, executorOf, expertOf, idOf, roleOf } from '../protocol/address.ts';
import type { Recovery } from '../protocol/recovery.ts';
import { jobExecutorOf, requestOfTask } from '../protocol/request-ids.ts';
import type { RoleSwitching } from '../protocol/role-switch.ts';
import { type Deployment, type Executor, type NpuPlace, npuOfExpert } from '../protocol/topology.ts';

export const CALLER_THREAD = 0;
export const CONTROL_THREAD = 1;
const FIRST_WORKER_THREAD = 2;
/** In place of a worker. */
export const ON_CONTROL = -1;

/** `groups`: DP groups. `experts`: expert NPUs, and how few there may come to be; null: their number does not change. */
export type Scaled = {
  readonly executor: number;
  readonly groups: number;
  readonly experts: { readonly serving: number; readonly fewest: number } | null;
};

/** Which NPUs there are, and which worker hosts each. */
export type Hosting = {
  readonly deployment: Deployment;
  readonly workers: number;
  readonly spare_workers: number;
  /** What is done where a worker is lost. Missing: it alone begins anew. */
  readonly recovery?: Recovery | undefined;
  /** False: a lost worker has no successor. Missing: it has. */
  readonly respawn?: false | undefined;
  /** It serves on without experts of which no copy is left. Missing: it does not. */
  readonly degraded?: true | undefined;
  /** So long a successor is waited for before what a lost NPU's experts were is loaded elsewhere. Missing: for as long as one may take. */
  readonly rehome_after_ms?: number | undefined;
  /** Whether attention NPUs take the roles of expert NPUs that are lost. Missing: by the size of the EP group. */
  readonly role_switch?: RoleSwitching | undefined;
  /** By NPU. */
  readonly worker_of_npu: readonly number[];
  readonly job_executors: number;
  /** The task executor whose shape changes while requests run, and what serves of it at first. Missing: all serve, always. */
  readonly scaled?: Scaled | undefined;
};

/** One leads, the other stands by. */
export const CLUSTER_MANAGERS: readonly Address[] = [0, 1].map((id) => address('cluster-manager', id));
export const jobExecutorsOf = ({ job_executors }: Hosting): Address[] => Array.from({ length: job_executors }, (_, id) => address('job-executor', id));
/** Whose task executor changes its shape. */
const scalingOf = ({ scaled }: Hosting): Address[] => (scaled === undefined ? [] : [address('scaling', scaled.executor)]);
const taskExecutorsOf = ({ deployment }: Hosting): Address[] => deployment.executors.map(({ id }) => address('task-executor', id));

/** NPUs dealt out to workers in contiguous runs of nearly equal length. */
export const dealtOut = (npus: number, workers: number): number[] => Array.from({ length: npus }, (_, npu) => Math.floor((npu * workers) / npus));

/**
 * The same where some NPUs have experts only: each kind dealt out by itself, experts from the last worker on, so that each worker has both as far as they go. Where
 * that would leave a worker without any, all of them in one run. Those that stand by at first are dealt out by themselves too: so each worker has some that serve.
 */
export function dealtOutByKind(npus: readonly NpuPlace[], workers: number, serves: (npu: number) => boolean = () => true): number[] {
  const dealt: number[] = [];
  for (const kind of ['attention', 'experts'] as const) {
    for (const areServing of [true, false]) {
      const places = npus.filter((npu) => npu.kind === kind && serves(npu.id) === areServing);
      for (const [index, worker] of dealtOut(places.length, workers).entries())
        dealt[(places[index] as NpuPlace).id] = kind === 'attention' ? worker : workers - 1 - worker;
    }
  }
  return new Set(dealt).size === workers ? dealt : dealtOut(npus.length, workers);
}

/** Who sits where: a plain value, as it travels to threads. */
export type Seating = { /** By worker. */ readonly threads: readonly number[] /** By NPU. */; readonly dies: readonly number[] };
/** A place for one worker: a thread's rings, and dies for its NPUs. */
export type Seat = { readonly thread: number; readonly dies: readonly number[] };

const npusOf = (worker: number, { worker_of_npu }: Hosting): number[] => [...worker_of_npu.keys()].filter((npu) => worker_of_npu[npu] === worker);

/**
 * All seats, the workers' first ones before the spares. With spares each has room for any worker, since a seat that comes back from quarantine may be
 * taken by another worker than it left.
 */
export function seatsOf(hosting: Hosting): Seat[] {
  const { workers, spare_workers, worker_of_npu } = hosting;
  const npus_max = Math.max(...Array.from({ length: workers }, (_, worker) => npusOf(worker, hosting).length));
  let next = worker_of_npu.length;
  return Array.from({ length: workers + spare_workers }, (_, seat) => {
    const dies = seat < workers ? npusOf(seat, hosting) : [];
    while (spare_workers > 0 && dies.length < npus_max) dies.push(next++);
    return { thread: FIRST_WORKER_THREAD + seat, dies };
  });
}

export const diesOf = (hosting: Hosting): number => seatsOf(hosting).reduce((sum, { dies }) => sum + dies.length, 0);
/** Of the network card, where task executors are joined by a network: no actor lives there, and it has no rings. */
export const networkThreadOf = (hosting: Hosting): number => threadsOf(hosting);
export const threadsOf = ({ workers, spare_workers }: Hosting): number => FIRST_WORKER_THREAD + workers + spare_workers;

/** Workers, those that do prefill alone last: each of their steps takes tens of milliseconds, for which whatever else lives there is not heard. */
function hostsOfJobExecutors({ workers, worker_of_npu, deployment: { npus, executors } }: Hosting): number[] {
  const isBusy = (worker: number): boolean => npus.some(({ id, executor }) => worker_of_npu[id] === worker && executors[executor]?.role === 'prefill');
  return Array.from({ length: workers }, (_, worker) => worker).toSorted((a, b) => Number(isBusy(a)) - Number(isBusy(b)) || a - b);
}

/** One thread's knowledge of the seating. */
export class Directory {
  readonly hosting: Hosting;
  readonly #threads: number[];
  readonly #dies: number[];
  /** In the order in which they are given job executors. */
  readonly #hosts: readonly number[];
  /** By die; −1: nobody's, a spare or in quarantine. */
  readonly #threadOfDie: Int32Array;

  constructor(hosting: Hosting, seating?: Seating) {
    this.hosting = hosting;
    this.#threads = [...(seating?.threads ?? Array.from({ length: hosting.workers }, (_, worker) => FIRST_WORKER_THREAD + worker))];
    this.#dies = [...(seating?.dies ?? hosting.worker_of_npu.keys())];
    this.#hosts = hostsOfJobExecutors(hosting);
    this.#threadOfDie = new Int32Array(diesOf(hosting)).fill(-1);
    this.#listDies();
  }

  get seating(): Seating {
    return { threads: [...this.#threads], dies: [...this.#dies] };
  }

  npusOfWorker(worker: number): number[] {
    return npusOf(worker, this.hosting);
  }

  workerOfNpu(npu: number): number {
    return this.hosting.worker_of_npu[npu] as number;
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

  /** Another one that has the seat is lost for good, and gets what this one had: nobody looks for it there. */
  move(worker: number, { thread, dies }: Seat): void {
    const npus = this.npusOfWorker(worker);
    const left = this.#threads.findIndex((other, its) => other === thread && its !== worker);
    if (left >= 0) {
      this.#threads[left] = this.threadOfWorker(worker);
      for (const [index, npu] of this.npusOfWorker(left).entries()) if (npus[index] !== undefined) this.#dies[npu] = this.dieOfNpu(npus[index]);
    }
    this.#threads[worker] = thread;
    for (const [index, npu] of npus.entries()) this.#dies[npu] = dies[index] as number;
    this.#listDies();
  }

  #listDies(): void {
    this.#threadOfDie.fill(-1);
    for (const [npu, die] of this.#dies.entries()) this.#threadOfDie[die] = this.threadOfWorker(this.workerOfNpu(npu));
  }

  /** The worker that hosts a part of the control plane; −1: the control thread does. */
  hostOf(controller: Address): number {
    switch (roleOf(controller)) {
      case 'job-executor':
        return this.#hostOfJobExecutor(idOf(controller));
      case 'cluster-manager':
        return idOf(controller) === 0 ? ON_CONTROL : this.hosting.workers - 1;
      default:
        return ON_CONTROL;
    }
  }

  /** The worker that an actor lives on; −1: the control thread. */
  workerOf(actor: Address): number {
    switch (roleOf(actor)) {
      case 'npu':
        return this.workerOfNpu(idOf(actor));
      case 'dp-group':
        return this.workerOfNpu(this.hosting.deployment.groups[idOf(actor)]?.npus[0] as number);
      default:
        return this.hostOf(actor);
    }
  }

  #hostOfJobExecutor(id: number): number {
    return id === 0 ? ON_CONTROL : (this.#hosts[(id - 1) % this.#hosts.length] as number);
  }

  #threadOfHost(worker: number): number {
    return worker === ON_CONTROL ? CONTROL_THREAD : this.threadOfWorker(worker);
  }

  /** Of the control plane, what the worker hosts; −1: what the control thread does. */
  controllersOn(worker: number): Address[] {
    const all = [...CLUSTER_MANAGERS, ...jobExecutorsOf(this.hosting), ...taskExecutorsOf(this.hosting), ...scalingOf(this.hosting)];
    return all.filter((address) => this.hostOf(address) === worker);
  }

  threadOf(to: Address): number {
    switch (roleOf(to)) {
      case 'job-executor':
      case 'cluster-manager':
        return this.#threadOfHost(this.hostOf(to));
      case 'request':
      case 'job':
        return this.#threadOfHost(this.#hostOfJobExecutor(jobExecutorOf(idOf(to))));
      case 'task':
        return this.#threadOfHost(this.#hostOfJobExecutor(jobExecutorOf(requestOfTask(to))));
      case 'caller':
        return CALLER_THREAD;
      case 'dp-group':
      case 'output':
        return this.threadOfWorker(this.workerOfNpu(this.hosting.deployment.groups[idOf(to)]?.npus[0] as number));
      case 'npu':
        return this.threadOfWorker(this.workerOfNpu(idOf(to)));
      case 'expert': {
        const { experts } = this.hosting.deployment.executors[executorOf(to)] as Executor;
        return this.threadOfWorker(this.workerOfNpu(npuOfExpert(expertOf(to), experts)));
      }
      case 'worker':
        return this.threadOfWorker(idOf(to));
      default:
        return CONTROL_THREAD;
    }
  }
}
