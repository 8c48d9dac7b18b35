/**
 * Which task of a task executor is on which of its DP groups, and which wait: the executor's account, from which a policy chooses (group-choice.ts).
 * @module
 */
import { type Address, address, idOf } from '../../src/protocol/address.ts';
import type { Wanted } from '../../src/protocol/balancing.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import { jobExecutorOf, requestOfTask } from '../../src/protocol/request-ids.ts';
import type { ExecutorRole } from '../../src/protocol/topology.ts';
import { CHOOSE, type GroupChoice, type GroupLoad, type GroupSeat } from './group-choice.ts';

/** `data_parallel_rank`: the only group that will do, if it is of this executor; −1: any. `kv_positions`: what it may come to hold. */
export type Placeable = { readonly task: Address; readonly data_parallel_rank: number; readonly kv_positions: number; readonly wanted: Wanted };
/** `cost_model`: a leader among the groups chooses (prefill-leader.ts). */
export type Balancing = GroupChoice | 'cost_model';

/** What suits an executor of so many groups, unless the pod's options name one for all. */
export const balancingOf = (role: ExecutorRole, groups: number, asked: 'auto' | Balancing): Balancing =>
  asked !== 'auto' ? asked : role === 'decode' ? 'least_kv' : role === 'prefill' && groups > 1 ? 'cost_model' : 'packed';

const noGroup = (message: string): ErrorRecord => ({
  code: 'groups_lost',
  message: `no DP group is left: all that served have lost an NPU, and ${message}`,
  param: null,
});
const NO_GROUP = noGroup('nobody takes its place for now; the request may be sent again');
const NO_GROUP_EVER = noGroup('none has a successor; sending the request again does not help');

type Group = { readonly seat: GroupSeat; readonly serving: Set<number>; readonly tasks: Map<Address, Placeable>; kv_positions: number };

export class TaskPlacement {
  readonly #groups: readonly Group[];
  readonly #batch_max: number;
  readonly #choice: Balancing;
  readonly #placed = new Map<Address, Group>();
  readonly #waiting = new Map<Address, Placeable>();
  #turn = 0;
  /** NPUs that are lost, but for first ones of their groups. */
  readonly #lostRanks = new Set<number>();
  /** Lost NPUs in whose place nobody comes for now. */
  readonly #unreplaced = new Set<number>();
  /** Lost NPUs have no successors. */
  #isFinal = false;

  /** Groups that are to take nothing; and those of them at which nothing is left. */
  readonly #standby: Set<number>;
  readonly #left = new Set<number>();
  /** NPUs that have experts only: those of them that are not there; and those that hold any, without which no group serves. */
  readonly #missingExperts: Set<number>;
  readonly #experts: readonly number[];
  #holders: readonly number[];
  /** Lost NPUs that nobody can be put in the place of for now, and why. */
  readonly #gone = new Map<number, ErrorRecord>();
  #nowhere: { readonly error: ErrorRecord; readonly npus: readonly number[] } | null = null;
  /** Without so many of its holders it serves on, with fewer experts; null: with none of them. */
  readonly #holders_min: number | null;

  constructor(
    seats: readonly GroupSeat[],
    batch_max: number,
    choice: Balancing,
    experts: readonly number[] = [],
    holders: readonly number[] = experts,
    standby: readonly number[] = [],
    holders_min: number | null = null,
  ) {
    this.#holders_min = holders_min;
    this.#standby = new Set(standby);
    this.#experts = experts;
    this.#holders = holders;
    this.#missingExperts = new Set(experts);
    this.#groups = seats.map((seat) => ({ seat, serving: new Set(), tasks: new Map(), kv_positions: 0 }));
    this.#batch_max = batch_max;
    this.#choice = choice;
  }

  /** The group, or null: the task waits until one serves, or is chosen. */
  place(placeable: Placeable): number | null {
    const chosen = this.#choose(placeable);
    if (chosen === null) {
      this.#waiting.set(placeable.task, placeable);
      return null;
    }
    return this.#put(placeable, chosen);
  }

