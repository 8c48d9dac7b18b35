/**
 * Weights that several NPUs are to have alike, on their way to all of them at once: XCCL broadcasts beside steps and dispatches (DeepServe's NPU-fork, one to many).
 *
 *   NPU that has them    a few at a time, each from where it lies: until all who read there have read
 *   NPUs that get them   as soon as they hear of it, in any order; in a tree each sends on what it got, until those behind it have it
 *
 * Nobody waits in a circle: who gets weights is ready for all of them from the first, so the next message of any pair is always taken, and whoever has weights
 * waits for his readers alone. One that dies is found by its epoch; one that says nothing, by the deadline of whoever has to do with it.
 * @module
 */
import { MinipodError } from '../../protocol/errors.ts';
import { BROADCAST_MS_MAX, type WeightBroadcast } from '../../protocol/expert-maps.ts';
import type { Directory } from '../../runtime/directory.ts';
import { type Broadcast, type BroadcastOptions, broadcast, quickerForm } from '../../xccl/broadcast.ts';
import { domainOfOperation } from '../../xccl/domain.ts';
import type { Endpoint } from '../../xccl/endpoint.ts';
import { PointToPoint } from '../../xccl/point-to-point.ts';
import { PIECE_BYTES } from '../../xccl/receive.ts';
import { CHUNK_BYTES, type Checksum } from '../distflow/checksum.ts';

/** `endpointOf`: an end of XCCL for an NPU of this host, not the one of its steps: they use other channels, and begin anew with a peer's successor at other times. */
export type WeightBroadcastsOptions = { readonly directory: Directory; readonly checksum: Checksum; readonly endpointOf: (npu: number) => Endpoint };

/** What an NPU gets: where to, and who hears that it is there, with its sum, or that it does not come. */
export type InboundWeights = {
  readonly to: number;
  readonly bytes: number;
  readonly end: (sum: number) => void;
  readonly fail: (error: MinipodError) => void;
};

/** Of one NPU. `address`: where its weights lie, or come to. `fail`: null: nobody waits for it here. */
type Part = {
  readonly npu: number;
  readonly number: number;
  readonly address: number;
  readonly begin: () => Broadcast;
  readonly fail: ((error: MinipodError) => void) | null;
};
type Begun = Part & { readonly operation: Broadcast };

/** Those that the NPUs of a host send at once: all of a large change would run into one another's deadlines. */
const SENDS_MAX = 8;

export class WeightBroadcasts {
  readonly #options: WeightBroadcastsOptions;
  /** By NPU. */
  readonly #ends = new Map<number, PointToPoint>();
  /** Are to be sent, in their order. */
  #waiting: Part[] = [];
  #sending: Begun[] = [];
  /** Whose turn is next comes first. */
  #receiving: Begun[] = [];
  /** Bytes of this turn. */
  #copied = 0;

  constructor(options: WeightBroadcastsOptions) {
    this.#options = options;
  }

  /** By the first of its NPUs. */
  send(npu: number, of: WeightBroadcast, from: number, bytes: number): void {
    this.#waiting.push({ npu, number: of.number, address: from, begin: () => this.#start(npu, of, from, bytes, { copy: () => {} }), fail: null });
  }

  receive(npu: number, of: WeightBroadcast, { to, bytes, end, fail }: InboundWeights): void {
    let sum = 0;
    let isThere = false;
    const copy = (target: number, from: number, length: number): void => {
      for (let done = 0; done < length; done += CHUNK_BYTES)
        sum = this.#options.checksum.copy(sum, target + done, from + done, Math.min(CHUNK_BYTES, length - done));
      this.#copied += length;
    };
    const onReceived = (): void => {
      isThere = true;
      end(sum);
    };
    const begin = (): Broadcast => this.#start(npu, of, to, bytes, { copy, onReceived });
    // Who cannot send it on has it all the same.
    this.#begin({ npu, number: of.number, address: to, begin, fail: (error) => (isThere ? undefined : fail(error)) }, this.#receiving);
  }

  /** What is sent from there, or comes there, is given up: something else is to lie there. Nobody hears of it. */
  cancelAt(npu: number, address: number): void {
    const isThere = (part: Part): boolean => part.npu === npu && part.address === address;
    this.#receiving = without(this.#receiving, isThere);
    this.#withdraw(isThere);
  }

  /** No more is sent of those that have lower numbers, from 0 on. */
  withdraw(npu: number, before: number): void {
    this.#withdraw((part) => part.npu === npu && part.number >= 0 && part.number < before);
  }

  #withdraw(isOver: (part: Part) => boolean): void {
    this.#waiting = this.#waiting.filter((part) => !isOver(part));
    this.#sending = without(this.#sending, isOver);
  }

  /** Goes on, a bounded number of bytes. True if anything did. */
  poll(): boolean {
    if (this.#waiting.length + this.#sending.length + this.#receiving.length === 0) return false;
    const written = this.#written;
    this.#copied = 0;
    while (this.#waiting.length > 0 && this.#sending.length < SENDS_MAX) this.#begin(this.#waiting.shift() as Part, this.#sending);
    let hasEnded = this.#pollSome(this.#sending);
    hasEnded = this.#pollSome(this.#receiving) || hasEnded;
    return hasEnded || this.#copied > 0 || this.#written !== written;
  }

  /** Each once, in turn, until enough was copied. True if one has ended. */
  #pollSome(parts: Begun[]): boolean {
    let hasEnded = false;
    for (let left = parts.length; left > 0 && this.#copied < PIECE_BYTES; left--) {
      const part = parts.shift() as Begun;
      const poll = part.operation.poll();
      if (poll.state === 'pending') parts.push(part);
      else hasEnded = true;
      if (poll.state === 'failed') part.fail?.(poll.error);
    }
    return hasEnded;
  }

  #begin(part: Part, among: Begun[]): void {
    try {
      among.push({ ...part, operation: part.begin() });
    } catch (error) {
      // Its NPU was given up, or another one has moved, and not all know of it yet.
      if (!(error instanceof MinipodError)) throw error;
      part.fail?.(error);
    }
  }

  #start(npu: number, { number, npus }: WeightBroadcast, address: number, bytes: number, own: Pick<BroadcastOptions, 'copy' | 'onReceived'>): Broadcast {
    const domain = domainOfOperation(
      number,
      npus.map((other) => this.#options.directory.dieOfNpu(other)),
    );
    const form = quickerForm(bytes, npus.length);
    return broadcast(this.#endOf(npu), { ...own, domain, root: 0, event: number, address, bytes, form, timeout_ms: BROADCAST_MS_MAX });
  }

  #endOf(npu: number): PointToPoint {
    let end = this.#ends.get(npu);
    if (end === undefined) {
      end = new PointToPoint(this.#options.endpointOf(npu));
      this.#ends.set(npu, end);
    }
    return end;
  }

  /** Fields, by all of them: whoever writes one has got on, and somebody else may. */
  get #written(): number {
    let written = 0;
    for (const { endpoint } of this.#ends.values()) written += endpoint.counters.writes;
    return written;
  }
}

function without(parts: readonly Begun[], isOver: (part: Part) => boolean): Begun[] {
  for (const part of parts) if (isOver(part)) part.operation.cancel();
  return parts.filter((part) => !isOver(part));
}
