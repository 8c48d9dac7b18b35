/**
 * The map of an EP group on its way to another one, round by round (xDeepServe §4.5, reconfigure): what NPUs are told, whom is waited for, and the way back.
 * @module
 */
import { type Address, address, expertAddress, idOf } from '../../src/protocol/address.ts';
import { expertsHeld, replicasChanged, replicasChanging } from '../../src/protocol/constructors.ts';
import {
  broadcastSlot,
  type ExpertMove,
  type ExpertWork,
  emptySlot,
  expertWork,
  installMap,
  loadSlot,
  lookAtSlot,
  stageSlot,
  withdrawBroadcasts,
} from '../../src/protocol/expert-maps.ts';
import type { CopyWay } from '../../src/protocol/map-log.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { mapSparing, ranksOf } from './expert-placement/among-ranks.ts';
import { sharedWeights } from './expert-placement/broadcast-weights.ts';
import { type ExpertMap, NO_EXPERT, replicasOf } from './expert-placement/expert-map.ts';
import { mapAfter, type SlotChange } from './expert-placement/map-rounds.ts';
import { slotsOfRank } from './expert-placement/placement-shape.ts';
import type { Rounds } from './map-plans.ts';

/**
 * NPUs of the group: those that run steps and sort tokens by the map, and the first of those that have slots. `layers`: the model's numbers of those that have experts;
 * `shared`: NPUs that have the shared expert, where it is apart from attention; `movable`: NPUs have room for weights that come; else experts stay, whoever is lost.
 */
export type BalancerSeat = {
  readonly self: Address;
  readonly askers: readonly number[];
  readonly first: number;
  readonly shared: readonly number[];
  readonly layers: readonly number[];
  readonly movable: boolean;
};

export class Reconfiguration {
  readonly #seat: BalancerSeat;
  readonly #firstMap: ExpertMap;
  #map: ExpertMap;
  #epoch = 0;
  readonly #lost = new Set<number>();
  /** What the state waits for: NPUs that were asked, or changes. Their numbers say nothing of one another. */
  readonly #waitsForNpus = new Set<number>();
  readonly #waitsForChanges = new Set<number>();
  /** Of these, those whose weights are to come by broadcast. */
  readonly #byBroadcast = new Set<number>();
  readonly #fromCheckpoint = new Set<number>();
  /** NPUs that send those of the round. */
  #senders: readonly number[] = [];
  /** Changes of the round whose slots were written to. */
  readonly #touched = new Set<number>();
  #rounds: Rounds = [];
  #round = 0;
  /** Changes, numbered through the group's life: a late answer to an earlier one is told from it. */
  #firstChange = 0;
  /** NPUs that hold experts, as the task executor knows it. */
  #holders: readonly number[];
  /** What slots hold by the last map that was told. */
  #told: Int32Array;
  /** Slots that got another expert since it began. */
  #moves: ExpertMove[] = [];

  constructor(seat: BalancerSeat, map: ExpertMap) {
    this.#seat = seat;
    this.#firstMap = map;
    this.#map = map;
    this.#told = map.expertOfSlot;
    this.#holders = this.#holdersOf(map);
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
    return this.#waitsForNpus.size + this.#waitsForChanges.size > 0;
  }

