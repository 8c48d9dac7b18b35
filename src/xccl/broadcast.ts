/**
 * One rank's bytes to all ranks of a domain: an expert's weights to the NPUs that are to have replicas of it, for one.
 *
 *   tree           binomial: a rank that has them sends them on. Rank r of n, counted from the root, receives from r without its lowest bit, and sends to
 *                  r + 2ᵏ for each 2ᵏ below that bit. Nobody sends more than log₂ n times; the last rank has them after log₂ n messages in a row.
 *   multi-reader   the root lends them to all; everyone copies straight from the root's memory at the same time. One copy each and nothing in a row, but all
 *                  read from one region, and the root waits for all.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import { CHANNEL, FIELD_BYTES, FIELD_WORD } from './areas.ts';
import { type Domain, rankOf } from './domain.ts';
import { DATA, domainTag } from './message.ts';
import { DONE, deadlineExceeded, failed, type Operation, type Poll } from './operation.ts';
import type { PointToPoint } from './point-to-point.ts';
import type { CopyPiece, Receive } from './receive.ts';
import type { Send } from './send.ts';

export type BroadcastForm = 'tree' | 'multi-reader';

/**
 * A message between two dies takes about 28 µs and 10 µs a megabyte: 40 µs for 1,152 KB and 120 µs for 9,216 KB with two cores (xDeepServe figure 5). Reasoned by
 * it and not measured: in one process all memory is as near, and threads share its bandwidth whoever they read from.
 */
const MESSAGE_US = 28;
const BYTES_PER_US = 100_000;

/**
 * The quicker one for so many ranks. Many readers share what one die's link gives, but none waits for another; in a tree each takes a whole copy before it sends
 * on. For two readers a tree gains nothing, and puts one behind the other.
 */
export function quickerForm(bytes: number, ranks: number): BroadcastForm {
  const copy_us = bytes / BYTES_PER_US;
  const tree_us = Math.ceil(Math.log2(ranks)) * (MESSAGE_US + copy_us);
  return tree_us < MESSAGE_US + (ranks - 1) * copy_us ? 'tree' : 'multi-reader';
}

export type BroadcastOptions = {
  readonly domain: Domain;
  /** Rank that has the bytes. */
  readonly root: number;
  readonly event: number;
  /** Where the bytes are at the root, and go to at all others: in the die's own region. All ranks say the same number of them. */
  readonly address: number;
  readonly bytes: number;
  readonly form: BroadcastForm;
  /** For all of it, from this rank's start on. */
  readonly timeout_ms: number;
  /** Takes them at this rank in their order, in pieces that are the same at all ranks: they go straight from memory to memory. Missing: they are copied. */
  readonly copy?: CopyPiece;
  /** They are here; those behind this rank may not have them yet. */
  readonly onReceived?: () => void;
};

/** Whom the rank receives from, −1 for the root, in a tree of so many ranks. */
export function parentOf(rank: number, root: number, ranks: number): number {
  const place = (rank - root + ranks) % ranks;
  return place === 0 ? -1 : ((place & (place - 1)) + root) % ranks;
}

/** Whom it sends to, the one with the most ranks behind it first. */
export function childrenOf(rank: number, root: number, ranks: number): number[] {
  const place = (rank - root + ranks) % ranks;
  const children: number[] = [];
  for (let step = 1; step < (place === 0 ? ranks : place & -place) && place + step < ranks; step *= 2) children.unshift((place + step + root) % ranks);
  return children;
}

/**
 * Started by every rank of the domain. Ends, at the root, when nobody needs its memory any more; at others, when they have the bytes and have sent them on.
 * @throws `memory_fault` when the range is not this die's; `invalid_request` when there is no such root.
 */
export function broadcast(p2p: PointToPoint, options: BroadcastOptions): Broadcast {
  const { domain, root } = options;
  if (domain.dies[root] === undefined)
    throw new MinipodError('invalid_request', `broadcast from rank ${root} of domain ${domain.id}, which has ${domain.dies.length} ranks`);
  return new Broadcast(p2p, options, rankOf(domain, p2p.endpoint.die));
}

export class Broadcast implements Operation {
  readonly #p2p: PointToPoint;
  readonly #options: BroadcastOptions;
  readonly #rank: number;
  readonly #start_ms: number;
  /** Null when this rank has the bytes. */
  #inbound: Receive | null = null;
  readonly #outbound: Send[] = [];
  /** Ranks of `outbound`. */
  readonly #children: number[] = [];
  #error: MinipodError | null = null;
  #end: Poll | null = null;
  readonly #missing: number[] = [];
  readonly #pending: Poll = { state: 'pending', missing: this.#missing };

