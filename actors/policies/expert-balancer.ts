/**
 * What the expert map of an EP group knows: where experts lie by the last good map, what was routed to them, which change is under way, and for which entry of
 * the map's log (map-log.ts).
 * @module
 */
import { type Address, idOf } from '../../src/protocol/address.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import { BROADCAST_MS_MAX, collectLoads, type RebalanceOutcome, type RebalanceTrigger, rebalanced } from '../../src/protocol/expert-maps.ts';
import { expertsPlaced, type MapCause, type MapOutcome, mapGranted, mapRefused, mapTaken } from '../../src/protocol/map-log.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { ranksOf } from './expert-placement/among-ranks.ts';
import type { ExpertMap } from './expert-placement/expert-map.ts';
import { type RanksMoved, ranksMoved } from './expert-placement/ranks-moved.ts';
import type { LostExpert } from './expert-placement/rehome-experts.ts';
import { LoadWindows } from './load-windows.ts';
import { MapLog } from './map-log.ts';
import { type BalancerSettings, type LayerPlan, type Losses, planPlacement, planRebalance, type RebalancePlan } from './map-plans.ts';
import { busy, errorOf, type Failure, isHeavier, type MapSeat, names, takenBy, type Wanted } from './map-writers.ts';
import { Reconfiguration } from './reconfiguration.ts';
import { Rehoming } from './rehoming.ts';

const CONTROL: Address = 'control/0';
const OUTCOMES_MAX = 32;

/** Before there is one. */
const NO_PLAN: RebalancePlan = { rounds: [], layers: [], before: 0, after: 0, cause: 'no_better', reason: '' };
/** What the latest rebalance planned, by layer, and which experts are on other NPUs since. `layer`: the model's number. */
export type LastRebalance = { readonly layers: readonly (LayerPlan & { readonly layer: number })[]; readonly moved: readonly RanksMoved[] };

export class ExpertBalancer {
  readonly #seat: MapSeat;
  readonly #settings: BalancerSettings;
  /** The map, and how it comes to be another. */
  readonly moves: Reconfiguration;
  readonly rehoming: Rehoming;
  readonly #windows: LoadWindows;
  /** Entries of all sorts; and what became of rebalances, the latest last. */
  readonly log = new MapLog();
  readonly #outcomes: RebalanceOutcome[] = [];
  #last: LastRebalance = { layers: [], moved: [] };
  /** As the rebalance at hand found it. */
  #before: ExpertMap;
  /** Who has the map next. */
  #wanted: Wanted | null = null;
  /** Where the open entry wants its experts, and has not got them yet. */
  #holders: readonly number[] | null = null;
  /** Its writer has said that it is over, while experts still move. */
  #left: { readonly error: ErrorRecord | null } | null = null;
  #trigger: RebalanceTrigger = 'period';
  #query = -1;
  #isForced = false;
  #failure: Failure | null = null;
  /** What went bad where it rests would fail whatever comes next, too: its NPU is to look at it, and ends. */
  readonly #looks: Commands['send'][] = [];
  #plan: RebalancePlan = NO_PLAN;
  /** A rehoming failed, of which something is left to do. */
  mustTryAgain = false;
  /** Those that nobody has any more, and nobody is to bring back: by the last rehoming. */
  lostExperts: readonly LostExpert[] = [];
  /** Ends of periods, rebalances and others' changes since it began; and when it last came to another state, −1: not told yet. */
  progress = 0;
  progress_ms = -1;

  constructor(seat: MapSeat, settings: BalancerSettings, map: ExpertMap) {
    this.#seat = seat;
    this.#settings = settings;
    this.moves = new Reconfiguration(seat, map);
    this.rehoming = new Rehoming({ tells: seat.tells, first: seat.first, shared: seat.shared, isMovable: seat.movable });
    this.#before = map;
    this.#windows = new LoadWindows(map.shape, settings.windows);
  }

  /** What became of rebalances, the latest last. */
  get outcomes(): readonly RebalanceOutcome[] {
    return this.#outcomes;
  }

  get last(): LastRebalance {
    return this.#last;
  }

  /** The last good one. */
  get map(): ExpertMap {
    return this.moves.map;
  }

  /** Of the last map that anybody was told of. */
  get epoch(): number {
    return this.moves.epoch;
  }

  get lost(): ReadonlySet<number> {
    return this.moves.lost;
  }

  get hasFailed(): boolean {
    return this.#failure !== null;
  }

