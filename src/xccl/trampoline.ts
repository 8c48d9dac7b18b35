/**
 * A2E and E2A in two stages (xDeepServe §3.3, "trampoline forward"), for attention ranks that should not write to every expert rank: as many expert ranks
 * as there are attention ranks are trampolines, the i-th for the i-th.
 *
 *   A2E     attention i ─▶ trampoline i        one field; the trampoline pulls the whole package
 *   A2E'    trampoline i ─▶ every expert rank  a field each; they pull their parts from the trampoline
 *   E2A'    expert rank ─▶ every trampoline    a field each; trampoline i pulls the answers for attention i, and bundles them
 *   E2A     trampoline i ─▶ attention i        one field; attention i pulls the bundle
 *
 * Fields a round, with A attention and E expert ranks: an attention rank writes 1, not E; and waits for 1, not E. In all 2 A (E + 1), not 2 A E: what is
 * saved is the fan-out of the attention ranks, and it moves to where the bandwidth is. xDeepServe has 160 attention ranks a DP domain and 288 expert ranks:
 * A ≤ E holds there, so A > E is refused rather than wrapped around.
 *
 * Rows are never decoded on the way, nor looked at, so the bits are those of the plain form, INT8 too, and sums are those of who left them. Areas are used again as
 * rounds.ts says; beyond that
 *   - a trampoline pulls a package over the last one when attention i has begun the next round, so it has its bundle, so every expert rank has answered,
 *     so all have pulled their parts;
 *   - it bundles over the last bundle when all expert ranks have answered, so they had parts of this round, so attention i had begun it with the last
 *     bundle pulled.
 * @module
 */
import { roundUp } from '../fabric/address.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { Arrivals, stampOf } from './arrivals.ts';
import type { CombineTarget, Replies } from './combine.ts';
import type { ReceivedTokens, TokenBatch } from './dispatch.ts';
import { type AttentionEnd, type AttentionOptions, AttentionWork, type Deadline, type ExpertEnd, type ExpertOptions, ExpertWork } from './ends.ts';
import type { Lane } from './lane.ts';
import type { Membership } from './membership.ts';
import type { Operation } from './operation.ts';
import {
  answerBytes,
  checkRange,
  checkRoom,
  directoryBytes,
  type Extent,
  formatOfCode,
  NOTE_BYTES,
  PartList,
  partBytes,
  summedBytes,
  writeEntry,
} from './parts.ts';
import { Rounds, type StepNames } from './rounds.ts';
import type { TravelWatch } from './travel-watch.ts';
import type { Needs } from './wait-chain.ts';
import { BLOCK_ALIGNMENT, formatCode } from './wire-format.ts';

/** Ranks of the domain: the attention ranks first, then the expert ranks. */
export type Split = { readonly attention: number; readonly experts: number; readonly names: StepNames; readonly lane: Lane };

const ranks = (first: number, count: number): number[] => Array.from({ length: count }, (_, index) => first + index);

const needsOf =
  ({ attention, experts, lane }: Split): Needs =>
  ({ writer, reader, channel, round }) => {
    const told = (writers: readonly number[], by: typeof channel, of: number) =>
      writers.map((rank) => ({ writer: rank, reader: writer, channel: by, round: of }));
    if (channel === lane.dispatch) {
      if (writer >= attention) return told([writer - attention], lane.dispatch, round);
      return round === 1 ? [] : told([writer + attention], lane.combine, round - 1);
    }
    if (reader < attention) return told(ranks(attention, experts), lane.combine, round);
    return told(ranks(attention, attention), lane.dispatch, round);
  };

export function checkSplit({ attention, experts }: Split): void {
  if (attention <= experts) return;
  throw new MinipodError(
    'invalid_request',
    `${attention} attention ranks need as many expert ranks as trampolines, there are ${experts}: use more expert ranks, or the naive form`,
  );
}

export class TrampolineAttention implements AttentionEnd {
  readonly membership: Membership;
  readonly #split: Split;
  readonly #extent: Extent;
  readonly #work: AttentionWork;
  readonly #rounds: Rounds;
  readonly #bundle: Arrivals;
  readonly #blocks: PartList;

  constructor(membership: Membership, options: AttentionOptions, split: Split) {
    checkSplit(split);
    this.membership = membership;
    this.#split = split;
    this.#extent = options.dispatch;
    this.#work = new AttentionWork(this.membership, options, split.experts);
    this.#rounds = new Rounds(this.membership, split.names, needsOf(split));
    this.#bundle = new Arrivals(this.membership, this.#split.lane.combine, [this.#trampoline]);
    this.#blocks = new PartList(Array.from({ length: split.experts }, () => this.#trampoline));
  }

  get isRefused(): boolean {
    return this.#work.collector.isRefused;
  }

  get isDamaged(): boolean {
    return this.#work.collector.isDamaged;
  }

