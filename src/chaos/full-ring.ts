/**
 * A ring from one thread to another that has room for few frames, and whose reader takes one at a time: what finds no room waits at its sender (fabric/outgoing.ts).
 *
 *   sender ─▶ outbox ─▶ (room for `frames`) ─▶ reader, one each `every_ms`; when it heals it takes all that is left
 *
 * @module
 */
import { NS_PER_MS } from '../runtime/virtual-host.ts';
import type { FaultOf } from './fault-plan.ts';

export class FullRing {
  readonly #frames: number;
  readonly #every_ns: number;
  readonly #heals_ns: number;
  /** When those are taken that have come and are not taken yet, in order. */
  readonly #left: number[] = [];
  #last_ns = 0;
  /** Frames that found no room. */
  waited = 0;

  constructor({ frames, every_ms, for_ms }: FaultOf<'ring-full'>, now_ns: number) {
    this.#frames = frames;
    this.#every_ns = Math.ceil(every_ms * NS_PER_MS);
    this.#heals_ns = now_ns + for_ms * NS_PER_MS;
    this.#last_ns = now_ns;
  }

  /** When a frame is taken that comes then: after all that have come before it. */
  takenAt(comes_ns: number): number {
    while ((this.#left[0] ?? Number.POSITIVE_INFINITY) <= comes_ns) this.#left.shift();
    if (this.#left.length >= this.#frames) this.waited++;
    const inTurn_ns = Math.min(this.#last_ns + this.#every_ns, Math.max(this.#last_ns, this.#heals_ns));
    this.#last_ns = Math.max(comes_ns, inTurn_ns);
    this.#left.push(this.#last_ns);
    return this.#last_ns;
  }
}
