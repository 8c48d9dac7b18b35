/**
 * The plain form of pull-based dispatch and combine (xDeepServe §3.2): every rank with tokens writes a field to every rank with experts, and back.
 * With A and E ranks that is A × E fields a step; between all N ranks of a colocated pod N². See trampoline.ts for fewer from one rank.
 * @module
 */

import { Arrivals, stampOf } from './arrivals.ts';
import type { CombineTarget, Replies } from './combine.ts';
import type { ReceivedTokens, TokenBatch } from './dispatch.ts';
import { type AttentionEnd, type AttentionOptions, AttentionWork, type Deadline, type ExpertEnd, type ExpertOptions, ExpertWork } from './ends.ts';
import type { Lane } from './lane.ts';
import type { Membership } from './membership.ts';
import type { Operation } from './operation.ts';
import { Rounds, type StepNames } from './rounds.ts';
import type { Needs } from './wait-chain.ts';
import { formatCode } from './wire-format.ts';

/** Who takes part, by rank of the domain; a rank may be on both sides. */
export type FanOut = {
  readonly sources: readonly number[];
  readonly experts: readonly number[];
  readonly names: StepNames;
  readonly lane: Lane;
};

const needsOf =
  ({ sources, experts, lane }: FanOut): Needs =>
  ({ writer, channel, round }) => {
    if (channel === lane.combine) return sources.map((source) => ({ writer: source, reader: writer, channel: lane.dispatch, round }));
    return round === 1 ? [] : experts.map((expert) => ({ writer: expert, reader: writer, channel: lane.combine, round: round - 1 }));
  };

export class FanOutSource implements AttentionEnd {
  readonly membership: Membership;
  readonly #fanOut: FanOut;
  readonly #work: AttentionWork;
  readonly #rounds: Rounds;
  readonly #answers: Arrivals;

  constructor(membership: Membership, options: AttentionOptions, fanOut: FanOut) {
    this.membership = membership;
    this.#fanOut = fanOut;
    this.#work = new AttentionWork(this.membership, options, fanOut.experts.length);
    this.#rounds = new Rounds(this.membership, fanOut.names, needsOf(fanOut));
    this.#answers = new Arrivals(this.membership, this.#fanOut.lane.combine, fanOut.experts);
  }

  get isRefused(): boolean {
    return this.#work.collector.isRefused;
  }

  get isDamaged(): boolean {
    return this.#work.collector.isDamaged;
  }

  a2e(batch: TokenBatch): Operation {
    return this.#work.a2e(this.#rounds, batch, (round) => this.#publish(round));
  }

  e2a(target: CombineTarget & Deadline): Operation {
    return this.#work.e2a(this.#rounds, this.#answers, target.timeout_ms, target, (fields) => fields);
  }

  e2aRows({ timeout_ms }: Deadline): Operation {
    return this.#work.e2a(this.#rounds, this.#answers, timeout_ms, null, (fields) => fields);
  }

  /** Also where there is nothing to do: the field is what the expert ranks wait for. */
  #publish(round: number): void {
    const { offsets, routing, format } = this.#work.package;
    const { endpoint } = this.membership;
    const stamp = stampOf(round, formatCode(format));
    this.#fanOut.experts.forEach((rank, to) => {
      endpoint.write(
        this.membership.dieOf(rank),
        this.#fanOut.lane.dispatch,
        offsets[to] as number,
        routing.rowsTo(to),
        routing.pairsTo(to),
        this.membership.tag,
        stamp,
      );
    });
  }
}

export class FanOutExpert implements ExpertEnd {
  readonly membership: Membership;
  readonly #fanOut: FanOut;
  readonly #work: ExpertWork;
  readonly #rounds: Rounds;
  readonly #tokens: Arrivals;

  constructor(membership: Membership, options: ExpertOptions, fanOut: FanOut) {
    this.membership = membership;
    this.#fanOut = fanOut;
    this.#work = new ExpertWork(this.membership, options, fanOut.sources.length, fanOut.experts.indexOf(this.membership.rank));
    this.#rounds = new Rounds(this.membership, fanOut.names, needsOf(fanOut));
    this.#tokens = new Arrivals(this.membership, this.#fanOut.lane.dispatch, fanOut.sources);
  }

  get received(): ReceivedTokens {
    return this.#work.received;
  }

  get reply_rows(): number {
    return this.#work.replies.address;
  }

  a2e({ timeout_ms }: Deadline): Operation {
    const tokens = this.#tokens;
    return this.#rounds.start('dispatch', {
      timeout_ms,
      begin: (round) => tokens.expect(round),
      resume: (what) => this.#work.pullArrived(what, tokens),
    });
  }

  e2a(replies: Replies & Deadline): Operation {
    return this.#rounds.start('combine', {
      timeout_ms: replies.timeout_ms,
      prepare: (what) => this.#work.replies.leave(what, replies),
      begin: (round) => this.#publish(round),
      resume: null,
    });
  }

  #publish(round: number): void {
    const { replies } = this.#work;
    const { endpoint } = this.membership;
    this.#fanOut.sources.forEach((rank, source) => {
      const pairs = replies.pairs[source] as number;
      const stamp = stampOf(round, replies.codes[source] as number);
      const sum = replies.sums[source] as number;
      endpoint.write(this.membership.dieOf(rank), this.#fanOut.lane.combine, replies.offsets[source] as number, sum, pairs, this.membership.tag, stamp);
    });
  }
}
