/**
 * Lets go, by a new link, of a lease whose puller lost his: he has stopped, and the holder cannot know. Who had the old link has it no more (card-server.ts), so a
 * claim that was on its way by it has come by now, or never will.
 * @module
 */
import { type Backend, WorkRequest } from './backend.ts';

/** Where the lease lies, and its words: `held` where the claim never came, for nobody else is going to claim it. */
export type UnreturnedLease = {
  readonly address: number;
  readonly held: number;
  readonly pulling: number;
  readonly fenced: number;
  readonly stopped: number;
};

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
      if (work.state === 'failed') {
        // Who lent it is gone, and its memory is nobody's.
        if (work.error?.code === 'memory_fault') return 'done';
        return this.#backend.isClosed ? 'failed' : 'pending';
      }
      if (work.state === 'posted') return 'pending';
      if (work.state === 'done') {
        work.state = 'idle';
        const { value } = work;
        const isOpen = value === lease.held || value === lease.pulling || value === lease.fenced;
        // Else it was let go of, or is another's by now.
        if (!isOpen || value === this.#expected) return 'done';
        this.#expected = value;
      }
      this.#backend.compareSwap(work, lease.address, this.#expected, lease.stopped);
      if (work.isIdle) return 'pending';
    }
  }
}
