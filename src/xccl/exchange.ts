/**
 * Dispatch and combine between NPUs that flow, each at its own pace (xDeepServe §3.2 for the data path, §5.3 for doing without global steps): an attention
 * NPU asks just the expert NPUs that it needs, layer by layer, and an expert NPU serves whoever asks. The collectives, where all ranks meet, are in all-to-all.
 *
 *   attention NPU                                          expert NPU
 *   rows, lists in its dispatch area
 *   field DISPATCH in the peer's metadata ───────────────▶ sees it, checks it, pulls lists and rows
 *                                                          computes into its reply area
 *   sees it, pulls the rows into place   ◀─────────────── field COMBINE in the asker's metadata
 *   marks its DISPATCH field as taken  · · · · · · · · · ▶ looks at the mark when it needs the room again
 *
 *   DISPATCH  a layer + 1,024 × map epoch | b segments, and when the step is due (due-time.ts) | c offset of the segments | d offset of the pairs' rows | e taken: the event whose answer was pulled
 *   COMBINE   a event that is answered | b offset in the reply area | c pairs | d status: computed, failed, damaged (row-sums.ts), or refused: a slot does not hold what it was asked for | e sum of the rows
 *
 * Rows of tokens may travel narrower than they are (wire-format.ts), there or back: then the dispatch area begins with a block of them, and an answer is one.
 *
 * NPUs that split the weights of their output projections ask one another in the same way for the columns that the other one has: rows of what their heads put
 * out, all alike, need no lists, and an answer has the width of a row, of which the peer's columns are pulled.
 *
 *   DISPATCH  a −1 − layer | b rows | c offset of the rows | d bytes of all rows | e taken
 *
 * Who asks for two things at once, such as the experts of two micro-batches, does so on two lanes (lane.ts), each with fields of its own.
 *
 * Everybody writes into its own areas and its own fields only. So an asker that gives a step up needs to wait for nobody: what peers still compute for it
 * is an answer to an event that it no longer looks for. Whoever is given up changes nothing that anyone reads: its fields carry an epoch that is over.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { CHANNEL, FIELD_WORD } from './areas.ts';
import { dueIn, segmentsIn, withDue } from './due-time.ts';
import type { Endpoint } from './endpoint.ts';
import { type Lane, laneOf, ONLY_LANE } from './lane.ts';
import { type Replies, ReplyArea } from './reply-area.ts';
import { ReservedReplies } from './reserved-replies.ts';
import { type Block, type RowChecks, RowSums, type SumBytes } from './row-sums.ts';
import { blockBytes, type RowCodec, type WireFormat } from './wire-format.ts';

/** One NPU's part of a layer's tokens, as an expert NPU sees it. Addresses are global. */
export type TokenDispatch = {
  readonly layer: number;
  /** Of the map that the asker sorted its tokens by. */
  readonly epoch: number;
  /** u32 (slot << 16 | expert, pairs) × `segments`. */
  readonly segmentsAddress: number;
  readonly segments: number;
  /** u32 token row of each pair, in the segments' order. */
  readonly pairRowsAddress: number;
  /** Row 0 of the tokens' activations. */
  readonly rowsAddress: number;
};

/** Rows that lie one after the other in the dispatch area, to be multiplied by the peer's part of a layer's weights. */
export type RowsDispatch = { readonly layer: number; readonly rows: number; readonly rowsAddress: number; readonly bytes: number };

/** `pairs`: rows of the answer, wherever it goes. `due`: when its step is (due-time.ts). */
export type Arrived = {
  readonly source: number;
  readonly event: number;
  readonly lane: number;
  readonly replyOffset: number;
  readonly reply_bytes: number;
  readonly pairs: number;
  /** Of the source's rows, which whoever serves pulls. */
  readonly bytes: number;
  readonly due: number;
};
/** A dispatch that has come. */
export type ArrivedDispatch = Arrived & (({ readonly kind: 'tokens' } & TokenDispatch) | ({ readonly kind: 'rows' } & RowsDispatch));

