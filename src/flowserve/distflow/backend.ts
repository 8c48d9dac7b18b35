/**
 * What DistFlow needs of a fabric: four verbs, as an RDMA card has them, all one-sided. The peer's threads take no part.
 *
 * Work is posted and looked at again; where the fabric is memory it is done when the call returns. Whoever posted polls the backend, never waits in it.
 * @module
 */
import type { MinipodError } from '../../protocol/errors.ts';

/** One piece of work under way at a time. Used again and again, since nothing may be allocated by a poll. */
export class WorkRequest {
  /** `idle` after a verb: there was no room, post it again. */
  state: 'idle' | 'posted' | 'done' | 'failed' = 'idle';
  /** Of `compareSwap`: the word that was there. Of `regionEpoch`: the epoch, or −1. */
  value = 0;
  error: MinipodError | null = null;

  fail(error: MinipodError): void {
    this.state = 'failed';
    this.error = error;
  }

  get isUnderWay(): boolean {
    return this.state === 'posted';
  }

  get isIdle(): boolean {
    return this.state === 'idle';
  }
}

export const PIECES_MAX = 256;

/** A scatter list: piece i goes from `from[i]` at the source to `to[i]` here. Filled anew for each read. */
export class Pieces {
  readonly to = new Float64Array(PIECES_MAX);
  readonly from = new Float64Array(PIECES_MAX);
  readonly bytes = new Float64Array(PIECES_MAX);
  count = 0;

  get isFull(): boolean {
    return this.count === PIECES_MAX;
  }

  /** A piece that goes on where the last one ends at both sides makes it longer. */
  add(to: number, from: number, bytes: number): void {
    const last = this.count - 1;
    const before = last >= 0 ? (this.bytes[last] as number) : 0;
    if (last >= 0 && this.to[last] === to - before && this.from[last] === from - before) {
      this.bytes[last] = before + bytes;
      return;
    }
    this.to[this.count] = to;
    this.from[this.count] = from;
    this.bytes[this.count] = bytes;
    this.count++;
  }
}

/** Towards one source. Addresses of a verb are the source's, but for where bytes go to. */
export type Backend = {
  /** The source's memory is this memory: bytes may be copied, and summed on the way, by whoever has the backend. */
  readonly isMemory: boolean;
  /** A clock for whoever must ask again and again: only a memory's holders tell that there is something new. Of a memory 0. */
  now_ms(): number;
  /** Bytes of the source come here. */
  read(work: WorkRequest, pieces: Pieces): void;
  /** into[i] = the u32 at base + 4 × (indices?.[i] ?? i), as it is after everything that was read before. */
  readWords(work: WorkRequest, base: number, indices: Int32Array | null, count: number, into: Int32Array): void;
  /** One word, at once for all: becomes `next` if it is `expected`. */
  compareSwap(work: WorkRequest, address: number, expected: number, next: number): void;
  /** The epoch of the region that has these bytes; −1: none, or not held by anybody now. */
  regionEpoch(work: WorkRequest, address: number, bytes: number): void;
  /** Moves on what is under way. */
  poll(): void;
  /** All that goes on here waits for the source, and nothing has come of it since the last `poll`: another one would change nothing. */
  readonly isWaiting: boolean;
  /** Why nothing can be posted any more; null: it can. */
  readonly broken: MinipodError | null;
  /** Ends the link: what is under way has failed, and nothing is written here any more once `isClosed`. */
  close(reason: MinipodError): void;
  readonly isClosed: boolean;
};
