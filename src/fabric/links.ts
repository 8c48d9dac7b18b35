/**
 * One thread's ends of all rings: two for each ordered pair of threads that talk, control and data, merged at the reader.
 * A full ring never blocks its sender: payloads wait in an outbox while the sender goes on draining its own inbox (two blocked threads are a deadlock).
 *
 * Control overtakes data, and is not overtaken: what a peer has published on its control ring is handed out before all data that it published later. So who is told
 * by data of somebody who has just begun, by the peer that said so as control before, knows him; what is sent to nobody is lost. Of what a third thread tells by
 * data nothing is promised: it may come before the peer's control.
 *
 * Race: the peer publishes control, *then* data; the reader sees data, *then* looks once more for control, takes all that is there, and then no data but what it had
 * seen. A reader that looked at one ring after the other could look at the first before both, and at the second behind them (test/fabric/small-model-lanes.ts).
 *
 * Every frame carries the epoch under which its thread came to life. The reader compares it with the thread's epoch on the control page, frame by frame:
 * from the moment that a thread is given up, nothing that it wrote or still writes is handed out, and whoever sees it leaves its rings alone until they
 * are attached anew, since a thread that was given up may store anything there.
 * @module
 */
import { assert, invariantBroken } from '../protocol/errors.ts';
import type { ControlPage } from './control-page.ts';
import { type Lane, Latencies, type LinkCounters } from './link-counters.ts';
import { Outgoing } from './outgoing.ts';
import { type FrameAddress, RingConsumer, RingProducer } from './ring.ts';
import { type RingShape, ringBytes } from './ring-layout.ts';
import { Scratch } from './scratch.ts';

export type { Lane, LinkCounters };
export type RingPlace = RingShape & { readonly from: number; readonly to: number; readonly lane: Lane };
/** Sizes of a pair's data ring and of the slab for its large payloads (powers of two); without `slab_bytes` it is as large as the ring. */
export type RingPair = { readonly from: number; readonly to: number; readonly capacity: number; readonly slab_bytes?: number };

const CONTROL_CAPACITY = 16_384;
/** The cost of a clock is shared by so many frames. */
const LATENCY_SAMPLE_FRAMES = 64;
/** Larger payloads that come as bytes get memory of their own, so that the scratch stays small. */
const SCRATCH_BYTES_MAX = 2 ** 20;
const NO_WORDS = new Int32Array(0);
/** Frames taken from one ring before the next ring has its turn. */
export const FRAMES_PER_TURN = 64;
/** How often stalls are looked for; and how many turns that send or idle share the cost of a clock where nothing waits for room. */
export const STALL_LOOK_MS = 1_000;
export const TURNS_PER_CLOCK = 256;

/** Places the rings of all pairs one after the other from `offset`. Control rings have no slab. */
export function planRings(pairs: readonly RingPair[], offset: number): { rings: RingPlace[]; bytes: number } {
  const rings: RingPlace[] = [];
  let next = offset;
  for (const { from, to, capacity, slab_bytes = capacity } of pairs) {
    for (const shape of [
      { lane: 'control', capacity: CONTROL_CAPACITY, slab_bytes: 0 },
      { lane: 'data', capacity, slab_bytes },
    ] as const) {
      rings.push({ from, to, ...shape, offset: next });
      next += Math.ceil(ringBytes(shape) / 128) * 128;
    }
  }
  return { rings, bytes: next - offset };
}

export type LinksOptions = {
  /** Microseconds of a clock that all threads of the pod share. Without it neither latencies nor stalls are measured. */
  readonly now_us?: () => number;
  /** The epoch for which this thread was started; else the one that it has now. */
  readonly epoch?: number;
  /** By thread: the peers' epochs for which their rings were readied; else those that they have now. */
  readonly peer_epochs?: readonly number[];
  /** Told of a peer that counts and whose ring holds rubbish, of which nothing is read any more. Missing: `receive` throws, and this thread ends. */
  readonly onCorrupt?: (peer: number, error: unknown) => void;
};

/** `mustWake`: something is to be published that the peer waits for. */
type Pair = { readonly peer: number; readonly control: Outgoing; readonly data: Outgoing; mustWake: boolean };
type Incoming = {
  readonly peer: number;
  readonly lane: Lane;
  /** Of the peer, when the ring was attached: the only one whose frames are heard. */
  readonly epoch: number;
  readonly ring: RingConsumer;
  /** Of a data ring, its peer's control ring, which overtakes it. */
  readonly control: Incoming | null;
  readonly latencies: Latencies;
  frames: number;
  bytes: number;
  stale: number;
  /** Nothing of the ring is read or written any more: it was detached, or its writer was given up. */
  isOver: boolean;
  /** A frame was taken and not handed out, since its writer had been given up by then. */
  isHeld: boolean;
};