  /** NPUs that hold experts, by the last good map. */
  get holders(): number[] {
    return ranksOf(this.map).map((rank) => this.#npuOf(rank));
  }

  fail(cause: MapCause, reason: string): void {
    this.#failure ??= { cause, reason };
  }

  /** The state was waited for in vain. */
  overdue(state: string): void {
    this.fail('deadline', `${state}: ${names(this.moves.waited)} did not answer in time`);
  }

  #begin(): void {
    [this.#failure, this.#plan] = [null, NO_PLAN];
    this.moves.begin(this.map, []);
  }

  // ── Entries of others ─────────────────────────────────────────────────────────────────────────────────────────────

  /** Somebody waits for the map. */
  get isWanted(): boolean {
    return this.#wanted !== null;
  }

  /** Somebody else's entry is open. */
  get isHeld(): boolean {
    return this.log.open !== null && this.log.open.writer !== this.#seat.self;
  }

  get #isRehoming(): boolean {
    return this.log.open?.change === 'rehome';
  }

  /** The open entry wants its experts somewhere. */
  get hasToPlace(): boolean {
    return this.#holders !== null;
  }

  /** What is under way and weighs less ends for it. */
  want(wanted: Wanted): Commands['send'][] {
    const { open } = this.log;
    const before = this.#wanted;
    if (!this.log.mayBegin(wanted.change) || (before !== null && !isHeavier(wanted, before)))
      return [{ to: wanted.writer, message: mapRefused(wanted.query, busy(before?.change ?? open?.change ?? wanted.change)) }];
    this.#wanted = wanted;
    if (open !== null) this.fail('another_entry', `a ${wanted.change} was asked for`);
    return before === null ? [] : [{ to: before.writer, message: mapRefused(before.query, busy(wanted.change)) }];
  }

  /** Its entry begins; whose entry was open hears that it is not his any more. */
  grant(): Commands['send'][] {
    const wanted = this.#wanted as Wanted;
    this.#wanted = null;
    const taken = this.isHeld ? this.release('aborted', 'another_entry', `a ${wanted.change} was asked for`) : [];
    const entry = this.log.begin(wanted.change, wanted.writer, this.epoch, wanted.is_return, wanted.why);
    this.#begin();
    return [...taken, { to: wanted.writer, message: mapGranted(wanted.query, entry, this.holders) }];
  }