/** What whoever serves makes of a dispatch: rows of its answer, infinity if it cannot be one of ours. */
export type DispatchChecks = { readonly pairsOf: (dispatch: TokenDispatch) => number; readonly rowsOf: (dispatch: RowsDispatch) => number };

/** `damaged`: rows, those that were sent or those that came back, are not what they were. */
export type Answer = 'pending' | 'failed' | 'refused' | 'damaged' | 'pulled';

/** What whoever was asked says of its answer. */
export type Verdict = keyof typeof STATUS;
const STATUS = { computed: 0, failed: 1, refused: 2, damaged: 3 } as const;

const LAYER_BITS = 10;
const LAYER_MASK = (1 << LAYER_BITS) - 1;
const tokensAsked = (what: number, segments: number, segmentsAddress: number, pairRowsAddress: number, rowsAddress: number): TokenDispatch => ({
  layer: what & LAYER_MASK,
  epoch: what >>> LAYER_BITS,
  segments,
  segmentsAddress,
  pairRowsAddress,
  rowsAddress,
});

/** How rows of tokens travel to experts and back, and what turns answers into rows. */
export type RowTravel = { readonly there: WireFormat; readonly back: WireFormat; readonly codec: RowCodec };

/**
 * `lanes`, missing: 1. `askers`: the most dies that ask this one, each of which has room of its own for its answers; missing: they share it. `rows`: missing: they travel
 * as they are. `sum`: by which all look whether they are what they were; missing: memory is trusted.
 */
export type ExchangeOptions = { readonly lanes?: number; readonly askers?: number; readonly rows?: RowTravel; readonly sum?: SumBytes };

export class Exchange {
  readonly endpoint: Endpoint;
  readonly #rowBytes: number;
  readonly #lanes: readonly Lane[];
  readonly #replies: Replies;
  readonly #travel: RowTravel | null;
  readonly #sums: RowSums | null;
  /** Of the rounds that this die takes part in beside; null: memory is trusted. */
  readonly checks: RowChecks | null;
  /** Where the next look for dispatches begins: nobody is served twice before the others had their turn. */
  #turn = 0;
  #isStalled = false;
  /** Since this end was made: dispatches to peers; peers' dispatches answered with rows; those whose tables led out of their source's area. */
  dispatches = 0;
  served = 0;
  refused = 0;
  /** Rows that were not what they had been: those of peers' dispatches, and of answers. */
  damaged = 0;

  /** `rowBytes`: of one activation row. Rows begin the dispatch area. */
  constructor(endpoint: Endpoint, rowBytes: number, { lanes = 1, askers, rows, sum }: ExchangeOptions = {}) {
    this.endpoint = endpoint;
    this.#rowBytes = rowBytes;
    this.#travel = rows ?? null;
    this.#sums = sum === undefined ? null : new RowSums(endpoint, sum);
    this.checks = sum === undefined ? null : { sum, found: () => void this.damaged++ };
    this.#lanes = [ONLY_LANE, ...Array.from({ length: lanes - 1 }, (_, lane) => laneOf(lane))];
    const { reply_bytes } = endpoint.areas;
    this.#replies = askers === undefined ? new ReplyArea(reply_bytes) : new ReservedReplies(reply_bytes, askers, lanes);
  }

  /** A dispatch waits for room that others' answers hold; they tell nobody when they take them. */
  get isStalled(): boolean {
    return this.#isStalled;
  }

  get replies(): Replies {
    return this.#replies;
  }

  /** Frees the room of answers that were taken, as is done whenever an answer needs room: what is used then is what waits. */
  sweepReplies(): void {
    this.#replies.sweep(this.#isTaken);
  }

  /** Rows in this die's dispatch area with which peers are asked from now on. */
  leaveRows(lane: number, blocks: readonly Block[]): void {
    this.#sums?.leave(lane, blocks);
  }

