/**
 * Workers that read nothing while frames wait for them: they hang, and whoever writes to them is stuck next.
 * @module
 */
import type { Links } from '../fabric/links.ts';
import { LIMITS } from '../fabric/outgoing.ts';
import type { Directory } from '../runtime/directory.ts';

/** Longer than any step: half of what a link bears (fabric/outgoing.ts). */
const STALL_MS_MAX = LIMITS.stall_ms_max / 2;

const LOOK_MS = 1_000;

/** Whoever writes to them has a successor take their place, before he is stuck himself. */
export class StalledThreads {
  readonly #links: Links;
  readonly #directory: Directory;
  readonly #giveUp: (worker: number, reason: string) => void;
  #looked_ms = 0;

  constructor(links: Links, directory: Directory, giveUp: (worker: number, reason: string) => void) {
    this.#links = links;
    this.#directory = directory;
    this.#giveUp = giveUp;
  }

  look(now_ms: number): void {
    if (now_ms - this.#looked_ms < LOOK_MS) return;
    this.#looked_ms = now_ms;
    for (const { thread, reason } of stalledThreads(this.#links)) {
      const worker = this.#directory.seating.threads.indexOf(thread);
      if (worker >= 0) this.#giveUp(worker, reason);
    }
  }
}

type StalledThread = { readonly thread: number; readonly reason: string };

/** Of those that this thread's links lead to. */
const stalledThreads = (links: Links): StalledThread[] =>
  links.counters().flatMap(({ peer, lane, waiting, stalled_ms }) => {
    if (stalled_ms < STALL_MS_MAX) return [];
    const seconds = Math.round(stalled_ms / 1000);
    return [{ thread: peer, reason: `it has read nothing from its ${lane} ring for ${seconds} s, and ${waiting} more payloads wait for room` }];
  });
