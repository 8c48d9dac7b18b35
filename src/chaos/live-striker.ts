/**
 * A worker's own hand that breaks it: between two turns of its loop, with steps amid, and where it shows frames, leaves rows or rings a bell.
 * An order stands until it can be carried out: until there is KV that somebody holds, or a frame to be torn.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import type { ControlPage } from '../fabric/control-page.ts';
import type { RingPlace } from '../fabric/links.ts';
import type { RingProducer } from '../fabric/ring.ts';
import type { WorkerData } from '../flowserve/worker-data.ts';
import { type Clock, monotonicClock } from '../runtime/clock.ts';
import { CALLER_THREAD, CONTROL_THREAD } from '../runtime/directory.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { FIELD_BYTES, FIELD_WORD } from '../xccl/areas.ts';
import type { Endpoint } from '../xccl/endpoint.ts';
import type { Block } from '../xccl/row-sums.ts';
import { type Damage, flipBit, type Spot, writeOver } from './damage.ts';
import { heldKv } from './kv-bits.ts';
import { FULL_MS, STALE_MS } from './live-bounds.ts';
import type { WorkerKind } from './live-kinds.ts';
import { type Effect, LiveOrder } from './live-order.ts';
import { zombieOf } from './live-zombie.ts';
import { sayAsOfALapAgo, tearFrame, unreadAt, unshownAt } from './ring-bytes.ts';
import { flipRowBit } from './row-bits.ts';
import { restingParts } from './weight-bits.ts';

const STREAM = 12;
const BIT_MAX = 2 ** 31;
const STRAY_WORDS = 4;
/** Of a zombie that nobody gives up (Deno, where no spare seat is left), and of one that nothing ends. */
const ZOMBIE_MS = { waits: 10_000, writes: 1_000 } as const;
/** Which frames are torn. */
const TORN = ['read', 'shown to the caller', 'shown to others'] as const;

export class LiveStriker {
  readonly #data: WorkerData;
  readonly #space: AddressSpace;
  readonly #order: LiveOrder;
  readonly #clock: Clock;
  /** It reads these, and writes those. */
  readonly #inbound: readonly RingPlace[];
  readonly #outbound: readonly RingPlace[];
  readonly #dies: readonly number[];
  /** By die, peer and channel: the last two events, while an order stands that needs them. */
  readonly #told = new Map<string, readonly { readonly event: number; readonly words: readonly number[] }[]>();
  #full: RingProducer | null = null;
  #fullUntil_ms = 0;

  constructor(data: WorkerData) {
    const { plan, worker, seating, memories, layouts, origin_ms } = data;
    const thread = seating.threads[worker] as number;
    this.#data = data;
    this.#space = new AddressSpace(memories, plan.memory.regions);
    this.#order = new LiveOrder(this.#space);
    this.#clock = monotonicClock(origin_ms);
    this.#inbound = plan.rings.filter(({ to }) => to === thread);
    this.#dies = layouts.map(({ base }) => plan.dies.findIndex((die) => die.base === base));
    this.#outbound = plan.rings.filter(({ from }) => from === thread);
  }

  /** At each turn of the loop. */
  turn(): void {
    const kind = this.#order.kindFor(this.#data.worker);
    if (kind === null) return;
    if (this.#carryOut((random) => this.#strike(kind, random))) this.#suffer(kind);
  }

  /** Before frames are shown to their reader. */
  show(ring: RingProducer): void {
    if (this.#order.kindFor(this.#data.worker) !== 'frame-torn') return;
    const unshown = unshownAt(ring, this.#outbound);
    if (unshown === null) return;
    const { place, at } = unshown;
    this.#carryOut((random) => {
      if (TORN[random.below(TORN.length)] !== (place.to === CALLER_THREAD ? 'shown to the caller' : 'shown to others')) return null;
      tearFrame(this.#space, place, at, (limit) => random.below(limit));
      return { guard: 'frame' };
    });
  }

  /** A frame is to be written: is there no room, whatever the ring says? */
  isFull(ring: RingProducer): boolean {
    if (this.#full === null) {
      if (this.#order.kindFor(this.#data.worker) !== 'ring-full') return false;
      const isFull = this.#carryOut((random) => {
        this.#fullUntil_ms = this.#clock.now_ms() + FULL_MS.min + random.below(FULL_MS.max - FULL_MS.min);
        return { guard: 'nobody' };
      });
      if (isFull) this.#full = ring;
    } else if (this.#clock.now_ms() >= this.#fullUntil_ms) this.#full = null;
    return this.#full === ring;
  }

  /** Rows have been summed, and nobody knows of them yet. */
  leaveRows(blocks: readonly Block[]): void {
    if (this.#order.kindFor(this.#data.worker) !== 'row-bit-flip') return;
    this.#carryOut((random) => (flipRowBit(this.#space, blocks, random.below(BIT_MAX)) ? { guard: 'rows' } : null));
  }

  /** A peer is about to be told something: what it was told the time before the last comes once more, and first. */
  tell(
    { die, epoch, areas, surroundings: { areasOf, space, arrive } }: Endpoint,
    event: number,
    peer: number,
    channel: number,
    words: readonly number[],
  ): void {
    if (this.#order.kindFor(this.#data.worker) !== 'field-stale' || this.#dies.includes(peer)) {
      this.#told.clear();
      return;
    }
    const key = `${die} ${peer} ${channel}`;
    const told = this.#told.get(key) ?? [];
    const [stale] = told;
    this.#told.set(key, [...told, { event, words }].slice(-2));
    if (told.length < 2 || stale === undefined) return;
    this.#carryOut(() => {
      const { metadata } = areasOf(peer);
      const fields = space.wordsOf(metadata);
      const at = (offsetOf(metadata) + die * areas.peer_bytes + channel * FIELD_BYTES) / 4;
      if (fields[at + FIELD_WORD.source_epoch] !== epoch) return null;
      Atomics.exchange(fields, at + FIELD_WORD.event, 0);
      fields.set(stale.words, at + FIELD_WORD.a);
      Atomics.store(fields, at + FIELD_WORD.event, stale.event);
      arrive(peer);
      for (const until_ms = this.#clock.now_ms() + STALE_MS; this.#clock.now_ms() < until_ms; );
      return { guard: 'nobody' };
    });
  }

  /** True: the thread, which sleeps, is not woken this time. Whoever would have is put off before it rings, or when it has rung and not woken anybody yet. */
  losesBell(control: ControlPage, thread: number): boolean {
    if (this.#order.kindFor(this.#data.worker) !== 'bell-lost' || !control.isMarkedAsleep(thread)) return false;
    return this.#carryOut((random) => {
      if (random.below(2) === 0) control.markAwake(thread);
      return { guard: 'nobody' };
    });
  }

  #carryOut(strike: (random: SeededRandom) => Effect | null): boolean {
    return this.#order.carryOut(this.#data.worker, (seed) => strike(new SeededRandom(seed, STREAM)));
  }

