/**
 * The map of an EP group on its way to another one, round by round (xDeepServe §4.5, reconfigure): what NPUs are told, whom is waited for, and the way back.
 * @module
 */
import { type Address, address } from '../../src/protocol/address.ts';
import { type ExpertWork, emptySlot, expertWork, installMap, loadSlot, stageSlot } from '../../src/protocol/expert-maps.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { type ExpertMap, NO_EXPERT } from './expert-placement/expert-map.ts';
import { mapAfter, type SlotChange } from './expert-placement/map-rounds.ts';
import { slotsOfRank } from './expert-placement/placement-shape.ts';
import type { Rounds } from './map-plans.ts';

/** NPUs of the group: those that run steps and sort tokens by the map, and the first of those that have slots. */
export type BalancerSeat = { readonly self: Address; readonly askers: readonly number[]; readonly first: number };

export class Reconfiguration {
  readonly #seat: BalancerSeat;
  readonly #firstMap: ExpertMap;
  #map: ExpertMap;
  #epoch = 0;
  readonly #lost = new Set<number>();
  /** Whom the state waits for: NPUs, or changes. */
  readonly #waitsFor = new Set<number>();
  /** Changes of the round whose slots were written to. */
  readonly #touched = new Set<number>();
  #rounds: Rounds = [];
  #round = 0;
  /** Changes, numbered through the group's life: a late answer to an earlier one is told from it. */
  #firstChange = 0;
  #changed = 0;

  constructor(seat: BalancerSeat, map: ExpertMap) {
    this.#seat = seat;
    this.#firstMap = map;
    this.#map = map;
  }

  /** The last good one: all of its slots hold what it says. */
  get map(): ExpertMap {
    return this.#map;
  }

  /** Of the last map that anybody was told of. */
  get epoch(): number {
    return this.#epoch;
  }

  get lost(): ReadonlySet<number> {
    return this.#lost;
  }

  get waits(): boolean {
    return this.#waitsFor.size > 0;
  }

  /** NPUs, or changes. */
  get waited(): number[] {
    return [...this.#waitsFor];
  }

  get hasRounds(): boolean {
    return this.#round < this.#rounds.length;
  }

  /** Slots, since it began. */
  get changed(): number {
    return this.#changed;
  }

  /** `map`: what counts from now on. */
  begin(map: ExpertMap, rounds: Rounds): void {
    [this.#map, this.#rounds, this.#round, this.#changed] = [map, rounds, 0, 0];
  }

  get #changes(): readonly SlotChange[] {
    return this.#rounds[this.#round] ?? [];
  }

  stage(): Commands['send'][] {
    this.#touched.clear();
    return this.#toHolders(({ layer, slot, expert, source }, change) =>
      expert === NO_EXPERT ? null : stageSlot(change, layer, slot, expert, source, this.#isFree(layer, slot)),
    );
  }

  disable(): Commands['send'][] {
    return this.#install(mapAfter(this.#map, this.#changes, true));
  }

  load(): Commands['send'][] {
    const sends = this.#toHolders(({ layer, slot, expert }, change) =>
      expert === NO_EXPERT ? emptySlot(change, layer, slot, this.#epoch + 1) : loadSlot(change, this.#epoch + 1),
    );
    for (const change of this.#waitsFor) this.#touched.add(change);
    return sends;
  }

  enable(): Commands['send'][] {
    return this.#install(mapAfter(this.#map, this.#changes, false));
  }

  /** The round is over: its map is the last good one. */
  settle(): void {
    this.#changed += this.#changes.length;
    this.#map = mapAfter(this.#map, this.#changes, false);
    this.#firstChange += this.#changes.length;
    this.#round++;
  }

  /** True: it was waited for, an NPU or a change. */
  answered(waited: number): boolean {
    return this.#waitsFor.delete(waited);
  }

  waitsFor(waited: number): boolean {
    return this.#waitsFor.has(waited);
  }

  installed(npu: number, epoch: number): void {
    if (epoch >= this.#epoch) this.#waitsFor.delete(npu);
  }

  /**
   * Back to the last good map: the slots of the round hold what they held, or, where they were written to, nothing that anybody may ask for. Their experts are
   * elsewhere too, so the map is whole.
   */
  rollBack(): Commands['send'][] {
    this.#map = mapAfter(
      this.#map,
      this.#changes.filter((_, index) => this.#touched.has(this.#firstChange + index)),
      true,
    );
    this.#firstChange += this.#changes.length;
    [this.#rounds, this.#round] = [[], 0];
    this.#touched.clear();
    return this.#install(this.#map);
  }

  // ── NPUs that come and go ─────────────────────────────────────────────────────────────────────────────────────────

  lose(npu: number): void {
    this.#lost.add(npu);
    this.#waitsFor.delete(npu);
  }

  /** It begins with the first map. */
  welcome(npu: number): Commands['send'][] {
    if (!this.#lost.delete(npu)) return [];
    return this.#seat.askers.includes(npu) ? [this.#tell(npu, this.#mapWork(this.#map))] : [];
  }

  #install(map: ExpertMap): Commands['send'][] {
    this.#epoch++;
    return this.askAll(this.#mapWork(map));
  }

  #mapWork(map: ExpertMap): ExpertWork {
    const slots: number[] = [];
    const experts: number[] = [];
    for (const [at, expert] of map.expertOfSlot.entries()) {
      if (expert === this.#firstMap.expertOfSlot[at]) continue;
      slots.push(at);
      experts.push(expert);
    }
    return installMap(this.#epoch, slots, experts);
  }

  /** All who run steps. */
  askAll(work: ExpertWork): Commands['send'][] {
    this.#waitsFor.clear();
    const there = this.#seat.askers.filter((npu) => !this.#lost.has(npu));
    for (const npu of there) this.#waitsFor.add(npu);
    return there.map((npu) => this.#tell(npu, work));
  }

  /** By the last good map it holds nothing. */
  #isFree(layer: number, slot: number): boolean {
    return this.#map.expertOfSlot[layer * this.#map.shape.slots + slot] === NO_EXPERT;
  }

  /** Those that are lost hold nothing any more. */
  #toHolders(workOf: (change: SlotChange, number: number) => ExpertWork | null): Commands['send'][] {
    this.#waitsFor.clear();
    const each = slotsOfRank(this.#map.shape);
    return this.#changes.flatMap((change, index) => {
      const npu = this.#seat.first + Math.floor(change.slot / each);
      const work = workOf(change, this.#firstChange + index);
      if (work === null || (work.kind === 'empty' && this.#lost.has(npu))) return [];
      this.#waitsFor.add(this.#firstChange + index);
      return [this.#tell(npu, work)];
    });
  }

  #tell(npu: number, work: ExpertWork): Commands['send'] {
    return { to: address('npu', npu), message: expertWork(this.#seat.self, work) };
  }

  toJSON(): object {
    const changes = this.#changes.map(({ layer, slot, expert }) => `${layer}.${slot}←${expert}`);
    return { epoch: this.#epoch, lost: [...this.#lost], waits_for: this.waited, changes, slots: [...this.#map.expertOfSlot] };
  }
}
