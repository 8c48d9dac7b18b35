/**
 * Messages between any two dies, whether one thread hosts both or two do (xDeepServe §3.1). What is started is polled by whoever started it, or by `Completions`.
 *
 * Messages of a pair go first in, first out; the receives of a domain take them in the order in which they were started.
 * @module
 */

import { MinipodError } from '../protocol/errors.ts';
import type { Die } from './die.ts';
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { noCounters, type PointToPointCounters } from './message.ts';
import { Ranges } from './ranges.ts';
import { type CopyPiece, Receive } from './receive.ts';
import { ReceiveQueue } from './receive-queue.ts';
import { type Path, Send } from './send.ts';
import { SendQueue } from './send-queue.ts';
import { Terms } from './terms.ts';

/**
 * From here on a message goes straight from memory to memory; below, through the slots. Measured, µs a message by slots / dma, Node 24 (Deno 2.9 alike):
 *
 *   bytes          1 Ki         2 Ki         4 Ki         8 Ki         64 Ki
 *   one thread     1.0 / 1.0    1.0 / 1.1    1.2 / 1.3    1.6 / 1.5     4.5 / 3.2    against 2.0 of one memory.copy
 *   two threads    1.4 / 1.0    1.0 / 0.9    1.3 / 1.2    1.9 / 1.4    11.3 / 3.7    against 2.8
 *
 * Slots cost a second copy, and between threads their lines go to and fro; descriptors cost their check.
 */
export const DMA_FROM_BYTES = 4_096;

export type Message = {
  readonly domain: Domain;
  /** Named by both ends: that they mean the same message is checked. */
  readonly event: number;
  /** Where the bytes are, or go to: in the die's own region. Of a receive: room for so many at most. */
  readonly address: number;
  readonly bytes: number;
  /** From the start on, by the clock of the surroundings: then it is given up, and its error names the rank that it waited for. */
  readonly timeout_ms: number;
};
/** `to`, `from`: ranks in the domain. */
export type Outbound = Message & { readonly to: number };
/** `copy`: takes the bytes in their order, piece by piece, and may look at them as it does; missing: they are copied. */
export type Inbound = Message & { readonly from: number; readonly copy?: CopyPiece | undefined };

export class PointToPoint {
  readonly endpoint: Endpoint;
  readonly counters: PointToPointCounters = noCounters();
  readonly #die: Die;
  /** By peer. */
  readonly #sendQueues: (SendQueue | undefined)[] = [];
  readonly #receiveQueues: (ReceiveQueue | undefined)[] = [];

  constructor(endpoint: Endpoint) {
    this.endpoint = endpoint;
    this.#die = { space: endpoint.space, ranges: new Ranges(endpoint.surroundings), counters: this.counters };
  }

  /**
   * Ends when the peer has acknowledged the last byte. The memory must not change before.
   * @throws `memory_fault` when the range is not this die's; `invalid_request` when it is no range, or the domain lacks the peer's rank or this die's.
   */
  send(message: Outbound, path: 'slots' | 'dma' = message.bytes < DMA_FROM_BYTES ? 'slots' : 'dma'): Send {
    return this.#send(message, path, 'send to');
  }

  /** Lets the peer read the memory where it is. Ends when the peer has released it: until then it is not this die's to change, however long that takes. */
  lend(message: Outbound): Send {
    return this.#send(message, 'lease', 'loan to');
  }

  /** Takes the peer's next message of the domain, however it was sent. */
  receive(message: Inbound): Receive {
    return this.#receive(message, false, 'receive from');
  }

  /** The same, but what was lent is used in place: see `lease` when it is done. Otherwise, and across segments, the lease is of a copy at `address`. */
  borrow(message: Inbound): Receive {
    return this.#receive(message, true, 'borrowing from');
  }

  #send(message: Outbound, path: Path, verb: string): Send {
    const { address, bytes } = message;
    checkRange(verb, address, bytes);
    const terms = this.#terms(verb, message, message.to);
    const region = bytes === 0 ? -1 : this.#die.ranges.check(this.endpoint.die, address, bytes, 'read', terms);
    const regionEpoch = region < 0 || path === 'slots' ? 0 : this.endpoint.space.table.epochOf(region);
    return new Send(this.#die, this.#sendQueueTo(terms.die), terms, path, address, bytes, regionEpoch);
  }

  #receive(message: Inbound, borrows: boolean, verb: string): Receive {
    const { address, bytes } = message;
    checkRange(verb, address, bytes);
    const terms = this.#terms(verb, message, message.from);
    if (bytes > 0) this.#die.ranges.check(this.endpoint.die, address, bytes, 'write', terms);
    return new Receive(this.#die, this.#receiveQueueFrom(terms.die), terms, borrows, address, bytes, message.copy);
  }

  #terms(verb: string, { domain, event, timeout_ms }: Message, rank: number): Terms {
    // A peer's successor is met at the first operation with it; those with its predecessor have failed.
    const die = domain.dies[rank];
    if (die !== undefined) this.endpoint.refresh(die);
    return new Terms(this.endpoint, verb, domain, rank, event, timeout_ms);
  }

  #sendQueueTo(die: number): SendQueue {
    let queue = this.#sendQueues[die];
    if (queue?.epoch !== this.endpoint.epochOf(die)) {
      queue = new SendQueue(this.endpoint, die);
      this.#sendQueues[die] = queue;
    }
    return queue;
  }

  #receiveQueueFrom(die: number): ReceiveQueue {
    let queue = this.#receiveQueues[die];
    if (queue?.epoch !== this.endpoint.epochOf(die)) {
      queue = new ReceiveQueue(this.endpoint, die, this.counters);
      this.#receiveQueues[die] = queue;
    }
    return queue;
  }
}

function checkRange(verb: string, address: number, bytes: number): void {
  if (!Number.isSafeInteger(address) || address < 0) throw new MinipodError('invalid_request', `${verb} a peer: ${address} is no address`);
  if (!Number.isSafeInteger(bytes) || bytes < 0) throw new MinipodError('invalid_request', `${verb} a peer: ${bytes} is no number of bytes`);
}