  /** The leader has chosen for a task that waits. False: it does not any more, or the group serves no more. */
  choose(task: Address, group: number): boolean {
    const placeable = this.#waiting.get(task);
    const chosen = this.#groups.find(({ seat }) => seat.group === group);
    if (placeable === undefined || chosen === undefined || !this.#serves(chosen)) return false;
    this.#waiting.delete(task);
    this.#put(placeable, chosen);
    return true;
  }

  /** Tasks are here, wherever they run. */
  get isHolding(): boolean {
    return this.#placed.size + this.#waiting.size > 0;
  }

  /** Tasks that have no group yet. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** The group whose master lives where the NPU does, with all of its NPUs. Null: none does. */
  groupLedBy(npu: number): GroupSeat | null {
    const seat = this.#groupOf(npu)?.seat;
    return seat?.npus[0] === npu ? seat : null;
  }

  /** An NPU, with the group whose master lives where it does. */
  membersAt(npu: number): readonly Address[] {
    const led = this.groupLedBy(npu);
    return [address('npu', npu), ...(led === null ? [] : [address('dp-group', led.group)])];
  }

  /** Of the groups, those that serve. */
  get serving(): readonly number[] {
    return this.#groups.filter(this.#serves).map(({ seat }) => seat.group);
  }

  /** Those for whom a leader is to choose. */
  get unchosen(): readonly Wanted[] {
    return [...this.#waiting.keys()].flatMap((task) => this.unchosenOf(task) ?? []);
  }

  /** The task, if a leader is to choose for it; else null. */
  unchosenOf(task: Address): Wanted | null {
    const placeable = this.#waiting.get(task);
    return placeable === undefined || this.#choice !== 'cost_model' || this.#ownGroup(placeable) !== undefined ? null : placeable.wanted;
  }

  #put(placeable: Placeable, chosen: Group): number {
    chosen.tasks.set(placeable.task, placeable);
    chosen.kv_positions += placeable.kv_positions;
    this.#placed.set(placeable.task, chosen);
    return chosen.seat.group;
  }

  release(task: Address): void {
    this.#waiting.delete(task);
    const group = this.#placed.get(task);
    if (group === undefined) return;
    group.kv_positions -= group.tasks.get(task)?.kv_positions ?? 0;
    group.tasks.delete(task);
    this.#placed.delete(task);
  }

  /** Lets go of all that a job executor's requests have placed; returns where it runs. Who waits is forgotten. */
  releaseAll(job_executor: Address): readonly { readonly task: Address; readonly group: number | null }[] {
    const isIts = (task: Address): boolean => jobExecutorOf(requestOfTask(task)) === idOf(job_executor);
    const placed = [...this.#placed].flatMap(([task, { seat }]) => (isIts(task) ? [{ task, group: seat.group }] : []));
    for (const { task } of placed) this.release(task);
    const waiting = [...this.#waiting.keys()].filter(isIts);
    for (const task of waiting) this.#waiting.delete(task);
    return [...placed, ...waiting.map((task) => ({ task, group: null }))];
  }

  /** Marks the NPU serving; returns those that waited and where they go now. */
  ready(npu: number): readonly { readonly task: Address; readonly group: number }[] {
    this.#groupOf(npu)?.serving.add(npu);
    this.#missingExperts.delete(npu);
    this.#gone.delete(npu);
    this.#unreplaced.delete(npu);
    return this.placeWaiting();
  }

  /** Those that waited, and where they go now. */
  placeWaiting(): readonly { readonly task: Address; readonly group: number }[] {
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    return waiting.flatMap((placeable) => {
      const group = this.place(placeable);
      return group === null ? [] : [{ task: placeable.task, group }];
    });
  }

  /** Nobody can be put in its place for now. */
  gone(npu: number, error: ErrorRecord): void {
    this.#gone.set(npu, error);
    this.#unreplaced.add(npu);
  }

  /** Lost NPUs in whose place nobody comes for now. */
  get goneNpus(): readonly number[] {
    return [...this.#unreplaced];
  }

  /** Groups that have such a one. */
  get goneGroups(): readonly number[] {
    return this.#groups.filter(this.#isGone).map(({ seat }) => seat.group);
  }

  /** What the expert map says, where there is one; `npus`: that had what is nowhere. */
  nowhere(error: ErrorRecord | null, npus: readonly number[]): void {
    this.#nowhere = error === null ? null : { error, npus };
  }

  /** NPUs that hold experts, and are lost for good. */
  get #lostHolders(): readonly number[] {
    return this.#nowhere?.npus ?? this.#holders.filter((npu) => this.#gone.has(npu));
  }

  /** Those whose experts are done without. */
  get masked(): readonly number[] {
    const lost = this.#lostHolders;
    const left = this.#holders.filter((npu) => !lost.includes(npu)).length;
    return this.#holders_min !== null && left >= this.#holders_min ? lost : [];
  }

  /**
   * Why nothing can be computed here for now: no group is left that is to serve; or experts are lost of which no copy is left, nor is to come, and that nobody does
   * without. Null: nobody misses anything for good.
   */
  get expertsLost(): ErrorRecord | null {
    if (this.#groups.every((group) => this.#standby.has(group.seat.group) || this.#isGone(group))) return this.#isFinal ? NO_GROUP_EVER : NO_GROUP;
    if (this.masked.length > 0) return null;
    if (this.#nowhere !== null) return this.#nowhere.error;
    const npus = this.#lostHolders;
    if (npus.length === 0) return null;
    const names = npus.length === 1 ? `NPU ${npus[0]}` : `NPUs ${npus.join(', ')}`;
    const why = this.#gone.get(npus[0] as number)?.message ?? '';
    const message = `no copy is left of the experts that ${names} held, and none can be brought back for now: ${why}; the request may be sent again`;
    return { code: 'experts_lost', message, param: null };
  }

  /** All that are here. Who waits is forgotten; who was placed is until he is released. */
  takeTasks(): readonly Address[] {
    const tasks = [...this.#placed.keys(), ...this.#waiting.keys()];
    this.#waiting.clear();
    return tasks;
  }

  /**
   * Marks the NPU lost. `isFinal`: it has no successor. `tasks`: those that its group held, which is lost with its first NPU; another rank's loss the group answers
   * for itself.
   */
  lost(npu: number, isFinal = false): { readonly group: number | null; readonly tasks: readonly Address[] } {
    const group = this.#groupOf(npu);
    group?.serving.delete(npu);
    if (isFinal) this.#unreplaced.add(npu);
    this.#isFinal = isFinal;
    // What runs waits for its successor, which is asked again.
    if (this.#experts.includes(npu)) this.#missingExperts.add(npu);
    if (group?.seat.npus[0] === npu) this.left(group.seat.group);
    if (group === undefined || group.seat.npus[0] === npu) return { group: null, tasks: [...(group?.tasks.keys() ?? [])] };
    this.#lostRanks.add(npu);
    return { group: group.seat.group, tasks: [] };
  }

  /** The group that must hear that the NPU is back: one that has lost it. Null: none. */
  returned(npu: number): number | null {
    return this.#lostRanks.delete(npu) ? (this.#groupOf(npu)?.seat.group ?? null) : null;
  }

  /** Has these groups serve, and the others stand by. `placed`: those that waited, and where they go now. */
  serve(groups: readonly number[]): {
    readonly leaving: readonly number[];
    readonly joining: readonly number[];
    readonly placed: ReturnType<TaskPlacement['ready']>;
  } {
    const joining = groups.filter((group) => this.#standby.has(group));
    const leaving = this.#groups.map(({ seat }) => seat.group).filter((group) => !groups.includes(group) && !this.#standby.has(group));
    for (const group of joining) {
      this.#standby.delete(group);
      this.#left.delete(group);
    }
    for (const group of leaving) {
      this.#standby.add(group);
      // With its master all that was there is lost; a successor hears that it is to stand by.
      const { seat, serving } = this.#groups.find(({ seat }) => seat.group === group) as Group;
      if (!serving.has(seat.npus[0] as number)) this.#left.add(group);
    }
    return { leaving, joining, placed: this.placeWaiting() };
  }

  /** From now on these NPUs hold experts; returns those that waited and where they go now. */
  hold(holders: readonly number[]): ReturnType<TaskPlacement['ready']> {
    this.#holders = holders;
    return this.placeWaiting();
  }

  /** Nothing is left at the group. */
  left(group: number): void {
    if (this.#standby.has(group)) this.#left.add(group);
  }

  /** Of the groups that are to serve, all are there but those that are gone, and nobody is left at any other. */
  get isAsAsked(): boolean {
    return this.#groups.every((group) =>
      this.#standby.has(group.seat.group)
        ? this.#left.has(group.seat.group) && group.tasks.size === 0
        : this.#isGone(group) || group.serving.size === group.seat.npus.length,
    );
  }

  /** The group that begins anew with the NPU and is to stand by, which it cannot know. Null: none. */
  standbyLedBy(npu: number): number | null {
    const group = this.#groupOf(npu)?.seat;
    return group !== undefined && group.npus[0] === npu && this.#standby.has(group.group) ? group.group : null;
  }

  get groups(): readonly number[] {
    return this.#groups.map(({ seat }) => seat.group);
  }

  /** Groups that are to take nothing. */
  get standby(): ReadonlySet<number> {
    return this.#standby;
  }

  get npus(): readonly number[] {
    return [...this.#groups.flatMap(({ seat }) => seat.npus), ...this.#experts];
  }

  get allServe(): boolean {
    return this.#groups.every((group) => this.#standby.has(group.seat.group) || this.#serves(group));
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const groups = this.#groups.map(({ seat, serving, tasks, kv_positions }) => ({ ...seat, serving: [...serving], tasks: [...tasks.keys()], kv_positions }));
    const [waiting, lost_ranks, missing_experts] = [[...this.#waiting.keys()], [...this.#lostRanks], [...this.#missingExperts]];
    const gone = [...this.#unreplaced];
    const scale = { gone, standby: [...this.#standby], left: [...this.#left], holders: this.#holders };
    return { batch_max: this.#batch_max, choice: this.#choice, groups, waiting, lost_ranks, missing_experts, ...scale };
  }

  /** Who is lost for good takes with it the groups that compute with its columns: they would wait for ever. */
  readonly #isGone = ({ seat }: Group): boolean => seat.npus.some((npu) => this.#unreplaced.has(npu)) || this.#lacksColumns(seat);

  readonly #serves = ({ serving, seat }: Group): boolean =>
    serving.size === seat.npus.length &&
    !this.#standby.has(seat.group) &&
    !this.#lacksColumns(seat) &&
    !this.#holders.some((npu) => this.#missingExperts.has(npu) && !this.masked.includes(npu)) &&
    this.expertsLost === null;

  #lacksColumns({ needs = [] }: GroupSeat): boolean {
    return needs.some((npu) => this.#unreplaced.has(npu));
  }

  /** Groups of other NPUs that need its columns of output projections. */
  needing(npu: number): readonly number[] {
    return this.#groups.flatMap(({ seat: { group, needs = [] } }) => (needs.includes(npu) ? [group] : []));
  }

  #ownGroup({ data_parallel_rank }: Placeable): Group | undefined {
    // Whoever asks for one that stands by, or that is lost for good, goes to any.
    return this.#groups.find((group) => group.seat.group === data_parallel_rank && !this.#standby.has(group.seat.group) && !this.#isGone(group));
  }

  #groupOf(npu: number): Group | undefined {
    return this.#groups.find(({ seat }) => seat.npus.includes(npu));
  }

  #choose(placeable: Placeable): Group | null {
    const asked = this.#ownGroup(placeable);
    if (asked !== undefined) return this.#serves(asked) ? asked : null;
    if (this.#choice === 'cost_model') return null;
    const loads = this.#groups.filter(this.#serves).map(({ seat, tasks, kv_positions }): GroupLoad => ({ ...seat, tasks: tasks.size, kv_positions }));
    if (loads.length === 0) return null;
    const { group } = CHOOSE[this.#choice](loads, this.#batch_max, this.#turn++);
    return this.#groups.find(({ seat }) => seat.group === group) ?? null;
  }
}
