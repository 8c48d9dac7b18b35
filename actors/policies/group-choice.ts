/**
 * Ways to choose the DP group that a task goes to, each a pure function of how the groups of its executor are loaded.
 *
 *   packed        colocated: fill the batches of few groups on each worker
 *   least_kv      decode: the lowest KV use, counting what is reserved (xDeepServe §4.3)
 *   round_robin   the baseline: each in turn
 *
 * Where one shared queue is assigned by what steps cost, a leader chooses: prefill-leader.ts.
 * @module
 */

/** `worker`: who hosts its first NPU. `needs`: other groups' NPUs that have columns of its output projections; missing: it has them all. */
export type GroupSeat = { readonly group: number; readonly worker: number; readonly npus: readonly number[]; readonly needs?: readonly number[] };
/** `kv_positions`: prompts and the longest outputs of its tasks, from their dispatch to their end. */
export type GroupLoad = GroupSeat & { readonly tasks: number; readonly kv_positions: number };

export const GROUP_CHOICES = ['packed', 'least_kv', 'round_robin'] as const;
export type GroupChoice = (typeof GROUP_CHOICES)[number];

/** Chooses among at least one. `batch_max`: tasks that a group computes at once; `turn`: how many were chosen before. */
type Choose = (groups: readonly GroupLoad[], batch_max: number, turn: number) => GroupLoad;

/**
 * First the worker with the fewest tasks, then, among its groups, the fullest one below its batch limit.
 *
 * Groups of one worker take turns on one core, so there one large batch costs less than several small ones: each step reads the weights once
 * for all of its rows. Workers run side by side, so across them load is spread. With every batch at its limit, the least loaded group gets it.
 */
const packed: Choose = (groups, batch_max) => {
  const tasksOfWorker = new Map<number, number>();
  for (const { worker, tasks } of groups) tasksOfWorker.set(worker, (tasksOfWorker.get(worker) ?? 0) + tasks);
  return lowest(groups, ({ worker, tasks }) => {
    const isFull = tasks >= batch_max;
    return [tasksOfWorker.get(worker) ?? 0, isFull ? 1 : 0, isFull ? tasks : -tasks];
  });
};

/** Groups at their limit are left out, if not all are; then the lowest KV use, counting the space that outputs may come to need. */
const leastKv: Choose = (groups, batch_max) => {
  const open = groups.filter(({ tasks }) => tasks < batch_max);
  return lowest(open.length > 0 ? open : groups, ({ kv_positions, tasks }) => [kv_positions, tasks]);
};

const roundRobin: Choose = (groups, _batch_max, turn) => groups[turn % groups.length] as GroupLoad;

export const CHOOSE: Readonly<Record<GroupChoice, Choose>> = { packed, least_kv: leastKv, round_robin: roundRobin };

/** The one of the lowest rank, compared number by number; of those alike the first. */
export function lowest<Item>(items: readonly Item[], rankOf: (item: Item) => readonly number[]): Item {
  return items.reduce((best, item) => (isLower(rankOf(item), rankOf(best)) ? item : best));
}

function isLower(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at >= 0 && (a[at] as number) < (b[at] as number);
}
