/**
 * Lets go, by a new link, of a lease whose puller lost his: he has stopped, and the holder cannot know. Who had the old link has it no more (card-server.ts), so a
 * claim that was on its way by it has come by now, or never will.
 * @module
 */
import { type Backend, WorkRequest } from './backend.ts';

/** Where the lease lies, and the words of it that its puller wrote or the holder may have made of them. */
export type UnreturnedLease = { readonly address: number; readonly pulling: number; readonly fenced: number; readonly stopped: number };

export class LeaseReturn {
  readonly lease: UnreturnedLease;
  readonly #backend: Backend;
  readonly #work = new WorkRequest();
  #expected: number;

  constructor(backend: Backend, lease: UnreturnedLease) {
    this.lease = lease;
    this.#backend = backend;
    this.#expected = lease.pulling;
  }

  /** `failed`: by this link it cannot be. */
  poll(): 'pending' | 'done' | 'failed' {
    const { lease } = this;
    const work = this.#work;
    for (;;) {
      if (work.state === 'failed') return work.error?.code === 'memory_fault' ? 'done' : 'failed';
      if (work.state === 'posted') return 'pending';
      if (work.state === 'done') {
        work.state = 'idle';
        // Anything else than its fence: it was let go of, was never claimed, or is another's by now.
        if (work.value !== lease.fenced || this.#expected === lease.fenced) return 'done';
        this.#expected = lease.fenced;
      }
      this.#backend.compareSwap(work, lease.address, this.#expected, lease.stopped);
      if (work.isIdle) return 'pending';
    }
  }
}
