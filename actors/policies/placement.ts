/**
 * Which DP group of a task executor a task goes to.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';

/** `worker`: who hosts its first NPU. */
export type GroupSeat = { readonly group: number; readonly worker: number; readonly npus: readonly number[] };
type GroupLoad = GroupSeat & { readonly serving: Set<number>; readonly tasks: Set<Address> };

/**
 * Chooses a DP group for a task: first the worker with the fewest tasks, then, among its groups, the fullest one below its batch limit.
 *
 * Groups of one worker take turns on one core, so there one large batch costs less than several small ones: each step reads the weights once
 * for all of its rows. Workers run side by side, so across them load is spread. With every batch at its limit, the least loaded group gets it.
 */
export class TaskPlacement {
  readonly #groups: readonly GroupLoad[];
  readonly #batch_max: number;
  readonly #placed = new Map<Address, GroupLoad>();
  /** By task: the group that it asks for, or −1. */
  readonly #waiting = new Map<Address, number>();

  constructor(seats: readonly GroupSeat[], batch_max: number) {
    this.#groups = seats.map((seat) => ({ ...seat, serving: new Set(), tasks: new Set() }));
    this.#batch_max = batch_max;
  }

  /** The group, or null: the task waits until one serves. `data_parallel_rank`: the only one that will do, if it is of this executor. */
  place(task: Address, data_parallel_rank: number): number | null {
    const chosen = this.#choose(data_parallel_rank);
    if (chosen === null) {
      this.#waiting.set(task, data_parallel_rank);
      return null;
    }
    chosen.tasks.add(task);
    this.#placed.set(task, chosen);
    return chosen.group;
  }

  release(task: Address): void {
    this.#waiting.delete(task);
    this.#placed.get(task)?.tasks.delete(task);
    this.#placed.delete(task);
  }

  /** Marks the NPU serving; returns those that waited and where they go now. */
  ready(npu: number): readonly { readonly task: Address; readonly group: number }[] {
    this.#groupOf(npu)?.serving.add(npu);
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    return waiting.flatMap(([task, data_parallel_rank]) => {
      const group = this.place(task, data_parallel_rank);
      return group === null ? [] : [{ task, group }];
    });
  }

  /** Marks the NPU lost; returns the tasks that its group held. */
  lost(npu: number): readonly Address[] {
    const group = this.#groupOf(npu);
    if (group === undefined) return [];
    group.serving.delete(npu);
    return [...group.tasks];
  }

  get npus(): readonly number[] {
    return this.#groups.flatMap(({ npus }) => npus);
  }

  get allServe(): boolean {
    return this.#groups.every(serves);
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const groups = this.#groups.map((group) => ({ ...group, serving: [...group.serving], tasks: [...group.tasks] }));
    return { batch_max: this.#batch_max, groups, waiting: [...this.#waiting] };
  }

  #groupOf(npu: number): GroupLoad | undefined {
    return this.#groups.find(({ npus }) => npus.includes(npu));
  }

  #choose(data_parallel_rank: number): GroupLoad | null {
    const asked = this.#groups.find(({ group }) => group === data_parallel_rank);
    if (asked !== undefined) return serves(asked) ? asked : null;
    const serving = this.#groups.filter(serves);
    if (serving.length === 0) return null;
    const tasksOfWorker = new Map<number, number>();
    for (const { worker, tasks } of serving) tasksOfWorker.set(worker, (tasksOfWorker.get(worker) ?? 0) + tasks.size);
    const rank = (load: GroupLoad): readonly number[] => {
      const isFull = load.tasks.size >= this.#batch_max;
      return [tasksOfWorker.get(load.worker) ?? 0, isFull ? 1 : 0, isFull ? load.tasks.size : -load.tasks.size, load.group];
    };
    return serving.reduce((best, load) => (isBefore(rank(load), rank(best)) ? load : best));
  }
}

const serves = ({ serving, npus }: GroupLoad): boolean => serving.size === npus.length;

function isBefore(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at >= 0 && (a[at] as number) < (b[at] as number);
}
