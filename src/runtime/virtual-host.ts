/**
 * Hosts all actors of a pod on one thread and a virtual clock: whatever is to happen waits in one queue, by the time at which it happens.
 *
 *   command ─▶ how long does it take? (costs, and chance within them) ─▶ queue ─▶ the clock moves to it ─▶ delivery ─▶ commands …
 *
 * It permutes what the live host permutes, no more: messages of one sender to one receiver arrive in their order, all others as their delays have it.
 * Nothing here reads time or draws chance but from the seed, so one seed is one run.
 * @module
 */
import type { Address } from '../protocol/address.ts';
import { assert } from '../protocol/errors.ts';
import type { Commands, Message, Work } from '../protocol/messages.ts';
import { type Birth, Cast, type CastPorts, type Mail, type Witness } from './cast.ts';
import type { Clock } from './clock.ts';
import type { Disturbance } from './disturbance.ts';
import { EventQueue } from './event-queue.ts';
import type { SeededRandom } from './seeded-random.ts';
import { type LinkTerms, VirtualLinks } from './virtual-links.ts';

/** What takes how long, in nanoseconds: a model of the machine, behind a port. */
export type Costs = {
  /** From the command to the receiver's mailbox. */
  message_ns(to: Address, from: Address, message: Message): number;
  /** A message's delay is up to this share longer, by chance. */
  readonly jitter: number;
};

export type VirtualPorts = Pick<CastPorts, 'birthOf' | 'hands' | 'transfer' | 'claim' | 'onUnexpected'> & {
  readonly costs: Costs;
  readonly random: SeededRandom;
  /** Performs kernel work; its result comes back by `complete`. */
  readonly launch: (npu: Address, work: Work, cause: number) => void;
  readonly witness?: Witness | undefined;
  /** How frames are guarded on their way between threads; missing: they are believed. */
  readonly links?: LinkTerms | undefined;
  /** Whether this is one of the timers that go on for ever: where nothing else is left to happen, the pod is at rest. */
  readonly isBackground?: (owner: Address, timer: string) => boolean;
  /** What its clock begins with: that of a pod's successor is no new one. Missing: 0. */
  readonly begins_ns?: number | undefined;
};

/** What arrives in one order: how many are under way, and when the last of them arrives. */
type Pair = { readonly key: string; underWay: number; last_ns: number };
type Arrival = { readonly time_ns: number; readonly order: number; readonly mail: Mail; readonly pair: Pair };
type Moment = { readonly time_ns: number; readonly order: number; readonly act: () => void };
/** What is kept back from whom, until it is let go. */
type Hold = { readonly isHeld: (mail: Mail) => boolean; readonly kept: (Arrival | Timer)[] };
type Timer = Omit<Arrival, 'pair'> & { readonly id: string; readonly isBackground: boolean; isCancelled: boolean };

export const NS_PER_MS = 1_000_000;

/** Messages of one sender to one receiver have an order, and so do the results that one receiver gets. */
const orderOf = ({ from, to }: Mail): string => `${from}>${to}`;