  /** NPUs that have not answered. */
  get waited(): number[] {
    const ofChange = (change: number): number => this.#npuOf((this.#changes[change - this.#firstChange] as SlotChange).slot);
    return [...new Set([...this.#waitsForNpus, ...[...this.#waitsForChanges].map(ofChange)])];
  }

  get hasRounds(): boolean {
    return this.#round < this.#rounds.length;
  }

  get moves(): readonly ExpertMove[] {
    return this.#moves;
  }

  /** `map`: what counts from now on. */
  begin(map: ExpertMap, rounds: Rounds): void {
    this.#waitForNobody();
    [this.#map, this.#rounds, this.#round, this.#moves] = [map, rounds, 0, []];
  }

  get #changes(): readonly SlotChange[] {
    return this.#rounds[this.#round] ?? [];
  }

  stage(): Commands['send'][] {
    this.#touched.clear();
    const changes = this.#changes.map((change) => (change.expert === NO_EXPERT ? change : { ...change, source: this.#readable(change) }));
    const shared = sharedWeights(changes, this.#firstChange, (slot) => this.#npuOf(slot));
    const broadcastOf = new Map(shared.flatMap(({ changes, broadcast }) => changes.map((index) => [this.#firstChange + index, broadcast])));
    const sends = this.#toHolders(({ layer, slot, expert }, change) => {
      if (expert === NO_EXPERT) return null;
      const { source } = changes[change - this.#firstChange] as SlotChange;
      if (source < 0) this.#fromCheckpoint.add(change);
      return stageSlot(change, layer, slot, expert, source, this.#isFree(layer, slot), broadcastOf.get(change) ?? null);
    });
    for (const change of broadcastOf.keys()) this.#byBroadcast.add(change);
    this.#senders = [...new Set(shared.map(({ source }) => this.#npuOf(source)))];
    return [...shared.map(({ layer, source, broadcast }) => this.#tell(this.#npuOf(source), broadcastSlot(layer, source, broadcast))), ...sends];
  }

  /** Changes that are waited for, whose weights come by broadcast. */
  get broadcasts(): ReadonlySet<number> {
    return this.#byBroadcast;
  }

  /** The change's broadcast did not come: who was to get the weights copies them. */
  pullInstead(change: number): Commands['send'] {
    this.#byBroadcast.delete(change);
    const wanted = this.#changes[change - this.#firstChange] as SlotChange;
    const { layer, slot, expert } = wanted;
    const source = this.#readable(wanted);
    if (source < 0) this.#fromCheckpoint.add(change);
    return this.#tell(this.#npuOf(slot), stageSlot(change, layer, slot, expert, source, this.#isFree(layer, slot), null));
  }

  /** Nor did all others that are waited for. */
  pullAllInstead(): Commands['send'][] {
    return [...this.#withdraw(), ...[...this.#byBroadcast].map((change) => this.pullInstead(change))];
  }

  /** Nobody waits for broadcasts of the round any more. */
  #withdraw(): Commands['send'][] {
    const before = this.#firstChange + this.#changes.length;
    const senders = this.#senders.filter((npu) => !this.#lost.has(npu));
    this.#senders = [];
    return senders.map((npu) => this.#tell(npu, withdrawBroadcasts(before)));
  }

  disable(): Commands['send'][] {
    const sends = this.#install(mapAfter(this.#map, this.#changes, true));
    return [...sends, ...this.#concerned().map(({ layer, expert }) => ({ to: this.#expert(layer, expert), message: replicasChanging(this.#epoch) }))];
  }

  load(): Commands['send'][] {
    const sends = this.#toHolders(({ layer, slot, expert }, change) =>
      expert === NO_EXPERT ? emptySlot(change, layer, slot, this.#epoch + 1) : loadSlot(change, this.#epoch + 1),
    );
    for (const change of this.#waitsForChanges) this.#touched.add(change);
    return sends;
  }

  /** Until all go by the new map, some go by the one before. */
  enable(): Commands['send'][] {
    const next = mapAfter(this.#map, this.#changes, false);
    return [...this.#tellHolders(this.#map, next), ...this.#install(next)];
  }

  /** The round is over: its map is the last good one. Its experts hear where they lie. */
  settle(): Commands['send'][] {
    this.#moves.push(...this.#changes.map((change) => this.#moveOf(change)));
    const concerned = this.#concerned();
    this.#map = mapAfter(this.#map, this.#changes, false);
    this.#firstChange += this.#changes.length;
    this.#round++;
    return [...this.#tellHolders(this.#map), ...this.#tellReplicas(concerned)];
  }

  /** True: it was waited for. */
  collected(npu: number): boolean {
    return this.#waitsForNpus.delete(npu);
  }

  /** By which way its weights have come; null: it was not waited for. */
  changed(change: number): CopyWay | null {
    if (!this.#waitsForChanges.delete(change)) return null;
    if (this.#fromCheckpoint.delete(change)) return 'checkpoint';
    return this.#byBroadcast.delete(change) ? 'broadcast' : 'pulled';
  }

  waitsFor(change: number): boolean {
    return this.#waitsForChanges.has(change);
  }

  /** Weights came for it that are not what was summed once: whoever has them looks at them. */
  suspect(change: number): Commands['send'][] {
    const wanted = this.#changes[change - this.#firstChange] as SlotChange;
    const source = this.#readable(wanted);
    return source < 0 ? [] : [this.#tell(this.#npuOf(source), lookAtSlot(wanted.layer, source))];
  }

  installed(npu: number, epoch: number): void {
    if (epoch >= this.#epoch) this.#waitsForNpus.delete(npu);
  }

  /**
   * Back to the last good map: the slots of the round hold what they held, or, where they were written to, nothing that anybody may ask for. Their experts are
   * elsewhere too, so the map is whole.
   */
  rollBack(): Commands['send'][] {
    const concerned = this.#concerned();
    const withdrawn = this.#withdraw();
    this.#map = mapAfter(
      this.#map,
      this.#changes.filter((_, index) => this.#touched.has(this.#firstChange + index)),
      true,
    );
    this.#firstChange += this.#changes.length;
    [this.#rounds, this.#round] = [[], 0];
    this.#touched.clear();
    return [...withdrawn, ...this.#tellHolders(this.#map), ...this.#install(this.#map), ...this.#tellReplicas(concerned)];
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

  #holdersOf(map: ExpertMap): number[] {
    return ranksOf(map).map((rank) => this.#seat.first + rank);
  }

  #tellHolders(...maps: readonly ExpertMap[]): Commands['send'][] {
    const holders = [...new Set(maps.flatMap((map) => this.#holdersOf(this.#spared(map))))].sort((a, b) => a - b);
    if (holders.length === this.#holders.length && holders.every((npu, index) => npu === this.#holders[index])) return [];
    this.#holders = holders;
    return [{ to: address('task-executor', idOf(this.#seat.self)), message: expertsHeld(holders) }];
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
    this.#waitsForNpus.delete(npu);
  }

  /** It sorts tokens, holds experts, or is to hold some by the rounds that are under way. Whoever stands by does not count. */
  needs(npu: number): boolean {
    const isToHold = (round: readonly SlotChange[]): boolean => round.some(({ slot }) => this.#npuOf(slot) === npu);
    return this.#seat.askers.includes(npu) || this.#holdersOf(this.#map).includes(npu) || this.#rounds.slice(this.#round).some(isToHold);
  }

  /** It begins with the first map. */
  welcome(npu: number): Commands['send'][] {
    this.#lost.delete(npu);
    if (!this.#seat.askers.includes(npu)) return [];
    return [this.#tell(npu, this.#mapWork(this.#spared(this.#map)))];
  }

  /** By the last good map it has experts, whether it is there or not. */
  holds(npu: number): boolean {
    return ranksOf(this.#map).includes(npu - this.#seat.first);
  }

  /** Experts that are on NPUs alone which are lost. */
  get waiting(): number {
    const { shape } = this.#map;
    let count = 0;
    for (let entry = 0; entry < shape.layers * shape.experts; entry++) {
      const slots = replicasOf(this.#map, Math.floor(entry / shape.experts), entry % shape.experts);
      if (slots.every((slot) => this.#lost.has(this.#npuOf(slot)))) count++;
    }
    return count;
  }

  /** Experts that an NPU had which is lost are served by their other replicas at once; by its own again when it is back, as it left them. */
  spareLost(): Commands['send'][] {
    const { expertOfSlot } = this.#spared(this.#map);
    if (expertOfSlot.every((expert, at) => expert === this.#told[at])) return [];
    return [...this.#tellHolders(this.#map), ...this.#install(this.#map)];
  }

  #spared(map: ExpertMap): ExpertMap {
    return mapSparing(map, new Set([...this.#lost].map((npu) => npu - this.#seat.first)));
  }

  #install(map: ExpertMap): Commands['send'][] {
    this.#epoch++;
    const spared = this.#spared(map);
    this.#told = spared.expertOfSlot;
    return this.askAll(this.#mapWork(spared));
  }

  #mapWork(map: ExpertMap): ExpertWork {
    const [slots, experts]: [number[], number[]] = [[], []];
    for (const [at, expert] of map.expertOfSlot.entries()) {
      if (expert === this.#firstMap.expertOfSlot[at]) continue;
      slots.push(at);
      experts.push(expert);
    }
    return installMap(this.#epoch, slots, experts);
  }

  /** All who run steps. */
  askAll(work: ExpertWork): Commands['send'][] {
    this.#waitForNobody();
    const there = this.#seat.askers.filter((npu) => !this.#lost.has(npu));
    for (const npu of there) this.#waitsForNpus.add(npu);
    return there.map((npu) => this.#tell(npu, work));
  }

  #waitForNobody(): void {
    this.#waitsForNpus.clear();
    this.#waitsForChanges.clear();
    this.#byBroadcast.clear();
    this.#fromCheckpoint.clear();
  }

  /** By the last good map it holds nothing. */
  #isFree(layer: number, slot: number): boolean {
    return this.#map.expertOfSlot[layer * this.#map.shape.slots + slot] === NO_EXPERT;
  }

  /** The slot, or another one that has the expert, of an NPU that lives; −1: none has. */
  #readable({ layer, expert, source }: SlotChange): number {
    if (!this.#lost.has(this.#npuOf(source))) return source;
    return replicasOf(this.#map, layer, expert).find((other) => !this.#lost.has(this.#npuOf(other))) ?? -1;
  }

  /** Those that are lost hold nothing any more. */
  #toHolders(workOf: (change: SlotChange, number: number) => ExpertWork | null): Commands['send'][] {
    this.#waitForNobody();
    return this.#changes.flatMap((change, index) => {
      const npu = this.#npuOf(change.slot);
      const work = workOf(change, this.#firstChange + index);
      if (work === null || (work.kind === 'empty' && this.#lost.has(npu))) return [];
      this.#waitsForChanges.add(this.#firstChange + index);
      return [this.#tell(npu, work)];
    });
  }

  #tell(npu: number, work: ExpertWork): Commands['send'] {
    return { to: address('npu', npu), message: expertWork(this.#seat.self, work) };
  }

  toJSON(): object {
    const changes = this.#changes.map(({ layer, slot, expert }) => `${layer}.${slot}←${expert}`);
    const { epoch, waited: waits_for } = this;
    return { epoch, lost: [...this.#lost], holders: this.#holders, waits_for, changes, slots: [...this.#map.expertOfSlot] };
  }
}