  #strike(kind: WorkerKind, random: SeededRandom): Effect | null {
    const bit = (spots: readonly Spot[]): Damage | null => {
      const spot = spots[random.below(Math.max(1, spots.length))];
      return spot === undefined ? null : flipBit(this.#space, spot, random.below(BIT_MAX));
    };
    const words = (spots: readonly Spot[]): Damage | null => {
      const spot = spots[random.below(Math.max(1, spots.length))];
      return spot === undefined ? null : writeOver(this.#space, spot, STRAY_WORDS, (limit) => random.below(limit));
    };
    switch (kind) {
      case 'worker-dies':
      case 'worker-blocks':
      case 'worker-spins':
      case 'zombie-writes':
        return { guard: 'end' };
      case 'kv-bit-flip':
        return found('kv', bit(this.#kv()));
      case 'weights-bit-flip':
        return found('weights', bit(this.#weights()));
      case 'stray-write':
        return random.below(2) === 0 && this.#hasKv ? found('kv', words(this.#kv())) : found('weights', words(this.#weights()));
      case 'frame-torn': {
        if (TORN[random.below(TORN.length)] !== 'read') return null;
        const place = this.#read.find((ring) => unreadAt(this.#space, ring) !== null);
        if (place === undefined) return null;
        tearFrame(this.#space, place, unreadAt(this.#space, place) as number, (limit) => random.below(limit));
        return { guard: 'frame' };
      }
      case 'acknowledgement-stale': {
        const rings = this.#read;
        return found('restated', sayAsOfALapAgo(this.#space, rings[random.below(rings.length)] as RingPlace));
      }
      // Where rows are left, frames written, bells rung and peers told.
      case 'row-bit-flip':
      case 'ring-full':
      case 'bell-lost':
      case 'field-stale':
        return null;
    }
  }

  /** Rings of those that live since it began itself: of the others' it may have let go. */
  get #read(): readonly RingPlace[] {
    const { epochs, seating } = this.#data;
    const isThere = (thread: number): boolean => thread === CALLER_THREAD || thread === CONTROL_THREAD || seating.threads.includes(thread);
    return this.#inbound.filter(({ from }) => isThere(from) && this.#space.control.epochOf(from) === epochs[from]);
  }

  get #hasKv(): boolean {
    return this.#data.layouts.some(({ kind }) => kind === 'attention');
  }

  #kv(): Spot[] {
    const { plan, layouts } = this.#data;
    return layouts.flatMap((layout) => (layout.kind === 'attention' ? heldKv(layout.kv, this.#space, plan.options.kv_checks !== 'off') : []));
  }

  #weights(): Spot[] {
    return this.#data.layouts.flatMap((layout) => restingParts(layout, this.#space));
  }

  #suffer(kind: WorkerKind): void {
    switch (kind) {
      case 'worker-dies':
        throw new Error('a live run killed it');
      case 'worker-blocks':
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
        break;
      case 'worker-spins':
        for (;;);
      case 'zombie-writes':
        this.#writeOn();
        break;
      default:
    }
  }

  #writeOn(): void {
    const { scribble, isGivenUp } = zombieOf(this.#data);
    const now_ms = this.#clock.now_ms;
    for (const until_ms = now_ms() + ZOMBIE_MS.waits; !isGivenUp() && now_ms() < until_ms; );
    for (let [until_ms, seed] = [now_ms() + ZOMBIE_MS.writes, 1]; isGivenUp() && now_ms() < until_ms; seed++) scribble(seed);
  }
}

const found = (guard: Effect['guard'], damage: Damage | null): Effect | null => (damage === null ? null : { guard, damage });
