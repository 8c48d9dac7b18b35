/**
 * The map of an EP group on its way to another one, round by round (xDeepServe §4.5, reconfigure): what NPUs are told, whom is waited for, and the way back.
 * @module
 */
import { type Address, address, expertAddress, idOf } from '../../src/protocol/address.ts';
import { replicasChanged, replicasChanging } from '../../src/protocol/constructors.ts';
import { type ExpertMove, type ExpertWork, emptySlot, expertWork, installMap, loadSlot, stageSlot } from '../../src/protocol/expert-maps.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { type ExpertMap, NO_EXPERT, replicasOf } from './expert-placement/expert-map.ts';
import { mapAfter, type SlotChange } from './expert-placement/map-rounds.ts';
import { slotsOfRank } from './expert-placement/placement-shape.ts';
import type { Rounds } from './map-plans.ts';

/** NPUs of the group: those that run steps and sort tokens by the map, and the first of those that have slots. `layers`: the model's numbers of those that have experts. */
export type BalancerSeat = { readonly self: Address; readonly askers: readonly number[]; readonly first: number; readonly layers: readonly number[] };

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
  /** Slots that got another expert since it began. */
  #moves: ExpertMove[] = [];

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

  get moves(): readonly ExpertMove[] {
    return this.#moves;
  }

  /** `map`: what counts from now on. */
  begin(map: ExpertMap, rounds: Rounds): void {
    [this.#map, this.#rounds, this.#round, this.#moves] = [map, rounds, 0, []];
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
    const sends = this.#install(mapAfter(this.#map, this.#changes, true));
    return [...sends, ...this.#concerned().map(({ layer, expert }) => ({ to: this.#expert(layer, expert), message: replicasChanging(this.#epoch) }))];
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

  /** The round is over: its map is the last good one. Its experts hear where they lie. */
  settle(): Commands['send'][] {
    this.#moves.push(...this.#changes.map((change) => this.#moveOf(change)));
    const concerned = this.#concerned();
    this.#map = mapAfter(this.#map, this.#changes, false);
    this.#firstChange += this.#changes.length;
    this.#round++;
    return this.#tellReplicas(concerned);
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
    const concerned = this.#concerned();
    this.#map = mapAfter(
      this.#map,
      this.#changes.filter((_, index) => this.#touched.has(this.#firstChange + index)),
      true,
    );
    this.#firstChange += this.#changes.length;
    [this.#rounds, this.#round] = [[], 0];
    this.#touched.clear();
    return [...this.#install(this.#map), ...this.#tellReplicas(concerned)];
  }

  // ── Experts ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Those whose replicas the round changes, by the map before it. */
  #concerned(): { readonly layer: number; readonly expert: number }[] {
    const seen = new Map<string, { readonly layer: number; readonly expert: number }>();
    for (const change of this.#changes)
      for (const expert of [change.expert, this.#held(change)])
        if (expert !== NO_EXPERT) seen.set(`${change.layer}.${expert}`, { layer: change.layer, expert });
    return [...seen.values()];
  }

  #tellReplicas(concerned: readonly { readonly layer: number; readonly expert: number }[]): Commands['send'][] {
    return concerned.map(({ layer, expert }) => {
      const npus = new Set([...replicasOf(this.#map, layer, expert)].map((slot) => this.#npuOf(slot)));
      return { to: this.#expert(layer, expert), message: replicasChanged(this.#epoch, [...npus]) };
    });
  }

  #held({ layer, slot }: SlotChange): number {
    return this.#map.expertOfSlot[layer * this.#map.shape.slots + slot] as number;
  }

  #moveOf(change: SlotChange): ExpertMove {
    const { layer, slot, expert, source } = change;
    const held = this.#held(change);
    return {
      layer: this.#seat.layers[layer] as number,
      expert: expert === NO_EXPERT ? null : expert,
      npu: this.#npuOf(slot),
      source: expert === NO_EXPERT ? null : this.#npuOf(source),
      replaced: held === NO_EXPERT ? null : held,
    };
  }

  #expert(layer: number, expert: number): Address {
    return expertAddress(idOf(this.#seat.self), this.#seat.layers[layer] as number, expert);
  }

  #npuOf(slot: number): number {
    return this.#seat.first + Math.floor(slot / slotsOfRank(this.#map.shape));
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
    return this.#changes.flatMap((change, index) => {
      const npu = this.#npuOf(change.slot);
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