  /** Asks a peer, for a step that is due then; tables and rows lie in this die's dispatch area. Returns the event that its answer will name. */
  dispatch(peer: number, { layer, epoch, segments, segmentsAddress, pairRowsAddress }: TokenDispatch, due: number, lane = 0): number {
    const { dispatch } = this.endpoint.areas;
    const what = layer | (epoch << LAYER_BITS);
    this.dispatches++;
    return this.endpoint.write(peer, this.#lane(lane).dispatch, what, withDue(segments, due), segmentsAddress - dispatch, pairRowsAddress - dispatch, 0);
  }

  /** Asks a peer for its columns of rows that lie in this die's dispatch area. Returns the event that its answer will name. */
  dispatchRows(peer: number, { layer, rows, rowsAddress, bytes }: RowsDispatch): number {
    this.dispatches++;
    return this.endpoint.write(peer, CHANNEL.dispatch, -1 - layer, rows, rowsAddress - this.endpoint.areas.dispatch, bytes, 0);
  }

  /**
   * Pulls the peer's answer to `event`, `pairs` rows of tokens, to `target`.
   * @throws `memory_fault` when the answer does not lie in the peer's reply area.
   */
  pull(peer: number, event: number, target: number, pairs: number, lane = 0): Answer {
    const travel = this.#travel;
    return this.#pull(peer, event, lane, this.#answerBytes(pairs), (answer, bytes) => {
      if (travel === null) this.endpoint.space.copy(target, answer, bytes);
      else travel.codec.decode(target, answer, pairs, travel.back);
    });
  }

  /** The same of columns: of each row `width` bytes from byte `skip` on, to where a row as wide as the answer's has them. */
  pullColumns(peer: number, event: number, target: number, rows: number, skip: number, width: number): Answer {
    const { space } = this.endpoint;
    return this.#pull(peer, event, 0, rows * this.#rowBytes, (answer, bytes) => {
      if (width === this.#rowBytes) space.copy(target, answer, bytes);
      else space.copyRows(target, answer + skip, width, rows, this.#rowBytes);
    });
  }

  /** The peer's answer to `event` is there to be pulled. */
  isAnswered(peer: number, event: number, lane = 0): boolean {
    const channel = this.#lane(lane).combine;
    return this.endpoint.newEventFrom(peer, channel) !== 0 && this.endpoint.wordFrom(peer, channel, FIELD_WORD.a) === event;
  }

  #pull(peer: number, event: number, lane: number, bytes: number, take: (answer: number, bytes: number) => void): Answer {
    const { endpoint } = this;
    const channel = this.#lane(lane).combine;
    const combine = endpoint.newEventFrom(peer, channel);
    if (combine === 0 || endpoint.wordFrom(peer, channel, FIELD_WORD.a) !== event) return 'pending';
    const offset = endpoint.wordFrom(peer, channel, FIELD_WORD.b) >>> 0;
    const status = endpoint.wordFrom(peer, channel, FIELD_WORD.d);
    let isWhole = true;
    if (status === STATUS.computed) {
      const { reply, reply_bytes } = endpoint.surroundings.areasOf(peer);
      if (offset + bytes > reply_bytes)
        throw new MinipodError('memory_fault', `die ${peer} answered with ${bytes} bytes at ${offset} of its reply area of ${reply_bytes}`);
      take(reply + offset, bytes);
      endpoint.counters.pulled_bytes += bytes;
      isWhole = this.#sums === null || this.#sums.of(reply + offset, bytes) === endpoint.wordFrom(peer, channel, FIELD_WORD.e);
    }
    // Given up while the copy ran: its successor is asked again.
    if (!endpoint.isStill(peer, channel, combine)) return 'pending';
    endpoint.consume(peer, channel, combine);
    this.abandon(peer, event, lane);
    if (!isWhole) this.damaged++;
    if (!isWhole || status === STATUS.damaged) return 'damaged';
    if (status === STATUS.refused) return 'refused';
    return status === STATUS.computed ? 'pulled' : 'failed';
  }

  /** The answer to the event is not needed, or not any more: its room is free. */
  abandon(peer: number, event: number, lane = 0): void {
    this.endpoint.mark(peer, this.#lane(lane).dispatch, FIELD_WORD.e, event);
  }

  /** The next dispatch that has come, with room for its answer. Null: nobody asks, or there is no room now. */
  nextDispatch(checks: DispatchChecks): ArrivedDispatch | null {
    const { endpoint } = this;
    const lanes = this.#lanes.length;
    const fields = endpoint.areas.dies * lanes;
    this.#isStalled = false;
    for (let look = 0; look < fields; look++) {
      const lane = this.#turn % lanes;
      const source = (this.#turn - lane) / lanes;
      const event = endpoint.newEventFrom(source, this.#lane(lane).dispatch);
      const arrived = event === 0 ? null : this.#read(source, event, lane, checks);
      if (this.#isStalled) return null;
      this.#turn = this.#turn + 1 === fields ? 0 : this.#turn + 1;
      if (arrived !== null) return arrived;
    }
    return null;
  }

  /** Tells of the tokens' dispatches that have come and wait to be taken. */
  lookAtWaiting(tell: (dispatch: TokenDispatch) => void): void {
    const { endpoint } = this;
    for (let source = 0; source < endpoint.areas.dies; source++)
      for (const { dispatch: channel } of this.#lanes) {
        const event = endpoint.newEventFrom(source, channel);
        if (event === 0) continue;
        const { dispatch, dispatch_bytes } = endpoint.surroundings.areasOf(source);
        const what = endpoint.wordFrom(source, channel, FIELD_WORD.a);
        const segments = segmentsIn(endpoint.wordFrom(source, channel, FIELD_WORD.b));
        const first = endpoint.wordFrom(source, channel, FIELD_WORD.c) >>> 0;
        const second = endpoint.wordFrom(source, channel, FIELD_WORD.d) >>> 0;
        const isRefused = what < 0 || first + segments * 8 > dispatch_bytes;
        if (isRefused || !endpoint.isStill(source, channel, event)) continue;
        tell(tokensAsked(what, segments, dispatch + first, dispatch + second, dispatch));
      }
  }

  /** Tells the source that its answer lies ready, or why there is none. */
  answer(arrived: Arrived, verdict: Verdict): void {
    const { source, event, lane, replyOffset, reply_bytes, pairs, bytes } = arrived;
    const isComputed = verdict === 'computed';
    // Who has given it up may be writing what he asks next.
    const isDamaged = isComputed && this.#sums?.areWhole(source, lane) === false && this.isWanted(arrived);
    if (isDamaged) this.damaged++;
    if (isComputed) {
      this.served++;
      this.endpoint.counters.pulled_bytes += bytes;
    }
    // There are no rows to be taken.
    if (!isComputed || isDamaged) this.#replies.sweep((holder, held, on) => holder === source && held === event && on === lane);
    const reply = this.endpoint.areas.reply + replyOffset;
    const sum = isComputed ? (this.#sums?.of(reply, reply_bytes) ?? 0) : 0;
    const { die, surroundings } = this.endpoint;
    // An answer that nobody waits for, nobody looks at.
    if (isComputed && surroundings.watch?.isOn && !isDamaged && this.isWanted(arrived)) surroundings.watch.left(die, [{ address: reply, bytes: reply_bytes }]);
    this.endpoint.write(source, this.#lane(lane).combine, event, replyOffset, pairs, isDamaged ? STATUS.damaged : STATUS[verdict], sum);
  }

  /**
   * The peer was given up or has a successor: what it asked for and what it was answered is over. Events count from 1 again, but once an epoch:
   * numbers that came twice in one epoch would let an old answer pass for a new one.
   */
  refresh(peer: number): void {
    if (this.endpoint.refresh(peer)) this.#replies.forget(peer);
  }

  /** Its source still waits for the answer: it has not given up what it asked for. */
  isWanted({ source, event, lane }: Arrived): boolean {
    return !this.#isTaken(source, event, lane);
  }

  #lane(lane: number): Lane {
    return this.#lanes[lane] as Lane;
  }

  #read(source: number, event: number, lane: number, checks: DispatchChecks): ArrivedDispatch | null {
    const { endpoint } = this;
    const channel = this.#lane(lane).dispatch;
    const { dispatch, dispatch_bytes } = endpoint.surroundings.areasOf(source);
    const what = endpoint.wordFrom(source, channel, FIELD_WORD.a);
    const count = endpoint.wordFrom(source, channel, FIELD_WORD.b);
    const first = endpoint.wordFrom(source, channel, FIELD_WORD.c) >>> 0;
    const second = endpoint.wordFrom(source, channel, FIELD_WORD.d) >>> 0;
    // The source has asked for something else meanwhile: the next look sees that.
    if (!endpoint.isStill(source, channel, event)) return null;
    if (what < 0) {
      const asked: RowsDispatch = { layer: -1 - what, rows: count, rowsAddress: dispatch + first, bytes: second };
      const rows = first + second <= dispatch_bytes ? checks.rowsOf(asked) : Number.POSITIVE_INFINITY;
      // Who serves these takes them one by one, as they come.
      const arrived = this.#arrive({ source, event, lane, pairs: rows, bytes: second, due: 0 }, rows * this.#rowBytes);
      return arrived === null ? null : { kind: 'rows', ...asked, ...arrived };
    }
    const segments = segmentsIn(count);
    const asked = tokensAsked(what, segments, dispatch + first, dispatch + second, dispatch);
    const pairs = first + segments * 8 <= dispatch_bytes ? checks.pairsOf(asked) : Number.POSITIVE_INFINITY;
    const bytes = this.#travel?.there === 'int8' ? pairs * (4 + this.#rowBytes / 4) : pairs * this.#rowBytes;
    const isInside = second + pairs * 4 <= dispatch_bytes;
    const arrived = this.#arrive({ source, event, lane, pairs, bytes, due: dueIn(count) }, isInside ? this.#answerBytes(pairs) : Number.POSITIVE_INFINITY);
    return arrived === null ? null : { kind: 'tokens', ...asked, ...arrived };
  }

  #answerBytes(pairs: number): number {
    return this.#travel === null ? pairs * this.#rowBytes : blockBytes(this.#travel.back, pairs, this.#rowBytes / 4);
  }

  /** Takes a dispatch whose answer takes so many bytes; null: refused, or there is no room for them now. */
  #arrive(asked: Omit<Arrived, 'replyOffset' | 'reply_bytes'>, bytes: number): Arrived | null {
    const { endpoint } = this;
    const { source, event, lane } = asked;
    if (bytes > this.#replies.answer_bytes_max) {
      // Tables that lead out of the source's area, or were rewritten under this look: an answer that says so, and nothing else touched.
      endpoint.consume(source, this.#lane(lane).dispatch, event);
      this.refused++;
      this.answer({ ...asked, pairs: 0, replyOffset: 0, reply_bytes: 0 }, 'failed');
      return null;
    }
    if (this.#replies instanceof ReplyArea) this.sweepReplies();
    const replyOffset = this.#replies.allocate(source, event, bytes, lane);
    if (replyOffset < 0) {
      this.#isStalled = true;
      return null;
    }
    endpoint.consume(source, this.#lane(lane).dispatch, event);
    return { ...asked, replyOffset, reply_bytes: bytes };
  }

  /** Taken, or its source asks for something else since: then it does not look for it any more. */
  readonly #isTaken = (source: number, event: number, lane: number): boolean => {
    const channel = this.#lane(lane).dispatch;
    return this.endpoint.eventFrom(source, channel) !== event || this.endpoint.wordFrom(source, channel, FIELD_WORD.e) === event;
  };
}
