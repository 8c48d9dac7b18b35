/**
 * Who may generate now: at most `concurrency` requests at once, none once the server is stopping, and every one of them can be told to end.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { ApiError, retryAfter } from './errors.ts';

/** One request's leave to generate. Its signal goes to the pod and fires when its client goes away or the server ends. */
export class Lease {
  readonly #abort = new AbortController();
  readonly #client: AbortSignal;
  readonly #onRelease: (lease: Lease) => void;
  /** Nobody may read on after this, so nothing but this can be relied on to release. */
  readonly #clientLeft = (): void => {
    this.cancel(new MinipodError('cancelled', 'the client went away'));
    this.release();
  };
  #released = false;

  constructor(client: AbortSignal, onRelease: (lease: Lease) => void) {
    this.#client = client;
    this.#onRelease = onRelease;
    if (client.aborted) this.#clientLeft();
    else client.addEventListener('abort', this.#clientLeft, { once: true });
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  cancel(reason: MinipodError): void {
    if (!this.#released) this.#abort.abort(reason);
  }

  /** Safe to call twice. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#client.removeEventListener('abort', this.#clientLeft);
    this.#onRelease(this);
  }
}

export class Admission {
  readonly #leases = new Set<Lease>();
  readonly #concurrency: number;
  #stopped = false;
  #idle = Promise.withResolvers<void>();

  constructor(concurrency: number) {
    this.#concurrency = concurrency;
  }

  get active(): number {
    return this.#leases.size;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** Throws 429 when full and 503 when stopping, so that nobody is read first who could not enter. */
  check(): void {
    if (this.#stopped) throw new MinipodError('closed', 'the server is closing and takes no new requests');
    if (this.#leases.size >= this.#concurrency)
      throw new ApiError(429, `This server works on ${this.#concurrency} requests at once and no more; try again shortly.`, {
        code: 'concurrency_limit',
        headers: retryAfter(500),
      });
  }

  /** Throws as `check` does. */
  enter(client: AbortSignal): Lease {
    this.check();
    const lease = new Lease(client, (released) => {
      this.#leases.delete(released);
      if (this.#leases.size === 0 && this.#stopped) this.#idle.resolve();
    });
    if (!lease.signal.aborted) this.#leases.add(lease);
    return lease;
  }

  /** From now on nobody enters; resolves when the last one has left. */
  stop(): Promise<void> {
    this.#stopped = true;
    if (this.#leases.size === 0) this.#idle.resolve();
    return this.#idle.promise;
  }

  /** Ends whatever is still under way. */
  end(): void {
    for (const lease of this.#leases) lease.cancel(new MinipodError('closed', 'the server closed before this request was done'));
  }
}