export class VirtualHost {
  readonly clock: Clock = { now_ms: () => this.#now_ns / NS_PER_MS };
  readonly #ports: VirtualPorts;
  readonly #cast: Cast;
  readonly #queue = new EventQueue<Arrival | Timer | Moment>();
  /** By order, while anything of it is under way. */
  readonly #pairs = new Map<string, Pair>();
  readonly #timers = new Map<Address, Timer[]>();
  #now_ns: number;
  #order = 0;
  /** Those who died, and before which event's entry what concerns them is lost; infinity: they have no successors yet. */
  readonly #losses: { before: number; readonly isLost: (actor: Address) => boolean }[] = [];
  /** In the queue: timers of the background, and those that are cancelled. */
  #idle = 0;
  readonly #holds = new Set<Hold>();
  readonly #links: VirtualLinks | null;
  /** Who breaks things, if anybody does. */
  disturbance: Disturbance | null = null;

  constructor(ports: VirtualPorts) {
    this.#ports = ports;
    this.#now_ns = ports.begins_ns ?? 0;
    this.#links =
      ports.links === undefined
        ? null
        : new VirtualLinks(ports.links, {
            later: (delay_ns, act) => this.later(delay_ns, act),
            delayOf: ({ mail, delay_ns }) => Math.max(delay_ns, (this.#pairs.get(orderOf(mail))?.last_ns ?? 0) - this.#now_ns),
            transmit: (mail) => {
              const delay_ns = this.#delay_ns(mail);
              return this.disturbance?.transmit(mail, delay_ns) ?? [{ mail, delay_ns, keepsOrder: true }];
            },
            isLost: (frame) => this.#isLost(frame),
            deliver: (mail) => this.#arrive(mail, this.#now_ns),
          });
    this.#cast = new Cast({
      birthOf: ports.birthOf,
      hands: ports.hands,
      onUnexpected: ports.onUnexpected,
      witness: ports.witness,
      isLaterLife: () => this.#losses.length > 0,
      launch: ports.launch,
      transfer: ports.transfer,
      claim: ports.claim,
      send: (mail) => this.#transmit(mail),
      startTimer: (owner, command, cause) => this.#startTimer(owner, command, cause),
      cancelTimer: (owner, id) => this.#cancelTimer(owner, id),
      cancelTimers: (owner) => this.#cancelTimers(owner),
    });
  }

  get cast(): Cast {
    return this.#cast;
  }

  get now_ns(): number {
    return this.#now_ns;
  }

  /** Events that are still to happen, without the background's. */
  get pending(): number {
    return this.#queue.size - this.#idle;
  }

  /** On links where something was disturbed. */
  get framesUnderWay(): number {
    return this.#links?.underWay ?? 0;
  }

  /** It is to fire, and may be of the background. */
  hasTimer(owner: Address, id: string): boolean {
    return this.#timers.get(owner)?.some((timer) => timer.id === id && !timer.isCancelled) === true;
  }

  spawn(address: Address, birth: Birth): void {
    this.#cast.spawn(address, birth);
  }

  /** Sends from outside the cast, or from one of its hands. */
  send(to: Address, from: Address, message: Message, cause = 0): void {
    this.#transmit({ to, from, message, cause });
  }

  /** A result of kernel work or of a transfer that took `duration_ns`. It comes behind what the receiver has told itself before, and nothing that it tells itself waits for it. */
  complete(npu: Address, message: Message, cause: number, duration_ns: number): void {
    const mail = { to: npu, from: npu, message, cause };
    this.#arrive(mail, Math.max(this.#now_ns + duration_ns, this.#pairs.get(orderOf(mail))?.last_ns ?? 0), `results>${npu}`);
  }

  /**
   * Actors die as if their thread had, and so does what is on its way from and to them, and what is sent to them until their successors begin: links carry
   * epochs, and those who have not heard of the loss send to the dead. The function that it returns says that the successors begin now.
   */
  lose(isLost: (actor: Address) => boolean): () => void {
    this.#cast.lose(isLost);
    const loss = { before: Number.POSITIVE_INFINITY, isLost };
    this.#losses.push(loss);
    return () => {
      loss.before = this.#order;
    };
  }

  /**
   * Keeps back whatever would be delivered of what `isHeld` says: messages, results and timers alike, as where the receiver hangs or its link is cut. The function
   * that it returns lets all of it happen, in its order, and says how much that was.
   */
  hold(isHeld: (mail: Mail) => boolean): () => number {
    const hold: Hold = { isHeld, kept: [] };
    this.#holds.add(hold);
    return () => {
      if (this.#holds.delete(hold)) for (const event of hold.kept) this.#admitAgain(event);
      return hold.kept.length;
    };
  }

  /** Something that happens outside the cast, such as a thread that starts. */
  later(delay_ns: number, act: () => void): void {
    this.#queue.push({ time_ns: this.#now_ns + delay_ns, order: this.#order++, act });
  }

  /** Moves the clock to what comes next and lets it happen. False: nothing will ever happen again unless somebody sends. */
  step(): boolean {
    while (this.pending > 0) {
      const event = this.#queue.pop() as Arrival | Timer | Moment;
      if ('act' in event) {
        this.#now_ns = event.time_ns;
        event.act();
        return true;
      }
      if ('isCancelled' in event) {
        if (event.isBackground || event.isCancelled) this.#idle--;
        if (event.isCancelled) continue;
        // It is out of the queue: only its owner's list has it still.
        event.isCancelled = true;
        this.#keepTimers(event.mail.to, () => true);
      } else if (--event.pair.underWay === 0) this.#pairs.delete(event.pair.key);
      if (this.#isLost(event)) continue;
      if (this.disturbance !== null || this.#holds.size > 0) {
        this.#now_ns = event.time_ns;
        this.disturbance?.meet(event.mail);
        // What it has just broken counts.
        if (this.#isLost(event) || this.#isKept(event)) return true;
      }
      assert(event.time_ns >= this.#now_ns, `an event of ${event.time_ns} ns at ${this.#now_ns} ns`);
      this.#now_ns = event.time_ns;
      this.#cast.deliver(event.mail);
      return true;
    }
    return false;
  }

  #isLost({ order, mail: { to, from } }: Pick<Arrival, 'order' | 'mail'>): boolean {
    return this.#losses.some((loss) => order < loss.before && (loss.isLost(to) || loss.isLost(from)));
  }

  #isKept(event: Arrival | Timer): boolean {
    for (const { isHeld, kept } of this.#holds) {
      if (!isHeld(event.mail)) continue;
      kept.push(event);
      return true;
    }
    return false;
  }

  /** Now, before all that came after it. */
  #admitAgain(event: Arrival | Timer): void {
    if ('isCancelled' in event) {
      const again = { ...event, time_ns: this.#now_ns, isCancelled: false };
      if (again.isBackground) this.#idle++;
      const timers = this.#timers.get(again.mail.to);
      if (timers === undefined) this.#timers.set(again.mail.to, [again]);
      else timers.push(again);
      this.#queue.push(again);
      return;
    }
    const again = { ...event, time_ns: this.#now_ns };
    const pair = this.#pairOf(orderOf(again.mail));
    pair.underWay++;
    pair.last_ns = Math.max(pair.last_ns, this.#now_ns);
    this.#queue.push({ ...again, pair });
  }

  #transmit(mail: Mail): void {
    const delay_ns = this.#delay_ns(mail);
    const copies = this.disturbance?.transmit(mail, delay_ns) ?? null;
    const links = this.#links;
    if (
      links !== null &&
      (copies !== null || !links.isQuiet) &&
      links.send(mail, this.#order++, copies ?? [{ mail, delay_ns, keepsOrder: true }], copies !== null)
    )
      return;
    if (copies === null) this.#arrive(mail, this.#now_ns + delay_ns);
    else for (const copy of copies) this.#arrive(copy.mail, this.#now_ns + copy.delay_ns, copy.keepsOrder ? orderOf(copy.mail) : null);
  }

  #delay_ns({ to, from, message }: Mail): number {
    const { costs, random } = this.#ports;
    const cost_ns = costs.message_ns(to, from, message);
    return cost_ns + random.below(Math.max(1, Math.floor(cost_ns * costs.jitter)));
  }

  /** `order`: behind all that arrives in the same one; null: in none. */
  #arrive(mail: Mail, time_ns: number, order: string | null = orderOf(mail)): void {
    if (order === null) {
      const alone = { key: '', underWay: 1, last_ns: time_ns };
      this.#queue.push({ time_ns, order: this.#order++, mail, pair: alone });
      return;
    }
    const pair = this.#pairOf(order);
    pair.last_ns = Math.max(time_ns, pair.last_ns);
    pair.underWay++;
    this.#queue.push({ time_ns: pair.last_ns, order: this.#order++, mail, pair });
  }

  #pairOf(key: string): Pair {
    let pair = this.#pairs.get(key);
    if (pair === undefined) {
      pair = { key, underWay: 0, last_ns: 0 };
      this.#pairs.set(key, pair);
    }
    return pair;
  }

  #startTimer(owner: Address, { id, delay_ms, message }: Commands['after'], cause: number): void {
    const mail = { to: owner, from: owner, message, cause };
    const isBackground = this.#ports.isBackground?.(owner, id) ?? false;
    const runs_ms = this.disturbance?.timer_ms(owner, delay_ms) ?? delay_ms;
    const timer: Timer = { time_ns: this.#now_ns + Math.round(runs_ms * NS_PER_MS), order: this.#order++, mail, id, isBackground, isCancelled: false };
    if (isBackground) this.#idle++;
    const timers = this.#timers.get(owner);
    if (timers === undefined) this.#timers.set(owner, [timer]);
    else timers.push(timer);
    this.#queue.push(timer);
  }

  #cancelTimer(owner: Address, id: string): void {
    this.#keepTimers(owner, (timer) => timer.id !== id);
  }

  #cancelTimers(owner: Address): void {
    this.#keepTimers(owner, () => false);
  }

  /** Those that are not kept have fired or never will. */
  #keepTimers(owner: Address, isKept: (timer: Timer) => boolean): void {
    const timers = this.#timers.get(owner);
    if (timers === undefined) return;
    for (const timer of timers) {
      if (timer.isCancelled || isKept(timer)) continue;
      timer.isCancelled = true;
      if (!timer.isBackground) this.#idle++;
    }
    const kept = timers.filter(({ isCancelled }) => !isCancelled);
    if (kept.length === 0) this.#timers.delete(owner);
    else this.#timers.set(owner, kept);
  }
}
