/**
 * One thread's ends of all rings: two for each ordered pair of threads that talk, control and data, merged at the reader.
 * A full ring never blocks its sender: frames wait in an outbox while the sender goes on draining its own inbox (two blocked threads are a deadlock).
 * @module
 */
import { assert, MinipodError } from '../protocol/errors.ts';
import type { ControlPage } from './control-page.ts';
import { type FrameHeader, payloadBytesMax, RingConsumer, RingProducer, ringBytes } from './ring.ts';

export type Lane = 'control' | 'data';
export type RingPlace = { readonly from: number; readonly to: number; readonly lane: Lane; readonly offset: number; readonly capacity: number };

const CONTROL_CAPACITY = 16_384;
/** Frames that may wait for room on one link before the sender is stuck for good. */
const OUTBOX_FRAMES_MAX = 65_536;
/** Frames taken from one ring before the next ring has its turn. */
const FRAMES_PER_TURN = 64;

/** Places the rings of all pairs one after the other from `offset`. */
export function planRings(pairs: readonly { from: number; to: number; capacity: number }[], offset: number): { rings: RingPlace[]; bytes: number } {
  const rings: RingPlace[] = [];
  let next = offset;
  for (const { from, to, capacity } of pairs) {
    for (const [lane, size] of [
      ['control', CONTROL_CAPACITY],
      ['data', capacity],
    ] as const) {
      rings.push({ from, to, lane, offset: next, capacity: size });
      next += Math.ceil(ringBytes(size) / 128) * 128;
    }
  }
  return { rings, bytes: next - offset };
}

/** Zeroes a ring's indices; nobody may hold an end of it. */
export function resetRing(memory: WebAssembly.Memory, ring: RingPlace): void {
  new Int32Array(memory.buffer, ring.offset, 64).fill(0);
}

type Waiting = { readonly header: FrameHeader; readonly payload: Uint8Array | null };
export type LinkCounters = { readonly peer: number; readonly lane: Lane; frames: number; bytes: number; full: number };

class Outgoing {
  readonly producer: RingProducer;
  readonly outbox: Waiting[] = [];
  readonly counters: LinkCounters;
  readonly payload_bytes_max: number;

  constructor(memory: WebAssembly.Memory, ring: RingPlace) {
    this.payload_bytes_max = payloadBytesMax(ring.capacity);
    this.producer = new RingProducer(memory, ring.offset, ring.capacity);
    this.counters = { peer: ring.to, lane: ring.lane, frames: 0, bytes: 0, full: 0 };
  }

  send(header: Readonly<FrameHeader>, payload: Uint8Array | null): void {
    assert(
      payload === null || payload.length <= this.payload_bytes_max,
      `a payload of ${payload?.length} bytes on a link that takes ${this.payload_bytes_max}`,
    );
    this.counters.frames++;
    this.counters.bytes += payload?.length ?? 0;
    if (this.outbox.length === 0 && this.producer.write(header, payload)) return;
    this.counters.full++;
    if (this.outbox.length >= OUTBOX_FRAMES_MAX)
      throw new MinipodError(
        'internal',
        `thread ${this.counters.peer} stopped draining its ${this.counters.lane} ring: ${OUTBOX_FRAMES_MAX} frames wait for it`,
      );
    // The encoder reuses its buffer: what waits is kept apart.
    this.outbox.push({ header: { ...header }, payload: payload === null ? null : payload.slice() });
  }

  drain(): void {
    let sent = 0;
    for (const { header, payload } of this.outbox) {
      if (!this.producer.write(header, payload)) break;
      sent++;
    }
    if (sent > 0) this.outbox.splice(0, sent);
  }
}

export type FrameHandler = (peer: number, ring: RingConsumer) => void;

export class Links {
  readonly thread: number;
  readonly control: ControlPage;
  readonly #memory: WebAssembly.Memory;
  readonly #rings: readonly RingPlace[];
  readonly #outgoing = new Map<number, { readonly control: Outgoing; readonly data: Outgoing }>();
  /** The same as a list: a loop over a map allocates, and `flush` runs at every turn. */
  #ends: readonly { readonly peer: number; readonly control: Outgoing; readonly data: Outgoing }[] = [];
  /** Control rings first: control overtakes data, nothing else does. */
  #incoming: readonly { readonly peer: number; readonly ring: RingConsumer; isDetached: boolean }[] = [];

