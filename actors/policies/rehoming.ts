/**
 * What an expert map does of NPUs that are lost and come back (ReviveMoE; xDeepServe §6): each is an entry of its log, which weighs more than all others.
 *
 *   lost ─▶ other replicas serve ─▶ (its successor is there) back ─▶ it serves again what it had
 *              │                                   ▲
 *              └─▶ (none has come for too long) gone ─▶ what is nowhere else is loaded onto those that are left, from the checkpoint
 * @module
 */
import { type Address, roleOf } from '../../src/protocol/address.ts';
import type { MapCause } from '../../src/protocol/map-log.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { advised, expertsNowhere } from '../../src/protocol/role-switch.ts';
import { ranksOf } from './expert-placement/among-ranks.ts';
import { type ExpertMap, NO_EXPERT, replicasOf } from './expert-placement/expert-map.ts';
import { planRounds } from './expert-placement/map-rounds.ts';
import { slotsOfRank } from './expert-placement/placement-shape.ts';
import { type LostExpert, rehomeExperts, slotsOf, withReturned } from './expert-placement/rehome-experts.ts';
import type { PlacementPlan } from './map-plans.ts';
import { names } from './map-writers.ts';

/** What has become of an NPU, each of which weighs more than those before it. */
const EVENTS = ['back', 'lost', 'gone'] as const;
type Event = (typeof EVENTS)[number];
const TEXTS: Readonly<Record<Event, string>> = { back: 'is back', lost: 'was lost', gone: 'is lost for good' };
const CAUSES: Readonly<Record<Event, MapCause>> = { back: 'npu_back', lost: 'npu_lost', gone: 'npu_gone' };

/**
 * `tells`: who is to hear that experts are nowhere. `first`: of the group's NPUs that may hold experts; `shared`: those that have the shared expert, which lies where it
 * lies. `isMovable`: others' slots have room for what comes.
 */
type Seat = { readonly tells: Address; readonly first: number; readonly shared: readonly number[]; readonly isMovable: boolean };

export class Rehoming {
  readonly #seat: Seat;
  /** What is to be dealt with. */
  readonly #due = new Map<number, Event>();
  /** What the open entry deals with, in the order in which it came. */
  readonly #taken = new Map<number, Event>();
  /** NPUs that are lost for good, as far as anybody knows; and whether some have no successors. */
  readonly #gone = new Set<number>();
  #isFinal = false;
  /** By NPU: what it held when it was gone, while that is not there again. */
  readonly #had = new Map<number, Int32Array>();
  #loaded: readonly LostExpert[] = [];
  /** What the task executor was told is nowhere. */
  #told: string | null = null;
  /** What the last entry did not come to. */
  #failed: readonly (readonly [npu: number, event: Event])[] = [];

  constructor(seat: Seat) {
    this.#seat = seat;
  }

  get isDue(): boolean {
    return this.#due.size > 0;
  }

