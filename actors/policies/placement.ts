/**
 * Where things go: experts onto NPUs, NPUs onto workers, tasks onto DP groups.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';

/** Experts spread evenly, neighbours apart: expert e of each layer lives on NPU e mod `npus`. Never replicated here. */
export const npuOfExpert = (expert: number, npus: number): number => expert % npus;

/** NPUs dealt out to workers in contiguous runs of nearly equal length. */
export const workerOfNpu = (npu: number, npus: number, workers: number): number => Math.floor((npu * workers) / npus);

type NpuLoad = { readonly npu: number; readonly worker: number; serving: boolean; tasks: Set<Address> };

/**
 * Chooses an NPU for a task: first the worker with the fewest tasks, then, among its NPUs, the fullest one below its batch limit.
 *
 * NPUs of one worker take turns on one core, so there one large batch costs less than several small ones: each step reads the weights once
 * for all of its rows. Workers run side by side, so across them load is spread. With every batch at its limit, the least loaded NPU gets it.
 */
export class TaskPlacement {
  readonly #npus: readonly NpuLoad[];
  readonly #batch_max: number;
  readonly #placed = new Map<Address, number>();
  readonly #waiting = new Set<Address>();

  constructor(npus: number, workers: number, batch_max: number) {
    this.#npus = Array.from({ length: npus }, (_, npu) => ({ npu, worker: workerOfNpu(npu, npus, workers), serving: false, tasks: new Set() }));
    this.#batch_max = batch_max;
  }

  /** The NPU, or null: the task waits until one serves. */
  place(task: Address): number | null {
    const chosen = this.#choose();
    if (chosen === null) {
      this.#waiting.add(task);
      return null;
    }
    chosen.tasks.add(task);
    this.#placed.set(task, chosen.npu);
    return chosen.npu;
  }

  release(task: Address): void {
    this.#waiting.delete(task);
    const placed = this.#placed.get(task);
    if (placed === undefined) return;
    this.#placed.delete(task);
    this.#npus[placed]?.tasks.delete(task);
  }

  /** Marks the NPU serving; returns those that waited and where they go now. */
  ready(npu: number): readonly { readonly task: Address; readonly npu: number }[] {
    const load = this.#npus[npu];
    if (load !== undefined) load.serving = true;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    return waiting.flatMap((task) => {
      const chosen = this.place(task);
      return chosen === null ? [] : [{ task, npu: chosen }];
    });
  }

  /** Marks the NPU lost; returns the tasks it held. */
  lost(npu: number): readonly Address[] {
    const load = this.#npus[npu];
    if (load === undefined) return [];
    load.serving = false;
    return [...load.tasks];
  }

  get npus(): number {
    return this.#npus.length;
  }

  get allServe(): boolean {
    return this.#npus.every(({ serving }) => serving);
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return { batch_max: this.#batch_max, npus: this.#npus.map((load) => ({ ...load, tasks: [...load.tasks] })), waiting: [...this.#waiting] };
  }

  #choose(): NpuLoad | null {
    const serving = this.#npus.filter((load) => load.serving);
    if (serving.length === 0) return null;
    const tasksOfWorker = new Map<number, number>();
    for (const { worker, tasks } of serving) tasksOfWorker.set(worker, (tasksOfWorker.get(worker) ?? 0) + tasks.size);
    const rank = (load: NpuLoad): readonly number[] => {
      const isFull = load.tasks.size >= this.#batch_max;
      return [tasksOfWorker.get(load.worker) ?? 0, isFull ? 1 : 0, isFull ? load.tasks.size : -load.tasks.size, load.npu];
    };
    return serving.reduce((best, load) => (isBefore(rank(load), rank(best)) ? load : best));
  }
}

function isBefore(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at >= 0 && (a[at] as number) < (b[at] as number);
}