  constructor(p2p: PointToPoint, options: BroadcastOptions, rank: number) {
    const { domain, root, event, address, bytes, form, timeout_ms, copy } = options;
    this.#p2p = p2p;
    this.#options = options;
    this.#rank = rank;
    this.#start_ms = p2p.endpoint.surroundings.now_ms();
    if (rank === root) this.#sendOn(bytes);
    else {
      const from = form === 'tree' ? parentOf(rank, root, domain.dies.length) : root;
      this.#inbound = p2p.receive({ domain, from, event, address, bytes, timeout_ms, copy });
    }
  }

  poll(): Poll {
    if (this.#end !== null) return this.#end;
    this.#missing.length = 0;
    if (this.#inbound !== null) {
      const poll = this.#inbound.poll();
      if (poll.state === 'failed') return this.#close(failed(this.#nameSilent(poll.error)));
      if (poll.state === 'pending') {
        for (let index = 0; index < poll.missing.length; index++) this.#missing.push(poll.missing[index] as number);
        return this.#pending;
      }
      const { bytes } = this.#inbound;
      this.#inbound = null;
      if (bytes !== this.#options.bytes) this.#error = this.#unequal(bytes);
      else this.#options.onReceived?.();
      // What the root sent goes on to those below all the same.
      if (this.#options.form === 'tree') this.#sendOn(bytes);
    }
    // Who can be served is served, though another may have failed.
    let kept = 0;
    for (let index = 0; index < this.#outbound.length; index++) {
      const poll = (this.#outbound[index] as Send).poll();
      if (poll.state === 'failed') this.#error ??= poll.error;
      if (poll.state !== 'pending') continue;
      this.#outbound[kept] = this.#outbound[index] as Send;
      this.#children[kept] = this.#children[index] as number;
      this.#missing.push(this.#children[kept++] as number);
    }
    this.#outbound.length = kept;
    this.#children.length = kept;
    if (kept > 0) return this.#pending;
    return this.#close(this.#error === null ? DONE : failed(this.#error));
  }

  /** Gives it up at this rank, whose memory is its own again: who has not copied all of it yet takes nothing of it. */
  cancel(): Poll {
    if (this.#end !== null) return this.#end;
    this.#inbound?.cancel();
    for (const send of this.#outbound) send.cancel();
    const { event, root } = this.#options;
    return this.#close(failed(new MinipodError('cancelled', `broadcast of event ${event} from rank ${root} was cancelled at rank ${this.#rank}`)));
  }

  #sendOn(bytes: number): void {
    const { domain, root, event, address, form, copy } = this.#options;
    const ranks = domain.dies.length;
    const timeout_ms = this.#options.timeout_ms - (this.#p2p.endpoint.surroundings.now_ms() - this.#start_ms);
    const children = form === 'tree' ? childrenOf(this.#rank, root, ranks) : domain.dies.map((_, rank) => rank).filter((rank) => rank !== root);
    for (const to of children) {
      const message = { domain, to, event, address, bytes, timeout_ms };
      this.#outbound.push(form === 'tree' ? this.#p2p.send(message, ...(copy === undefined ? [] : (['dma'] as const))) : this.#p2p.lend(message));
      this.#children.push(to);
    }
  }

  /** All ranks say the same number of bytes, or some would keep what they had. */
  #unequal(came: number): MinipodError {
    const { domain, event, bytes } = this.#options;
    return new MinipodError(
      'invalid_request',
      `broadcast of event ${event} in domain ${domain.id}: ${came} bytes came to rank ${this.#rank}, which expects ${bytes}`,
    );
  }

  /** A rank whose parent waits itself names the one that all of them wait for. */
  #nameSilent(error: MinipodError): MinipodError {
    const { domain, root, event, form } = this.#options;
    if (error.code !== 'deadline_exceeded' || form !== 'tree') return error;
    const ranks = domain.dies.length;
    let silent = parentOf(this.#rank, root, ranks);
    while (silent !== root && !this.#wasTold(silent, parentOf(silent, root, ranks))) silent = parentOf(silent, root, ranks);
    const waited_ms = this.#p2p.endpoint.surroundings.now_ms() - this.#start_ms;
    return deadlineExceeded(`broadcast of event ${event} from rank ${root} at rank ${this.#rank}`, [silent], waited_ms);
  }

  /** The rank's metadata shows this message, or a later one, from its parent. */
  #wasTold(rank: number, parent: number): boolean {
    const { domain, event } = this.#options;
    const { space, areasOf } = this.#p2p.endpoint.surroundings;
    const { metadata, peer_bytes } = areasOf(domain.dies[rank] as number);
    const words = space.wordsOf(metadata);
    const at = (offsetOf(metadata) + (domain.dies[parent] as number) * peer_bytes + CHANNEL.data * FIELD_BYTES) / 4;
    return (
      Atomics.load(words, at + FIELD_WORD.event) !== 0 &&
      words[at + FIELD_WORD.a + DATA.event_id] === event &&
      words[at + FIELD_WORD.a + DATA.domain] === domainTag(domain)
    );
  }

  #close(end: Poll): Poll {
    this.#end = end;
    return end;
  }
}