  constructor(thread: number, memory: WebAssembly.Memory, rings: readonly RingPlace[], control: ControlPage) {
    this.thread = thread;
    this.control = control;
    this.#memory = memory;
    this.#rings = rings;
    for (const peer of new Set(rings.flatMap(({ from, to }) => (from === thread ? [to] : to === thread ? [from] : [])))) this.attach(peer);
  }

  attach(peer: number): void {
    const place = (from: number, to: number, lane: Lane): RingPlace => {
      const ring = this.#rings.find((candidate) => candidate.from === from && candidate.to === to && candidate.lane === lane);
      assert(ring, `no ${lane} ring from thread ${from} to ${to}`);
      return ring;
    };
    const outgoing = (lane: Lane): Outgoing => new Outgoing(this.#memory, place(this.thread, peer, lane));
    const consumer = (lane: Lane): RingConsumer => {
      const { offset, capacity } = place(peer, this.thread, lane);
      return new RingConsumer(this.#memory, offset, capacity);
    };
    this.#outgoing.set(peer, { control: outgoing('control'), data: outgoing('data') });
    this.#listEnds();
    // A new list: `receive` may be walking the old one.
    this.#incoming = [{ peer, ring: consumer('control'), isDetached: false }, ...this.#incoming, { peer, ring: consumer('data'), isDetached: false }];
  }

  /** Lets go of both ends, with what waits for the peer: it is gone. */
  detach(peer: number): void {
    this.#outgoing.delete(peer);
    this.#listEnds();
    for (const incoming of this.#incoming) incoming.isDetached ||= incoming.peer === peer;
    this.#incoming = this.#incoming.filter(({ isDetached }) => !isDetached);
  }

  #listEnds(): void {
    this.#ends = [...this.#outgoing].map(([peer, { control, data }]) => ({ peer, control, data }));
  }

  isAttached(peer: number): boolean {
    return this.#outgoing.has(peer);
  }

  send(peer: number, lane: Lane, header: Readonly<FrameHeader>, payload: Uint8Array | null): void {
    const link = this.#outgoing.get(peer);
    assert(link, `thread ${this.thread} has no link to thread ${peer}`);
    link[lane].send(header, payload);
  }

  payloadBytesMax(peer: number, lane: Lane): number {
    const link = this.#outgoing.get(peer);
    assert(link, `thread ${this.thread} has no link to thread ${peer}`);
    return link[lane].payload_bytes_max;
  }

  /** Publishes the turn's frames, one store a ring, and wakes whom they are for. True while frames still wait for room. */
  flush(): boolean {
    let waits = false;
    for (const { peer, control, data } of this.#ends) {
      if (control.outbox.length > 0) control.drain();
      if (data.outbox.length > 0) data.drain();
      waits ||= control.outbox.length > 0 || data.outbox.length > 0;
      const published = control.producer.publish();
      if (data.producer.publish() || published) this.control.ring(peer);
    }
    return waits;
  }

  /** Hands a bounded number of frames of each ring to the handler. True if there were any. */
  receive(handle: FrameHandler): boolean {
    let any = false;
    for (const incoming of this.#incoming) {
      const { peer, ring } = incoming;
      let frames = 0;
      // The handler may detach this very peer: nothing more of it is read or written then, since a successor may own the ring.
      while (!incoming.isDetached && frames < FRAMES_PER_TURN && ring.next()) {
        handle(peer, ring);
        frames++;
      }
      if (frames === 0) continue;
      any = true;
      if (!incoming.isDetached) ring.release();
    }
    return any;
  }

  hasInbound(): boolean {
    for (const { ring } of this.#incoming) if (!ring.isEmpty()) return true;
    return false;
  }

  counters(): LinkCounters[] {
    return [...this.#outgoing.values()].flatMap(({ control, data }) => [control.counters, data.counters]);
  }
}
