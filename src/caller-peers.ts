/**
 * The rings on which workers stream to the caller's thread, as workers are lost and have successors: as each survivor does, the caller lets go of a lost one's
 * rings and says so, before they are readied for its successor (platform/workers.ts).
 * @module
 */
import type { Links } from './fabric/links.ts';
import type { ControlHandle } from './platform/control-handle.ts';
import { Directory, type Seat, seatsOf } from './runtime/directory.ts';

export class CallerPeers {
  readonly #links: Links;
  readonly #directory: Directory;

  constructor(links: Links, { plan: { hosting }, seating, lost }: ControlHandle) {
    this.#links = links;
    this.#directory = new Directory(hosting, seating);
    for (const { thread } of seatsOf(hosting)) if (lost.includes(thread) || !seating.threads.includes(thread)) links.detach(thread);
  }

  /** The worker is lost: nothing of its rings is read any more. */
  detach(worker: number): void {
    this.#links.detach(this.#directory.threadOfWorker(worker));
  }

  /** Its successor streams, on this thread's rings. `epoch`: the one for which they were readied. */
  attach(worker: number, { thread, epoch, dies }: Seat & { readonly epoch: number }): void {
    this.#directory.move(worker, { thread, dies });
    this.#links.detach(thread);
    this.#links.attach(thread, epoch);
  }
}