export type FrameHandler = (peer: number, ring: RingConsumer) => void;

export class Links {
  readonly thread: number;
  readonly control: ControlPage;
  readonly epoch: number;
  readonly #memory: WebAssembly.Memory;
  readonly #rings: readonly RingPlace[];
  readonly #now_us: (() => number) | null;
  readonly #onCorrupt: LinksOptions['onCorrupt'];
  readonly #scratch = new Scratch(1_024);
  /** By thread. */
  #pairs: (Pair | undefined)[] = [];
  /** The same without gaps: a loop over a sparse array or a map allocates, and `flush` runs at every turn. */
  #ends: readonly Pair[] = [];
  /** Control rings first. */
  #incoming: readonly Incoming[] = [];
  #sent = 0;
  /** Since the last flush, or what found no room by then. Else there is nothing to look at, and two of three flushes find nothing. */
  #hasSent = false;
  /** Since the last look at stalls: publications, and looks for work before sleep. */
  #turns = 0;
  #stallsLooked_ms = Number.NEGATIVE_INFINITY;

  constructor(thread: number, memory: WebAssembly.Memory, rings: readonly RingPlace[], control: ControlPage, options: LinksOptions = {}) {
    this.thread = thread;
    this.control = control;
    this.epoch = options.epoch ?? control.epochOf(thread);
    this.#memory = memory;
    this.#rings = rings;
    this.#now_us = options.now_us ?? null;
    this.#onCorrupt = options.onCorrupt;
    for (const peer of new Set(rings.flatMap(({ from, to }) => (from === thread ? [to] : to === thread ? [from] : []))))
      this.attach(peer, options.peer_epochs?.[peer]);
  }

