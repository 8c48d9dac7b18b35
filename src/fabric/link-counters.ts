/** What a thread counts of its links: one record for each peer and lane, both directions. @module */
import type { Lane, LinkReport } from '../protocol/threads.ts';

export type { Lane };

/** The record crosses threads as it is, so the protocol declares it, key by key. */
export type LinkCounters = LinkReport;

const LATENCY_BUCKETS = 24;

/** A histogram in powers of two; adding to it allocates nothing. */
export class Latencies {
  readonly #counts = new Uint32Array(LATENCY_BUCKETS);
  /** Of all that was added, microseconds. */
  sum_us = 0;

  add(latency_us: number): void {
    const bucket = latency_us <= 0 ? 0 : Math.min(32 - Math.clz32(latency_us), LATENCY_BUCKETS - 1);
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
    // Two threads' clocks may differ by a microsecond or two.
    if (latency_us > 0) this.sum_us += latency_us;
  }

  toArray(): number[] {
    return Array.from(this.#counts);
  }
}
