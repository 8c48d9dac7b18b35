/** What a thread counts of its links: one record for each peer and lane, both directions. @module */

export type Lane = 'control' | 'data';

/** Keys in this order: the record crosses threads in a fixed structure (src/protocol/wire.ts). */
export type LinkCounters = {
  readonly peer: number;
  readonly lane: Lane;
  /** Frames written to the ring, and the bytes of their payloads. A payload in parts is several frames. */
  readonly frames: number;
  readonly bytes: number;
  /** Payloads that found no room and went to the outbox. */
  readonly full: number;
  /** Times that the peer slept and was woken for this link. */
  readonly wakes: number;
  /** Payloads in the outbox now, and their bytes. */
  readonly waiting: number;
  readonly waiting_bytes: number;
  /** For how long the peer has read nothing although published frames are unread or payloads wait; counted from the first look that saw it. */
  readonly stalled_ms: number;
  /** Credits: what ring and slab take at this moment. */
  readonly ring_free_bytes: number;
  readonly slab_free_bytes: number;
  /** Of the slab: taken now, and the most that ever was. */
  readonly slab_bytes: number;
  readonly slab_bytes_max: number;
  /** From the peer: frames handed out or gathered, their bytes, and those that came under an epoch that is over. After one of these no more is read. */
  readonly received_frames: number;
  readonly received_bytes: number;
  readonly stale: number;
  /** Sampled frames from the peer by the time from send to receive: entry n counts those under 2ⁿ µs, the last one all others. */
  readonly latencies_us: readonly number[];
};

const LATENCY_BUCKETS = 24;

/** A histogram in powers of two; adding to it allocates nothing. */
export class Latencies {
  readonly #counts = new Uint32Array(LATENCY_BUCKETS);

  add(latency_us: number): void {
    const bucket = latency_us <= 0 ? 0 : Math.min(32 - Math.clz32(latency_us), LATENCY_BUCKETS - 1);
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
  }

  toArray(): number[] {
    return Array.from(this.#counts);
  }
}