  /** Takes both ends of the pair's rings. `epoch`: the peer's, for which the rings were readied; else the one that it has now. */
  attach(peer: number, epoch = this.control.epochOf(peer)): void {
    const place = (from: number, to: number, lane: Lane): RingPlace => {
      const ring = this.#rings.find((candidate) => candidate.from === from && candidate.to === to && candidate.lane === lane);
      assert(ring, `no ${lane} ring from thread ${from} to ${to}`);
      return ring;
    };
    const outgoing = (lane: Lane): Outgoing => new Outgoing(peer, lane, new RingProducer(this.#memory, place(this.thread, peer, lane), this.epoch));
    const incoming = (lane: Lane, control: Incoming | null): Incoming => {
      const ring = new RingConsumer(this.#memory, place(peer, this.thread, lane));
      return { peer, lane, epoch, ring, control, latencies: new Latencies(), frames: 0, bytes: 0, stale: 0, isOver: false, isHeld: false };
    };
    this.#pairs[peer] = { peer, control: outgoing('control'), data: outgoing('data'), mustWake: false };
    this.#listEnds();
    // A new list: `receive` may be walking the old one.
    const control = incoming('control', null);
    this.#incoming = [control, ...this.#incoming, incoming('data', control)];
  }

  /** Lets go of both ends, with what waits for the peer: it is gone. */
  detach(peer: number): void {
    this.#pairs[peer] = undefined;
    this.#listEnds();
    for (const incoming of this.#incoming) incoming.isOver ||= incoming.peer === peer;
    this.#incoming = this.#incoming.filter((incoming) => incoming.peer !== peer);
  }

  /**
   * Hands out what lies whole in the rings of a peer that was given up, and returns how many payloads: what its thread had published before it ended. Only where
   * it is proven to have ended, since one that runs may store anything there; and before its rings are detached.
   */
  drain(peer: number, handle: FrameHandler): number {
    let payloads = 0;
    for (const incoming of this.#incoming) {
      if (incoming.peer !== peer) continue;
      incoming.isOver = true;
      while (this.#takeLeft(incoming)) {
        payloads++;
        handle(peer, incoming.ring);
      }
    }
    return payloads;
  }

  /** The next payload that is whole. Where rubbish lies, or half of one, there is no more. */
  #takeLeft(incoming: Incoming): boolean {
    const { ring, epoch } = incoming;
    try {
      while (incoming.isHeld || ring.next()) {
        incoming.isHeld = false;
        if (ring.header.epoch !== epoch) return false;
        incoming.frames++;
        incoming.bytes += ring.header.bytes;
        if (ring.gather()) return true;
      }
    } catch {
      incoming.stale++;
    }
    return false;
  }

  /** Does a peer that lives keep payloads for this thread that found no room in its ring? They come as soon as it has made room. */
  isOwed(): boolean {
    return this.#incoming.some(({ peer, ring, epoch, isOver }) => !isOver && this.control.epochOf(peer) === epoch && ring.producerWaits());
  }

  #listEnds(): void {
    this.#ends = this.#pairs.filter((pair) => pair !== undefined);
  }

  isAttached(peer: number): boolean {
    return this.#pairs[peer] !== undefined;
  }

  /** This thread was given up: nobody reads what it writes, so it takes nothing and shows nothing any more. */
  isFenced(): boolean {
    return this.control.epochOf(this.thread) !== this.epoch;
  }

  /**
   * Sends a payload, seen after `flush`. False: it waits for room.
   * @throws `invalid_request` for a payload of more than 256 MiB, `internal` when more waits than LIMITS allow; the link stays as it was.
   */
  send(peer: number, lane: Lane, header: Readonly<FrameAddress>, payload: Uint8Array | null): boolean {
    if (payload === null || payload.length === 0) return this.sendWords(peer, lane, header, NO_WORDS, 0, 0);
    const scratch = payload.length > SCRATCH_BYTES_MAX ? new Scratch(payload.length) : this.#scratch;
    scratch.reserve(payload.length);
    scratch.bytes.set(payload);
    return this.sendWords(peer, lane, header, scratch.words, 0, payload.length);
  }

  /**
   * The same for `bytes` bytes of private memory from word `from` on: no view is made and, if there is room, nothing is allocated. `wakes`: false for what a peer
   * that sleeps may find when it looks up by itself.
   */
  sendWords(peer: number, lane: Lane, header: Readonly<FrameAddress>, words: Int32Array, from: number, bytes: number, wakes = true): boolean {
    const pair = this.#pairOf(peer);
    pair.mustWake ||= wakes;
    this.#hasSent = true;
    const link = lane === 'control' ? pair.control : pair.data;
    const time = this.#now_us !== null && this.#sent++ % LATENCY_SAMPLE_FRAMES === 0 ? this.#now_us() | 0 || 1 : 0;
    return link.send(header, words, from, bytes, time);
  }

  /** Payloads that wait for room on a link: 0 as long as the peer keeps up. */
  waiting(peer: number, lane: Lane): number {
    return this.#pairOf(peer)[lane].waiting;
  }

  #pairOf(peer: number): Pair {
    const pair = this.#pairs[peer];
    // The message is made only if it is needed: this runs for each frame.
    if (pair === undefined) invariantBroken(`thread ${this.thread} has no link to thread ${peer}`);
    return pair;
  }

  /**
   * Publishes the turn's frames, one store a ring, and wakes whom they are for, unless none of them is worth that. True while payloads still wait for room.
   * @throws `deadline_exceeded` when a peer, named with lane and frames, reads nothing for longer than LIMITS allow.
   */
  flush(): boolean {
    if (this.isFenced()) return false;
    let waits = false;
    for (let index = 0; this.#hasSent && index < this.#ends.length; index++) {
      const pair = this.#ends[index] as Pair;
      const { peer, control, data } = pair;
      if (control.waiting > 0) control.drain();
      if (data.waiting > 0) data.drain();
      waits ||= control.waiting > 0 || data.waiting > 0;
      const first = control.producer.publish() ? control : null;
      // What waits for room on the control ring comes before.
      const published = control.waiting === 0 && data.producer.publish() ? (first ?? data) : first;
      if (published === null) continue;
      this.#turns++;
      if (!pair.mustWake) continue;
      pair.mustWake = control.waiting + data.waiting > 0;
      if (this.control.ring(peer)) published.wakes++;
    }
    this.#hasSent = waits;
    if (this.#now_us !== null && (waits || this.#turns >= TURNS_PER_CLOCK)) this.#checkStalls(this.#now_us() / 1000);
    return waits;
  }

  #checkStalls(now_ms: number): void {
    this.#turns = 0;
    if (now_ms - this.#stallsLooked_ms < STALL_LOOK_MS) return;
    this.#stallsLooked_ms = now_ms;
    for (let index = 0; index < this.#ends.length; index++) {
      const { control, data } = this.#ends[index] as Pair;
      control.checkStall(now_ms);
      data.checkStall(now_ms);
      control.producer.restate();
      data.producer.restate();
    }
    for (let index = 0; index < this.#incoming.length; index++) {
      const { ring, isOver } = this.#incoming[index] as Incoming;
      if (!isOver) ring.restate();
    }
  }

  /** Hands a bounded number of frames of each ring to the handler. True if there were any. */
  receive(handle: FrameHandler): boolean {
    if (this.isFenced()) return false;
    let any = false;
    const incoming = this.#incoming;
    for (let index = 0; index < incoming.length; index++) {
      if (this.#receiveFrom(incoming[index] as Incoming, handle)) any = true;
    }
    return any;
  }

  #receiveFrom(incoming: Incoming, handle: FrameHandler): boolean {
    const { ring, control } = incoming;
    let frames = 0;
    let hasOvertaken = false;
    while (!incoming.isOver && frames < FRAMES_PER_TURN && ring.hasNext()) {
      if (control !== null && this.#overtake(control, handle)) hasOvertaken = true;
      frames += this.#takeSeen(incoming, FRAMES_PER_TURN - frames, handle);
    }
    return frames > 0 || hasOvertaken;
  }

  /** Data of the same peer was seen: all control that is there comes first, also what is more than a turn's share. True if there was any. */
  #overtake(control: Incoming, handle: FrameHandler): boolean {
    return !control.isOver && control.ring.look() && this.#takeSeen(control, Number.POSITIVE_INFINITY, handle) > 0;
  }

  /** Hands out frames that were seen, and returns how many. */
  #takeSeen(incoming: Incoming, frames_max: number, handle: FrameHandler): number {
    const { peer, ring, epoch } = incoming;
    let frames = 0;
    let isHandling = false;
    try {
      // The handler may detach this very peer: nothing more of it is read or written then, since a successor may own the ring.
      while (!incoming.isOver && frames < frames_max && ring.nextSeen()) {
        frames++;
        if (ring.header.epoch !== epoch || this.control.epochOf(peer) !== epoch) {
          incoming.isHeld = true;
          this.#giveUp(incoming);
          break;
        }
        incoming.frames++;
        incoming.bytes += ring.header.bytes;
        if (!ring.gather()) continue;
        if (ring.header.time !== 0 && this.#now_us !== null) incoming.latencies.add((this.#now_us() - ring.header.time) | 0);
        isHandling = true;
        handle(peer, ring);
        isHandling = false;
      }
    } catch (error) {
      // Rubbish is a defect, unless its writer was given up before it was read: then it says no more than a stale frame does.
      const isDefect = this.control.epochOf(peer) === epoch;
      if (isHandling || (isDefect && this.#onCorrupt === undefined)) throw error;
      this.#giveUp(incoming);
      if (isDefect) this.#onCorrupt?.(peer, error);
    }
    if (frames === 0 || incoming.isOver) return frames;
    ring.release();
    // It may sleep until there is room.
    if (ring.producerWaits()) this.control.ring(peer);
    return frames;
  }

  #giveUp(incoming: Incoming): void {
    incoming.stale++;
    incoming.isOver = true;
  }

  /** Is there anything to do: a frame to read, or room for what waits? */
  hasInbound(): boolean {
    for (let index = 0; index < this.#incoming.length; index++) {
      const { ring, isOver } = this.#incoming[index] as Incoming;
      if (!isOver && !ring.isEmpty()) return true;
    }
    // Asked again and again before each sleep, where little is sent.
    this.#turns++;
    for (let index = 0; index < this.#ends.length; index++) {
      const { control, data } = this.#ends[index] as Pair;
      if (control.hasRoom() || data.hasRoom()) return true;
    }
    return false;
  }

  counters(): LinkCounters[] {
    const now_ms = this.#now_us === null ? 0 : this.#now_us() / 1000;
    return this.#ends.flatMap(({ control, data }) => [this.#count(control, now_ms), this.#count(data, now_ms)]);
  }

  #count(link: Outgoing, now_ms: number): LinkCounters {
    const { peer, lane, frames, bytes, full, wakes, waiting, waiting_bytes, producer } = link;
    const from = this.#incoming.find((candidate) => candidate.peer === peer && candidate.lane === lane);
    const slab_bytes = producer.slab?.bytes ?? 0;
    return {
      peer,
      lane,
      frames,
      bytes,
      full,
      wakes,
      waiting,
      waiting_bytes,
      stalled_ms: link.stalled_ms(now_ms),
      ring_free_bytes: producer.free_bytes,
      slab_free_bytes: (producer.slab?.capacity ?? 0) - slab_bytes,
      slab_bytes,
      slab_bytes_max: producer.slab?.bytes_max ?? 0,
      received_frames: from?.frames ?? 0,
      received_bytes: from?.bytes ?? 0,
      stale: from?.stale ?? 0,
      latencies_us: from?.latencies.toArray() ?? [],
      latency_us_sum: from?.latencies.sum_us ?? 0,
    };
  }
}