  /** It takes the map from whoever has it: somebody waits for experts. */
  get isUrgent(): boolean {
    return [...this.#due.values()].some((event) => event !== 'back');
  }

  get gone(): ReadonlySet<number> {
    return this.#gone;
  }

  lost(npu: number): void {
    this.#due.set(npu, 'lost');
  }

  /** It has no successor (`isFinal`), or none in good time. `holds`: by the map, experts are there. */
  noteGone(npu: number, holds: boolean, isFinal: boolean): void {
    this.#gone.add(npu);
    this.#isFinal = isFinal;
    if (holds || this.#due.has(npu)) this.#due.set(npu, 'gone');
  }

  /** `holds`: by the map, experts are there. */
  back(npu: number, holds: boolean): void {
    // It may have held no experts any more, and have had the shared one.
    const wasGone = this.#gone.delete(npu);
    this.#due.delete(npu);
    if (holds || wasGone) this.#due.set(npu, 'back');
  }

  /** Others say from now on who is to hold experts. */
  forget(): void {
    this.#had.clear();
  }

  /** The open entry deals with it. Returns what has happened, in words. */
  take(): string {
    for (const [npu, event] of this.#due) {
      this.#taken.delete(npu);
      this.#taken.set(npu, event);
    }
    this.#due.clear();
    this.#loaded = [];
    return this.text;
  }

  /** What the open entry deals with. */
  get text(): string {
    return [...this.#taken].map(([npu, event]) => `npu/${npu} ${TEXTS[event]}`).join(', ');
  }

  /** `lost`: all NPUs that are. */
  plan(map: ExpertMap, lost: ReadonlySet<number>): PlacementPlan | { readonly cause: MapCause; readonly reason: string } {
    const { isMovable } = this.#seat;
    const away = new Set([...lost].map((npu) => this.#rankOf(npu)));
    const gone = new Set([...this.#gone].map((npu) => this.#rankOf(npu)));
    const holders = ranksOf(map);
    for (const npu of this.#gone) if (!this.#had.has(npu) && holders.includes(this.#rankOf(npu))) this.#had.set(npu, slotsOf(map, this.#rankOf(npu)));
    const living = Array.from({ length: map.shape.ranks }, (_, rank) => rank).filter((rank) => !away.has(rank));
    // Those that stand by come last: somebody has wanted it so.
    const { there, wanted, loaded } = rehomeExperts(map, gone, away, isMovable ? [living.filter((rank) => holders.includes(rank)), living] : []);
    let target = wanted;
    for (const [npu, had] of this.#had) if (!lost.has(npu)) target = withReturned(target, this.#rankOf(npu), had);
    const rounds = planRounds(there, target, away);
    if (rounds === null) return { cause: 'no_room', reason: 'there is no way to where experts are to lie' };
    this.#loaded = loaded;
    return { map: there, rounds };
  }

  /** Experts that nobody has any more, and nobody is to bring back. `map`: the last good one. */
  lostBy(map: ExpertMap): LostExpert[] {
    const gone = new Set([...this.#gone].map((npu) => this.#rankOf(npu)));
    const each = slotsOfRank(map.shape);
    const isGone = (slot: number): boolean => gone.has(Math.floor(slot / each));
    if (![...map.expertOfSlot.keys()].some((at) => map.expertOfSlot[at] !== NO_EXPERT && isGone(at % map.shape.slots))) return [];
    const { layers, experts } = map.shape;
    const all = Array.from({ length: layers * experts }, (_, at) => ({ layer: Math.floor(at / experts), expert: at % experts }));
    return all.filter(({ layer, expert }) => replicasOf(map, layer, expert).every(isGone));
  }

  /** Nobody has the shared expert any more, and nobody is to bring it back. */
  get isSharedLost(): boolean {
    const { shared } = this.#seat;
    return shared.length > 0 && shared.every((npu) => this.#gone.has(npu));
  }

  /** Where that is news: what nobody can compute any more, or that somebody can again. `layers`: the model's numbers; `isFinal`: nothing of it is to be tried again. */
  news(map: ExpertMap, layers: readonly number[], isFinal: boolean): Commands['send'][] {
    const lost = this.lostBy(map);
    const [first] = lost;
    const others = lost.length === 1 ? '' : ` and ${lost.length - 1} other experts`;
    const what = first === undefined ? 'the shared expert' : `expert ${first.expert} of layer ${layers[first.layer]}${others}`;
    // Attention NPUs that are gone are nobody's who misses experts.
    const holders = [...this.#gone].filter((npu) => this.#rankOf(npu) >= 0 && this.#rankOf(npu) < map.shape.ranks);
    const gone = names(holders);
    // The shared expert lies where it lies.
    const why = first === undefined ? `${gone} had it` : `${gone} had them, and there is no room for them elsewhere`;
    const bare = { code: 'experts_lost', message: `no copy is left of ${what}: ${why}`, param: null } as const;
    const isNone = first === undefined && !this.isSharedLost;
    // A role switch knows who may come yet.
    const isTold = roleOf(this.#seat.tells) === 'role-switch';
    const error = isNone ? null : isTold ? bare : advised(bare, isFinal && this.#isFinal ? 'never' : 'soon');
    if ((error?.message ?? null) === this.#told) return [];
    this.#told = error?.message ?? null;
    const needed = isFinal ? [...this.#gone].filter((npu) => this.#isNeeded(map, npu, lost)) : [];
    return [{ to: this.#seat.tells, message: expertsNowhere(error, this.isSharedLost ? [] : holders, needed) }];
  }

  /** Something that is nowhere would be somewhere with it. */
  #isNeeded(map: ExpertMap, npu: number, lost: readonly LostExpert[]): boolean {
    const each = slotsOfRank(map.shape);
    const holds = ({ layer, expert }: LostExpert): boolean => replicasOf(map, layer, expert).some((slot) => Math.floor(slot / each) === this.#rankOf(npu));
    return lost.some(holds) || (this.isSharedLost && this.#seat.shared.includes(npu));
  }

  /** What the entry came to, unless it failed. `waiting`: experts that are on NPUs alone whose successors are to come. */
  told(map: ExpertMap, waiting: number): { readonly cause: MapCause; readonly reason: string } {
    const heaviest = Math.max(...[...this.#taken.values()].map((event) => EVENTS.indexOf(event)));
    const lost = this.lostBy(map).length;
    const parts = [
      this.text,
      ...(this.#loaded.length > 0 ? [`${this.#loaded.length} experts that were nowhere else came from the checkpoint`] : []),
      ...(lost > 0 ? [`${lost} experts are nowhere, and there is no room for them elsewhere`] : []),
      ...(waiting > 0 ? [`${waiting} experts are nowhere else and wait for a successor`] : []),
      ...(this.isSharedLost ? ['the shared expert is nowhere: all NPUs that had it are gone'] : []),
      ...(lost + waiting === 0 && !this.isSharedLost ? ['all experts are served'] : []),
    ];
    return { cause: CAUSES[EVENTS[heaviest] as Event], reason: parts.join('; ') };
  }

  /** The entry is over. False: it failed, and something of it is to be tried again. */
  end(isDone: boolean, lost: ReadonlySet<number>): boolean {
    this.#failed = isDone ? [] : [...this.#taken].filter(([, event]) => event !== 'lost');
    this.#taken.clear();
    if (isDone) for (const npu of [...this.#had.keys()]) if (!lost.has(npu)) this.#had.delete(npu);
    return this.#failed.length === 0;
  }

  /** Once more what failed, as far as it is so still. */
  again(): void {
    for (const [npu, event] of this.#failed) if (!this.#due.has(npu) && this.#gone.has(npu) === (event === 'gone')) this.#due.set(npu, event);
    this.#failed = [];
  }

  #rankOf(npu: number): number {
    return npu - this.#seat.first;
  }

  toJSON(): object {
    return { due: [...this.#due], gone: [...this.#gone] };
  }
}