  get #trampoline(): number {
    return this.#split.attention + this.membership.rank;
  }

  a2e(batch: TokenBatch): Operation {
    return this.#work.a2e(this.#rounds, batch, (round) => this.#publish(round));
  }

  e2a(target: CombineTarget & Deadline): Operation {
    return this.#work.e2a(this.#rounds, this.#bundle, target.timeout_ms, target, (fields) => this.#blocksIn(fields));
  }

  e2aRows({ timeout_ms }: Deadline): Operation {
    return this.#work.e2a(this.#rounds, this.#bundle, timeout_ms, null, (fields) => this.#blocksIn(fields));
  }

  #publish(round: number): void {
    const { bytes, format } = this.#work.package;
    const die = this.membership.dieOf(this.#trampoline);
    const stamp = stampOf(round, formatCode(format));
    this.membership.endpoint.write(die, this.#split.lane.dispatch, this.#extent.offset, bytes, this.#split.experts, this.membership.tag, stamp);
  }

  /** From the bundle's directory: where each expert rank's block lies in it. */
  #blocksIn(bundle: PartList): PartList {
    const { endpoint, space } = this.membership;
    const { reply, reply_bytes } = endpoint.surroundings.areasOf(this.membership.dieOf(this.#trampoline));
    const offset = checkWhole(this.membership, bundle, 'reply', reply_bytes, this.#split.experts);
    this.#blocks.read(space, reply + offset, offset);
    return this.#blocks;
  }
}

export class TrampolineExpert implements ExpertEnd {
  readonly membership: Membership;
  readonly #split: Split;
  readonly #options: ExpertOptions;
  readonly #work: ExpertWork;
  readonly #rounds: Rounds;
  /** Of a trampoline: what its attention rank sends it (A2E), and every expert rank (E2A'). */
  readonly #package: Arrivals | null;
  readonly #answers: Arrivals | null;
  /** From all trampolines (A2E'). */
  readonly #tokens: Arrivals;
  readonly #forwarded: PartList;

  constructor(membership: Membership, options: ExpertOptions, split: Split) {
    checkSplit(split);
    const { attention, experts } = split;
    this.membership = membership;
    this.#split = split;
    this.#options = options;
    this.#work = new ExpertWork(this.membership, options, attention, this.#number);
    this.#rounds = new Rounds(this.membership, split.names, needsOf(split));
    assert(this.#number >= 0 && this.#number < experts, `rank ${this.membership.rank} is not one of ${experts} expert ranks after ${attention}`);
    const isTrampoline = this.#number < attention;
    this.#package = isTrampoline ? new Arrivals(this.membership, this.#split.lane.dispatch, [this.#number]) : null;
    this.#answers = isTrampoline ? new Arrivals(this.membership, this.#split.lane.combine, ranks(attention, experts)) : null;
    this.#tokens = new Arrivals(this.membership, this.#split.lane.dispatch, ranks(attention, attention));
    this.#forwarded = new PartList(Array.from({ length: experts }, () => this.membership.rank));
  }

  get #number(): number {
    return this.membership.rank - this.#split.attention;
  }

  get received(): ReceivedTokens {
    return this.#work.received;
  }

  get reply_rows(): number {
    return this.#work.replies.address;
  }

  a2e({ timeout_ms }: Deadline): Operation {
    const tokens = this.#tokens;
    let owed = this.#package;
    return this.#rounds.start('dispatch', {
      timeout_ms,
      begin: (round) => {
        owed?.expect(round);
        tokens.expect(round);
      },
      resume: (what, round) => {
        if (owed !== null) {
          if (!owed.look()) return owed;
          this.#forward(what, owed, round);
          owed = null;
        }
        return this.#work.pullArrived(what, tokens);
      },
    });
  }

  e2a(replies: Replies & Deadline): Operation {
    const answers = this.#answers;
    return this.#rounds.start('combine', {
      timeout_ms: replies.timeout_ms,
      prepare: (what) => this.#work.replies.leave(what, replies),
      begin: (round) => {
        answers?.expect(round);
        this.#publish(round);
      },
      resume:
        answers === null
          ? null
          : (what, round) => {
              if (!answers.look()) return answers;
              this.#sendBundle(what, answers, round);
              return null;
            },
    });
  }

  /** A2E': the package, brought here at once, and a field to each expert rank for its part. */
  #forward(what: string, arrived: Arrivals, round: number): void {
    const { endpoint, space } = this.membership;
    const { experts, attention } = this.#split;
    const extent = this.#options.dispatch;
    const source = arrived.parts.holders[0] as number;
    const areas = endpoint.surroundings.areasOf(this.membership.dieOf(source));
    const offset = checkWhole(this.membership, arrived.parts, 'dispatch', areas.dispatch_bytes, experts);
    const bytes = arrived.parts.rows[0] as number;
    checkRoom(`${what} for rank ${source}`, bytes, extent.bytes, `die ${endpoint.die}'s dispatch area`);
    const base = endpoint.areas.dispatch + extent.offset;
    space.copy(base, areas.dispatch + offset, bytes);
    arrived.confirm(what);
    const forwarded = this.#forwarded;
    forwarded.read(space, base, 0);
    const peer = this.membership.nameOf(source);
    for (let to = 0; to < experts; to++) {
      const format = formatOfCode(peer, forwarded.formats[to] as number);
      const needed = partBytes(format, forwarded.rows[to] as number, forwarded.pairs[to] as number, this.received.hidden);
      checkRange(peer, 'package in its dispatch', forwarded.offsets[to] as number, needed, bytes);
    }
    if (endpoint.surroundings.watch?.isOn) this.#tellOfPackage(endpoint.surroundings.watch, base);
    for (let to = 0; to < experts; to++) {
      const stamp = stampOf(round, forwarded.formats[to] as number);
      const at = extent.offset + (forwarded.offsets[to] as number);
      const die = this.membership.dieOf(attention + to);
      endpoint.write(die, this.#split.lane.dispatch, at, forwarded.rows[to] as number, forwarded.pairs[to] as number, this.membership.tag, stamp);
    }
  }

  /** Its parts are on their way once more, with the sums that they left with. */
  #tellOfPackage(watch: TravelWatch, base: number): void {
    const { offsets, formats, rows, pairs, holders } = this.#forwarded;
    if (!this.#options.checks) return;
    for (let to = 0; to < holders.length; to++) {
      if (pairs[to] === 0) continue;
      const format = formatOfCode('', formats[to] as number);
      const bytes = summedBytes(format, rows[to] as number, pairs[to] as number, this.received.hidden);
      watch.left(this.membership.endpoint.die, [{ address: base + (offsets[to] as number) + NOTE_BYTES, bytes }]);
    }
  }

  /** E2A': to each trampoline a field for what its attention rank asked. */
  #publish(round: number): void {
    const { replies, received } = this.#work;
    const { endpoint } = this.membership;
    for (let source = 0; source < received.sources; source++) {
      const pairs = replies.pairs[source] as number;
      const stamp = stampOf(round, replies.codes[source] as number);
      const die = this.membership.dieOf(this.#split.attention + source);
      const sum = replies.sums[source] as number;
      endpoint.write(die, this.#split.lane.combine, replies.offsets[source] as number, sum, pairs, this.membership.tag, stamp);
    }
  }

  /** E2A: all answers for the own attention rank, behind the own ones in the reply area, and one field. */
  #sendBundle(what: string, arrived: Arrivals, round: number): void {
    const { endpoint, space } = this.membership;
    const { surroundings, areas } = endpoint;
    const { experts } = this.#split;
    const { hidden } = this.received;
    const extent = this.#options.reply;
    const { parts } = arrived;
    let bytes = directoryBytes(experts);
    for (let from = 0; from < experts; from++) {
      const rank = parts.holders[from] as number;
      const peer = this.membership.nameOf(rank);
      const needed = answerBytes(peer, parts.formats[from] as number, parts.pairs[from] as number, hidden);
      checkRange(peer, 'reply', parts.offsets[from] as number, needed, surroundings.areasOf(this.membership.dieOf(rank)).reply_bytes);
      bytes += needed;
    }
    const start = roundUp(this.#work.replies.bytes, BLOCK_ALIGNMENT);
    checkRoom(`${what} with the answers for rank ${this.#number}`, start + bytes, extent.bytes, `die ${endpoint.die}'s reply area`);
    const base = areas.reply + extent.offset + start;
    let offset = directoryBytes(experts);
    for (let from = 0; from < experts; from++) {
      const die = this.membership.dieOf(parts.holders[from] as number);
      const pairs = parts.pairs[from] as number;
      const code = parts.formats[from] as number;
      const length = answerBytes('', code, pairs, hidden);
      space.copy(base + offset, surroundings.areasOf(die).reply + (parts.offsets[from] as number), length);
      writeEntry(space, base, from, offset, parts.rows[from] as number, pairs, code);
      offset += length;
    }
    arrived.confirm(what);
    // They come with the sums that they left with.
    const answers = { address: base + directoryBytes(experts), bytes: bytes - directoryBytes(experts) };
    if (this.#options.checks && surroundings.watch?.isOn && answers.bytes > 0) surroundings.watch.left(endpoint.die, [answers]);
    endpoint.write(
      this.membership.dieOf(this.#number),
      this.#split.lane.combine,
      extent.offset + start,
      bytes,
      experts,
      this.membership.tag,
      stampOf(round, 0),
    );
  }
}

/** A package or bundle as a whole: its field says offset, bytes and entries. Its offset in the area. @throws `memory_fault` naming the rank. */
function checkWhole(membership: Membership, parts: PartList, area: string, area_bytes: number, experts: number): number {
  const peer = membership.nameOf(parts.holders[0] as number);
  const [offset, bytes, entries] = [parts.offsets[0] as number, parts.rows[0] as number, parts.pairs[0] as number];
  checkRange(peer, area, offset, bytes, area_bytes);
  if (entries === experts && bytes >= directoryBytes(experts)) return offset;
  throw new MinipodError('memory_fault', `${peer} sent ${bytes} bytes for ${entries} expert ranks, there are ${experts}`);
}
