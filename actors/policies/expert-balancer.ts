/**
 * What the expert map of an EP group knows: where experts lie by the last good map, what was routed to them, which change is under way, and what became of
 * those before it: one serial log, whose entries nobody else writes.
 * @module
 */
import { type Address, address } from '../../src/protocol/address.ts';
import { assert } from '../../src/protocol/errors.ts';
import {
  collectLoads,
  type ExpertWork,
  expertWork,
  installMap,
  loadSlot,
  type RebalanceOutcome,
  type RebalanceTrigger,
  stageSlot,
} from '../../src/protocol/expert-maps.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { ExpertLoads } from './expert-placement/expert-loads.ts';
import { type ExpertMap, NO_EXPERT } from './expert-placement/expert-map.ts';
import { mapAfter, planRounds, type SlotChange } from './expert-placement/map-rounds.ts';
import { slotsOfRank } from './expert-placement/placement-shape.ts';
import { type PlacementPolicy, planFrom } from './expert-placement/policies.ts';
import { imbalance } from './expert-placement/predicted-balance.ts';
import { judgePlan } from './expert-placement/worth-installing.ts';

export type BalancerSettings = {
  readonly policy: PlacementPolicy;
  /** Windows of time that a plan is made on, at most. */
  readonly windows: number;
  /** Busiest rank over mean: below, a period ends without a plan. */
  readonly threshold: number;
};

/** NPUs of the group: those that run steps and sort tokens by the map, and the first of those that have slots. */
export type BalancerSeat = { readonly self: Address; readonly askers: readonly number[]; readonly first: number };

const LOG_MAX = 32;

export class ExpertBalancer {
  readonly #seat: BalancerSeat;
  readonly #settings: BalancerSettings;
  readonly #firstMap: ExpertMap;
  /** The last good one: all of its slots hold what it says. */
  map: ExpertMap;
  /** Of the last map that anybody was told of. */
  epoch = 0;
  /** [window][layer × expert], the latest last. */
  #windows: Float64Array[] = [];
  readonly #log: RebalanceOutcome[] = [];
  readonly lost = new Set<number>();
  /** Whom the state waits for: NPUs, or changes. */
  readonly #waitsFor = new Set<number>();
  /** Changes of the round whose slots were written to. */
  readonly #touched = new Set<number>();
  #rounds: readonly (readonly SlotChange[])[] = [];
  #round = 0;
  /** Changes, numbered through the group's life: a late answer to an earlier one is told from it. */
  #firstChange = 0;
  #trigger: RebalanceTrigger = 'period';
  #query = -1;
  #isForced = false;
  #error: string | null = null;
  #before = 0;
  #after = 0;
  #slots = 0;
  #reason = '';
  /** Ends of periods and rebalances since it began, and when the last of them was; −1: not told yet. */
  progress = 0;
  progress_ms = -1;

  constructor(seat: BalancerSeat, settings: BalancerSettings, map: ExpertMap) {
    this.#seat = seat;
    this.#settings = settings;
    this.#firstMap = map;
    this.map = map;
  }

  /** Whom the reports go to; −1: nobody asked. */
  get query(): number {
    return this.#query;
  }

  get log(): readonly RebalanceOutcome[] {
    return this.#log;
  }

  get waits(): boolean {
    return this.#waitsFor.size > 0;
  }

  get hasFailed(): boolean {
    return this.#error !== null;
  }

  get hasRounds(): boolean {
    return this.#round < this.#rounds.length;
  }