  /** The open entry ends. Its writer hears of it unless he has said so. */
  release(outcome: MapOutcome, cause: MapCause, reason: string, code?: ErrorRecord['code']): Commands['send'][] {
    const { open } = this.log;
    [this.#holders, this.#left] = [null, null];
    if (open === null) return [];
    this.log.end(outcome, cause, reason, this.epoch);
    if (cause === 'asked' || cause === 'writer') return [];
    return [{ to: open.writer, message: mapTaken(open.entry, takenBy(cause, reason, code)) }];
  }

  /** By its writer. Whether experts lie elsewhere than before shows by the epoch. */
  done(error: ErrorRecord | null, told: string | null = null): void {
    const moved = this.epoch > (this.log.open?.epoch ?? 0);
    if (error !== null) this.release('rolled_back', error.code === 'deadline_exceeded' ? 'deadline' : 'writer', error.message);
    else if (told !== null) {
      const read = this.lostExperts.length - this.rehoming.lostBy(this.map).length;
      this.log.end('installed', 'npu_gone', read > 0 ? `${told}; ${read} experts came from the checkpoint with it` : told, this.epoch);
    } else this.release(moved ? 'installed' : 'unchanged', 'asked', moved ? 'experts lie elsewhere' : 'no expert lies elsewhere');
  }

  /** The same while experts still move: they stay as the last whole round leaves them. */
  leave(error: ErrorRecord | null): void {
    this.#left = { error };
    this.fail('writer', 'its writer has ended it');
  }

  /** From now on these alone are to hold experts. What is under way for the same entry gives way. */
  place(holders: readonly number[]): void {
    this.#holders = holders;
    this.fail('writer', 'other NPUs are to hold the experts');
  }

  /** Leaves rounds to go through, or a failure; or neither, where all is as it should be. */
  planPlacement(): void {
    const holders = this.#holders as readonly number[];
    const ranks = this.#ranksOf(holders);
    this.#holders = null;
    this.#begin();
    const losses: Losses = { lost: this.#ranksOf(this.lost), gone: this.#ranksOf(this.rehoming.gone) };
    const plan = planPlacement(this.map, ranks, losses, this.#settings.policy, this.#windows.loads);
    if ('cause' in plan) {
      this.fail(plan.cause, plan.reason);
      return;
    }
    this.rehoming.forget();
    this.moves.begin(plan.map, plan.rounds);
  }

  // ── NPUs that are lost and come back ──────────────────────────────────────────────────────────────────────────────

  /** `isFinal`: it has no successor. */
  lose(npu: number, why: string, isFinal: boolean): void {
    this.moves.lose(npu);
    const isNeeded = this.moves.needs(npu);
    if (isNeeded) this.fail('npu_lost', `npu/${npu} was lost: ${why}`);
    if (this.moves.holds(npu) || (isNeeded && this.#isRehoming)) this.rehoming.lost(npu);
    if (isFinal) this.gone(npu, true);
  }

  /** No successor is waited for any more. */
  gone(npu: number, isFinal = false): void {
    if (!this.lost.has(npu)) return;
    this.rehoming.noteGone(npu, this.moves.holds(npu), isFinal);
    if (this.rehoming.isDue && !this.#isRehoming) this.fail('another_entry', `npu/${npu} has no successor`);
  }

  /** Somebody waits for experts; or one is back, and nobody else has the map. */
  get mustRehome(): boolean {
    return this.rehoming.isUrgent || (this.rehoming.isDue && !this.isHeld);
  }

  /** Also said of one that begins for the first time. */
  back(npu: number): Commands['send'][] {
    if (!this.lost.has(npu)) return [];
    const sends = this.moves.welcome(npu);
    this.rehoming.back(npu, this.moves.holds(npu));
    return sends;
  }

  /** An entry begins, or goes on where more has happened. Who waits for what others have is told of those at once. */
  beginRehoming(): Commands['send'][] {
    const text = this.rehoming.take();
    const taken = this.isHeld ? this.release('aborted', 'another_entry', `a rehoming comes first: ${text}`, 'worker_failed') : [];
    if (this.log.open === null) this.log.begin('rehome', this.#seat.self, this.epoch, false, text);
    this.#begin();
    return [...taken, ...this.moves.spareLost()];
  }

  planRehoming(): void {
    this.#failure = null;
    const plan = this.rehoming.plan(this.map, this.lost);
    if ('cause' in plan) this.fail(plan.cause, plan.reason);
    else this.moves.begin(plan.map, plan.rounds);
  }

  /** More has happened: the entry goes on. Else it is over. */
  #finishRehoming(failure: Failure | null): Commands['send'][] {
    const { open } = this.log;
    if (open === null || this.rehoming.isDue) return [];
    const lost = this.rehoming.lostBy(this.map);
    if (failure === null) {
      const { cause, reason } = this.rehoming.told(this.map, Math.max(0, this.moves.waiting - lost.length));
      this.log.end(this.epoch > open.epoch ? 'installed' : 'unchanged', cause, reason, this.epoch);
    } else this.log.end('rolled_back', failure.cause, `${this.rehoming.text}; ${failure.reason}; the last good map stands`, this.epoch);
    this.mustTryAgain = !this.rehoming.end(failure === null, this.lost);
    this.lostExperts = lost;
    return this.rehoming.news(this.map, this.#seat.layers, failure === null);
  }

  // ── Collect, select ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Begins a rebalance. */
  begin(trigger: RebalanceTrigger, query: number, isForced: boolean): void {
    this.#begin();
    [this.#trigger, this.#query, this.#isForced] = [trigger, query, isForced];
    this.#before = this.map;
    this.log.begin('rebalance', this.#seat.self, this.epoch, false, `a rebalance, ${trigger === 'asked' ? 'asked for' : 'since a period has passed'}`);
    // Whoever is gone for good, and holds nothing by the map, is not waited for.
    const missing = [...this.lost].filter((npu) => this.moves.needs(npu) && (!this.rehoming.gone.has(npu) || this.moves.holds(npu)));
    if (missing.length > 0) this.fail('npu_lost', `${names(missing)} is lost`);
  }

  collect(): Commands['send'][] {
    this.#windows.begin();
    return this.moves.askAll(collectLoads());
  }

  collected(npu: number, tokens: readonly number[]): void {
    if (this.moves.collected(npu)) this.#windows.add(npu, tokens);
  }

  /** Leaves rounds to go through, or the reason why there are none. */
  select(): void {
    this.#plan = planRebalance(this.map, this.#ranksOf(this.lost), this.#settings, this.#windows.loads, this.#trigger, this.#isForced);
    this.moves.begin(this.map, this.#plan.rounds);
  }

  // ── What goes wrong, what came of it ──────────────────────────────────────────────────────────────────────────────

  slotDone(change: number, bytes: number): void {
    const way = this.moves.changed(change);
    if (way !== null && bytes > 0) this.log.noteCopied(way, bytes);
  }

  slotFailed(change: number, { code, message }: ErrorRecord): void {
    if (!this.moves.waitsFor(change)) return;
    this.fail(code === 'worker_lost' ? 'npu_lost' : 'corrupt', message);
    if (code === 'memory_fault') this.#looks.push(...this.moves.suspect(change));
  }

  /** By others perhaps than who has the weights: that shows when they are pulled. */
  broadcastFailed(change: number, why: string): Commands['send'][] {
    if (!this.moves.broadcasts.has(change)) return [];
    this.log.noteInstead(why);
    return [this.moves.pullInstead(change)];
  }

  broadcastsOverdue(): Commands['send'][] {
    for (const _ of this.moves.broadcasts) this.log.noteInstead(`it took more than ${BROADCAST_MS_MAX / 1000} s`);
    return this.moves.pullAllInstead();
  }

  /** What became of it, into the log and to whoever waits for it. */
  finish(): Commands['send'][] {
    this.progress++;
    const failure = this.#failure;
    this.#failure = null;
    this.mustTryAgain = false;
    // Whoever waits hears first what was bad: then its NPU may be lost.
    const looks = this.#looks.splice(0).filter(({ to }) => !this.lost.has(idOf(to)));
    if (this.isHeld) return [...this.#finishPlacement(failure), ...looks];
    return [...(this.#isRehoming ? this.#finishRehoming(failure) : this.#finishRebalance(failure)), ...looks];
  }

  #finishRebalance(failure: Failure | null): Commands['send'][] {
    const { open } = this.log;
    const { before } = this.#plan;
    const { moves } = this.moves;
    const installed = moves.length > 0;
    const { cause } = failure ?? this.#plan;
    const reason = failure === null ? this.#plan.reason : `${failure.reason}; the last good map stands`;
    const failed: MapOutcome = cause === 'another_entry' ? 'aborted' : 'rolled_back';
    const outcome: MapOutcome = failure === null ? (installed ? 'installed' : 'unchanged') : failed;
    const after = failure === null ? this.#plan.after : before;
    this.log.end(outcome, cause, reason, this.epoch);
    const [trigger, query] = [this.#trigger, this.#query];
    const told = { entry: open?.entry ?? 0, trigger, installed, outcome, cause, reason, before, after, slots: moves.length, epoch: this.epoch };
    this.#last = {
      layers: this.#plan.layers.map((plan, index) => ({ ...plan, layer: this.#layerOf(index) })),
      moved: ranksMoved(this.#before, this.map).map(({ layer, expert, onto, off }) => ({
        ...{ layer: this.#layerOf(layer), expert, onto: onto.map((rank) => this.#npuOf(rank)), off: off.map((rank) => this.#npuOf(rank)) },
      })),
    };
    this.#outcomes.push(told);
    if (this.#outcomes.length > OUTCOMES_MAX) this.#outcomes.shift();
    return query < 0 ? [] : [{ to: CONTROL, message: rebalanced(query, { ...told, task_executor: idOf(this.#seat.self), moves }) }];
  }

  #finishPlacement(failure: Failure | null): Commands['send'][] {
    const { open } = this.log;
    if (open === null) return [];
    if (this.#left !== null) {
      this.done(this.#left.error);
      this.#left = null;
      return [];
    }
    // Whoever takes the map over says so himself; and another place that is wanted comes next.
    if (this.#wanted !== null || this.rehoming.isUrgent || this.#holders !== null) return [];
    const error = failure === null ? null : errorOf(failure);
    return [{ to: open.writer, message: expertsPlaced(open.entry, this.holders, error) }];
  }

  /** One under way, and another is asked for. */
  refuse(query: number, state: string): Commands['send'][] {
    const { open } = this.log;
    const reason = `${open === null || open.change === 'rebalance' ? 'another rebalance' : `a ${open.change}`} is under way, and ${state}`;
    this.log.count('rebalance', 'refused', 'another_entry');
    const nothing = { entry: 0, trigger: 'asked', installed: false, outcome: 'refused', cause: 'another_entry', reason } as const;
    const report = { ...nothing, before: 0, after: 0, slots: 0, epoch: this.epoch, task_executor: idOf(this.#seat.self), moves: [] };
    return [{ to: CONTROL, message: rebalanced(query, report) }];
  }

  #layerOf(index: number): number {
    return this.#seat.layers[index] as number;
  }

  #npuOf(rank: number): number {
    return this.#seat.first + rank;
  }

  #ranksOf(npus: Iterable<number>): number[] {
    return [...npus].map((npu) => npu - this.#seat.first);
  }

  toJSON(): object {
    const { progress, progress_ms, log, outcomes, last, rehoming, lostExperts } = this;
    return { progress, progress_ms, log, outcomes, last, rehoming, lost_experts: lostExperts, ...this.moves.toJSON() };
  }
}
