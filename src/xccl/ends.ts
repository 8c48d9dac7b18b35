/**
 * The two ends of an exchange between ranks with tokens (attention) and ranks with experts, whichever way the parts take between them.
 *
 *   attention    a2e: leave the tokens for the experts           e2a: pull what they made of them, and sum
 *   expert       a2e: pull the tokens of all attention ranks     e2a: leave the answers
 *
 * Every rank takes part in every round, also with no tokens. Steps take turns: a2e, e2a, a2e, … (rounds.ts).
 * @module
 */
import { assert } from '../protocol/errors.ts';
import type { Arrivals } from './arrivals.ts';
import { type CollectMemory, type CombineTarget, type Replies, ReplyBlocks, ReplyCollector } from './combine.ts';
import { ReceivedTokens, type ReceiveMemory, type TokenBatch, TokenPackage } from './dispatch.ts';
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import type { Lane } from './lane.ts';
import type { Membership } from './membership.ts';
import type { Operation } from './operation.ts';
import type { Extent, PartList } from './parts.ts';
import type { Rounds } from './rounds.ts';
import type { RowChecks } from './row-sums.ts';
import { TokenRouting } from './token-routing.ts';
import { BLOCK_ALIGNMENT, RowCodec, type WireKernels } from './wire-format.ts';

/** `timeout_ms`: how long an operation waits for its peers before it fails, naming those that are silent. */
export type Deadline = { readonly timeout_ms: number };

export interface AttentionEnd {
  readonly membership: Membership;
  /** Done at once: it needs nobody. @throws `out_of_memory` with the bytes needed and granted, `invalid_request` for an expert that there is not. */
  a2e(batch: TokenBatch): Operation;
  e2a(target: CombineTarget & Deadline): Operation;
  /** The same, but leaves the answers as rows: in `collect.replies`, each pair's row of them in `collect.places`. */
  e2aRows(deadline: Deadline): Operation;
  /** Of the answers that came last: some rank has refused its part, so that there are none. */
  readonly isRefused: boolean;
  /** For nothing but that some part, or some answer, is not what it was. */
  readonly isDamaged: boolean;
}

export interface ExpertEnd {
  readonly membership: Membership;
  /** What there is to compute once `a2e` is done, until the next one. */
  readonly received: ReceivedTokens;
  /** Where answers may be computed so that they need not be copied, once `a2e` is done. */
  readonly reply_rows: number;
  a2e(deadline: Deadline): Operation;
  /** @throws `out_of_memory` with the bytes needed and granted. */
  e2a(replies: Replies & Deadline): Operation;
}

/** What all ranks agree on, but for `endpoint`, `kernels` and the extents. */
export type EndOptions = {
  readonly endpoint: Endpoint;
  readonly domain: Domain;
  /** Over the segment in which the die's areas and memory lie. */
  readonly kernels: WireKernels;
  /** Numbers in a row. */
  readonly hidden: number;
  /** By place of experts (token-routing.ts): the number of its rank among the expert ranks. */
  readonly rank_of_expert: ArrayLike<number>;
  /** What of the die's areas this exchange may use, in multiples of 16 bytes; two that share a die take turns or have extents apart. */
  readonly dispatch: Extent;
  readonly reply: Extent;
  /** Missing: the only one. */
  readonly lane?: Lane | undefined;
  /** Missing: memory is trusted. */
  readonly checks?: RowChecks | null;
};

/** `last`: the expert rank whose answers come last where they are left as rows; missing: that of the highest number. */
export type AttentionOptions = EndOptions & { readonly collect: CollectMemory; readonly last?: number | undefined };
export type ExpertOptions = EndOptions & { readonly receive: ReceiveMemory };

function checkExtent(extent: Extent, area_bytes: number): void {
  const { offset, bytes } = extent;
  assert(offset % BLOCK_ALIGNMENT === 0 && bytes >= 0 && offset + bytes <= area_bytes, `extent of ${bytes} bytes at ${offset} in an area of ${area_bytes}`);
}

/** What an attention rank does alone. */
export class AttentionWork {
  readonly package: TokenPackage;
  readonly collector: ReplyCollector;
  readonly #last: number;

  constructor(membership: Membership, options: AttentionOptions, experts: number) {
    const { kernels, hidden, rank_of_expert, collect, dispatch, last = experts - 1, checks = null } = options;
    this.#last = last;
    checkExtent(dispatch, membership.endpoint.areas.dispatch_bytes);
    const routing = new TokenRouting(membership.space, rank_of_expert, experts, collect, collect);
    const codec = new RowCodec(membership.space, kernels, hidden, collect.staging);
    this.package = new TokenPackage(membership, codec, hidden, routing, collect.row_tokens, collect.encoded, dispatch, checks);
    this.collector = new ReplyCollector(membership, kernels, codec, routing, hidden, collect, checks);
  }

  /** A2E: packs the tokens for the experts; `publish` tells whoever pulls them. */
  a2e(rounds: Rounds, batch: TokenBatch, publish: (round: number) => void): Operation {
    return rounds.start('dispatch', { timeout_ms: 0, prepare: (what) => this.package.pack(what, batch), begin: publish, resume: null });
  }

  /** E2A: sums the answers once all fields are here, or leaves them as rows; `blocksOf` says where they lie, by expert rank. */
  e2a(rounds: Rounds, answers: Arrivals, timeout_ms: number, target: CombineTarget | null, blocksOf: (fields: PartList) => PartList): Operation {
    return rounds.start('combine', {
      timeout_ms,
      begin: (round) => answers.expect(round),
      resume: (what) => {
        if (!answers.look()) return answers;
        const blocks = blocksOf(answers.parts);
        if (target === null) this.collector.bring(what, blocks, this.#last);
        else this.collector.collect(what, blocks, target);
        answers.confirm(what);
        this.collector.confirm();
        return null;
      },
    });
  }
}

/** What an expert rank does alone; `number`: its own among the expert ranks. */
export class ExpertWork {
  readonly received: ReceivedTokens;
  readonly replies: ReplyBlocks;

  constructor(membership: Membership, options: ExpertOptions, sources: number, number: number) {
    const { kernels, hidden, rank_of_expert, receive, reply, checks = null } = options;
    checkExtent(reply, membership.endpoint.areas.reply_bytes);
    this.received = new ReceivedTokens(membership, kernels, hidden, receive, sources, rank_of_expert, number, checks);
    this.replies = new ReplyBlocks(membership, this.received, reply, checks);
  }

  /** A2E: pulls the tokens once all fields are here; until then, what is waited for. */
  pullArrived(what: string, tokens: Arrivals): Arrivals | null {
    if (!tokens.look()) return tokens;
    this.received.pull(what, tokens.parts);
    tokens.confirm(what);
    this.received.confirm();
    return null;
  }
}