  /** Begins another one. */
  begin(trigger: RebalanceTrigger, query: number, isForced: boolean): void {
    [this.#trigger, this.#query, this.#isForced, this.#error] = [trigger, query, isForced, null];
    [this.#before, this.#after, this.#slots, this.#reason] = [0, 0, 0, ''];
    [this.#rounds, this.#round] = [[], 0];
    if (this.lost.size > 0) this.fail(`npu/${[...this.lost].join(', npu/')} is lost`);
  }

  fail(reason: string): void {
    this.#error ??= reason;
  }

  /** The state was waited for in vain. */
  overdue(state: string): void {
    this.fail(`${state}: ${[...this.#waitsFor].join(', ')} did not answer in time`);
  }

  // ── Collect, select ───────────────────────────────────────────────────────────────────────────────────────────────

  collect(): Commands['send'][] {
    const { layers, experts } = this.map.shape;
    // A window in which nothing was routed goes on: an idle pod forgets nothing.
    if (this.#windows.at(-1)?.some((count) => count > 0) !== false) this.#windows.push(new Float64Array(layers * experts));
    this.#windows = this.#windows.slice(-this.#settings.windows);
    return this.#toAskers(collectLoads());
  }

  collected(npu: number, tokens: readonly number[]): void {
    if (!this.#waitsFor.delete(npu)) return;
    const window = this.#windows.at(-1) as Float64Array;
    assert(tokens.length === window.length, `npu/${npu} counts ${tokens.length} experts, the map has ${window.length}`);
    for (const [at, count] of tokens.entries()) window[at] = (window[at] as number) + count;
  }

  /** Leaves rounds to go through, or the reason why there are none. */
  select(): void {
    const loads = this.#loads();
    const { policy, threshold } = this.#settings;
    if (loads === null) {
      this.#reason = 'no token was routed yet';
      return;
    }
    this.#before = imbalance(this.map, loads);
    this.#after = this.#before;
    if (this.#trigger === 'period' && this.#before < threshold) {
      this.#reason = `busiest rank over mean is ${this.#before.toFixed(3)}, below the threshold of ${threshold}`;
      return;
    }
    const plan = planFrom(this.map, policy, loads);
    const verdict = judgePlan(this.map, plan, loads, 0);
    const target = this.#isForced ? plan : verdict.map;
    this.#reason = this.#isForced && verdict.map === null ? 'asked for, though it is predicted no better' : verdict.reason;
    if (target === null) return;
    const rounds = planRounds(this.map, target);
    if (rounds === null) {
      this.#reason = 'every slot is needed where it is: a redundant one would make room to move';
      return;
    }
    this.#after = imbalance(target, loads);
    this.#rounds = rounds;
    this.#round = 0;
  }

  #loads(): ExpertLoads | null {
    const { layers, experts } = this.map.shape;
    const routed = this.#windows.filter((window) => window.some((count) => count > 0));
    if (routed.length === 0) return null;
    const tokens = new Float64Array(routed.length * layers * experts);
    for (const [index, window] of routed.entries()) tokens.set(window, index * layers * experts);
    return { windows: routed.length, layers, experts, tokens };
  }

  // ── One round ─────────────────────────────────────────────────────────────────────────────────────────────────────

  get #changes(): readonly SlotChange[] {
    return this.#rounds[this.#round] ?? [];
  }

  stage(): Commands['send'][] {
    this.#touched.clear();
    return this.#toHolders(({ layer, slot, expert, source }, change) => stageSlot(change, layer, slot, expert, source));
  }

  disable(): Commands['send'][] {
    return this.#install(mapAfter(this.map, this.#changes, true));
  }

  load(): Commands['send'][] {
    const sends = this.#toHolders((_, change) => loadSlot(change, this.epoch + 1));
    for (const change of this.#waitsFor) this.#touched.add(change);
    return sends;
  }

  enable(): Commands['send'][] {
    return this.#install(mapAfter(this.map, this.#changes, false));
  }

  /** The round is over: its map is the last good one. */
  settle(): void {
    this.#slots += this.#changes.length;
    this.map = mapAfter(this.map, this.#changes, false);
    this.#firstChange += this.#changes.length;
    this.#round++;
  }

  done(change: number): void {
    this.#waitsFor.delete(change);
  }

  failed(change: number, reason: string): void {
    if (this.#waitsFor.has(change)) this.fail(reason);
  }

  installed(npu: number, epoch: number): void {
    if (epoch >= this.epoch) this.#waitsFor.delete(npu);
  }

  /**
   * Back to the last good map: the slots of the round hold what they held, or, where they were written to, nothing that anybody may ask for. Their experts are
   * elsewhere too, so the map is whole.
   */
  rollBack(): Commands['send'][] {
    this.map = mapAfter(
      this.map,
      this.#changes.filter((_, index) => this.#touched.has(this.#firstChange + index)),
      true,
    );
    this.#firstChange += this.#changes.length;
    [this.#rounds, this.#round] = [[], 0];
    this.#touched.clear();
    return this.#install(this.map);
  }

  // ── NPUs that come and go, what is known ──────────────────────────────────────────────────────────────────────────

  lose(npu: number, why: string): void {
    this.lost.add(npu);
    this.#waitsFor.delete(npu);
    this.fail(`npu/${npu} was lost: ${why}`);
  }

  /** It begins with the first map. */
  welcome(npu: number): Commands['send'][] {
    if (!this.lost.delete(npu)) return [];
    return this.#seat.askers.includes(npu) ? [this.#tell(npu, this.#mapWork(this.map))] : [];
  }

  /** What became of it, into the log. */
  finish(): RebalanceOutcome {
    const installed = this.#slots > 0;
    const reason = this.#error === null ? this.#reason : `${this.#error}; the last good map stands`;
    const after = this.#error === null ? this.#after : this.#before;
    const outcome = { trigger: this.#trigger, installed, reason, before: this.#before, after, slots: this.#slots, epoch: this.epoch };
    this.#log.push(outcome);
    if (this.#log.length > LOG_MAX) this.#log.shift();
    this.#waitsFor.clear();
    this.#error = null;
    this.progress++;
    return outcome;
  }

  #install(map: ExpertMap): Commands['send'][] {
    this.epoch++;
    return this.#toAskers(this.#mapWork(map));
  }

  #mapWork(map: ExpertMap): ExpertWork {
    const slots: number[] = [];
    const experts: number[] = [];
    for (const [at, expert] of map.expertOfSlot.entries()) {
      if (expert === this.#firstMap.expertOfSlot[at]) continue;
      slots.push(at);
      experts.push(expert);
    }
    return installMap(this.epoch, slots, experts);
  }

  #toAskers(work: ExpertWork): Commands['send'][] {
    this.#waitsFor.clear();
    const there = this.#seat.askers.filter((npu) => !this.lost.has(npu));
    for (const npu of there) this.#waitsFor.add(npu);
    return there.map((npu) => this.#tell(npu, work));
  }

  #toHolders(workOf: (change: SlotChange, number: number) => ExpertWork): Commands['send'][] {
    this.#waitsFor.clear();
    const each = slotsOfRank(this.map.shape);
    return this.#changes.flatMap((change, index) => {
      if (change.expert === NO_EXPERT) return [];
      this.#waitsFor.add(this.#firstChange + index);
      return [this.#tell(this.#seat.first + Math.floor(change.slot / each), workOf(change, this.#firstChange + index))];
    });
  }

  #tell(npu: number, work: ExpertWork): Commands['send'] {
    return { to: address('npu', npu), message: expertWork(this.#seat.self, work) };
  }

  toJSON(): object {
    const { epoch, progress, progress_ms, log, lost } = this;
    const changes = this.#changes.map(({ layer, slot, expert }) => `${layer}.${slot}←${expert}`);
    return { epoch, progress, progress_ms, log, lost: [...lost], waits_for: [...this.#waitsFor], changes, slots: [...this.map.expertOfSlot] };
  }
}
