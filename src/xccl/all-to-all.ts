/**
 * Dispatch and combine of a colocated domain (xDeepServe §3.2): every rank has tokens and experts.
 *
 *   dispatch   tokens, optionally quantised, into the own dispatch area by destination rank; a field to each; once all fields are here, pull
 *   combine    answers into the own reply area by source rank; a field to each; once all fields are here, pull and sum by ascending expert id
 *
 * @example
 * const exchange = new AllToAll({ endpoint, domain, kernels, hidden, rank_of_expert, dispatch, reply, collect, receive });
 * const dispatch = exchange.dispatch({ tokens, rows, experts, weights, format: 'int8', timeout_ms: 1_000 }); // poll it until it is done
 * computeExperts(exchange.received, exchange.reply_rows);
 * const combine = exchange.combine({ rows: exchange.reply_rows, format: 'f32', into, shared: 0, timeout_ms: 1_000 }); // and this one
 * @module
 */
import type { CombineTarget, Replies } from './combine.ts';
import type { ReceivedTokens, TokenBatch } from './dispatch.ts';
import type { AttentionOptions, Deadline, ExpertOptions } from './ends.ts';
import { ONLY_LANE } from './lane.ts';
import { Membership } from './membership.ts';
import { type FanOut, FanOutExpert, FanOutSource } from './naive-fan-out.ts';
import type { Operation } from './operation.ts';

export class AllToAll {
  readonly #source: FanOutSource;
  readonly #expert: FanOutExpert;

  constructor(options: AttentionOptions & ExpertOptions) {
    const membership = new Membership(options.endpoint, options.domain);
    const ranks = options.domain.dies.map((_, rank) => rank);
    const fanOut: FanOut = { sources: ranks, experts: ranks, names: { dispatch: 'dispatch', combine: 'combine' }, lane: options.lane ?? ONLY_LANE };
    this.#source = new FanOutSource(membership, options, fanOut);
    this.#expert = new FanOutExpert(membership, options, fanOut);
  }

  /** What there is to compute once a dispatch is done, until the next one. */
  get received(): ReceivedTokens {
    return this.#expert.received;
  }

  /** Where answers may be computed so that they need not be copied, once a dispatch is done. */
  get reply_rows(): number {
    return this.#expert.reply_rows;
  }

  /** @throws `out_of_memory` with the bytes needed and granted, `invalid_request` for an expert that there is not. */
  dispatch(batch: TokenBatch & Deadline): Operation {
    const left = this.#source.a2e(batch);
    return left.poll().state === 'failed' ? left : this.#expert.a2e(batch);
  }

  /** @throws `out_of_memory` with the bytes needed and granted. */
  combine(step: Replies & CombineTarget & Deadline): Operation {
    const left = this.#expert.e2a(step);
    return left.poll().state === 'failed' ? left : this.#source.e2a(step);
  }
}
