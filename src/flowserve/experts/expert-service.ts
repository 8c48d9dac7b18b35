/**
 * The persistent kernel of an NPU's experts (xDeepServe §5.2): takes what other NPUs have dispatched, whoever asked and in whichever layer, and answers.
 *
 *   receive ─▶ compute what is due first, with all of its layer ─▶ send ─▶ receive …
 *
 * It keeps no state of them. On an expert NPU it is all that runs; beside attention it also projects columns for those that share that NPU's output projection.
 * @module
 */
import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { type Address, address } from '../../protocol/address.ts';
import { assert, invariantBroken, UnsoundMemory } from '../../protocol/errors.ts';
import { isDueBefore } from '../../xccl/due-time.ts';
import type { Arrived, ArrivedDispatch, DispatchChecks, Exchange, TokenDispatch, Verdict } from '../../xccl/exchange.ts';
import type { ExpertArithmetic, StepGraphs } from '../forward/arithmetic.ts';
import { DispatchedRows, type RowFormats } from '../forward/narrow-rows.ts';
import type { OutputProjection } from '../forward/output-projection.ts';
import { EXPERT_MASK, expertIn, holdsExpert, layersWithExperts, SLOT_SHIFT } from './expert-slots.ts';
import { ExpertTimes } from './expert-times.ts';
import { JoinedBatches } from './joined-batches.ts';

/** That one NPU's experts serve between two looks at the rings, or before it computes its own share. */
export const DISPATCHES_PER_TURN = 64;

const OWN_ROWS: RowFormats = { there: 'f32', back: 'f32' };

/** The NPU's part in what its DP domains do together (turns.ts, micro-batches.ts). */
export type Turns = { readonly takePart: () => boolean; readonly reseat: () => void };

export class ExpertService {
  readonly forward: ExpertArithmetic;
  readonly exchange: Exchange;
  /** Of what its experts have computed. */
  readonly times: ExpertTimes;
  readonly #space: AddressSpace;
  readonly #words: Int32Array;
  readonly #projection: OutputProjection | null;
  readonly #rows: DispatchedRows;
  readonly #checks: DispatchChecks;
  readonly #turns: Turns | null;
  /** What it computes together; null beside attention, where each dispatch is computed by itself. */
  readonly batches: JoinedBatches | null;
  /** Null: nothing is captured. */
  graphs: Pick<StepGraphs, 'serve'> | null = null;
  /** Received, not computed: in the order in which they came. */
  readonly #waiting: ArrivedDispatch[] = [];
  readonly #waiting_max: number;
  readonly #batch: ArrivedDispatch[] = [];

  /** `turns`: in place of dispatches, where DP domains are at the experts in turn. */
  constructor(
    forward: ExpertArithmetic,
    space: AddressSpace,
    exchange: Exchange,
    projection: OutputProjection | null = null,
    turns: Turns | null = null,
    times = new ExpertTimes(),
  ) {
    this.times = times;
    this.forward = forward;
    this.exchange = exchange;
    this.#space = space;
    this.#words = space.wordsOf(forward.layout.base);
    this.#projection = projection;
    this.#turns = turns;
    const { computed } = forward.at;
    this.#rows = new DispatchedRows(forward, space);
    this.batches = computed === undefined ? null : new JoinedBatches(forward, space, this.#rows, this.times, computed);
    this.#waiting_max = this.batches === null ? 1 : Number.POSITIVE_INFINITY;
    this.#checks = { pairsOf: this.pairsOf, rowsOf: projection?.rowsOf ?? (() => Number.POSITIVE_INFINITY) };
  }

  get npu(): number {
    return this.forward.layout.npu;
  }

  get self(): Address {
    return address('npu', this.npu);
  }

  /**
   * Answers what has arrived, from whom ever and of whichever layer, up to a bound. How many dispatches there were; the bound itself: there may be more. In three streams
   * (xDeepServe §5.2), each of which goes only as far as it need not wait: what has come is received, what is due first of it is computed with all else of the same layer,
   * and that is sent. What comes meanwhile may go with the next.
   */
  serve(limit: number): number {
    // A round is as many rows as a domain has.
    if (this.#turns !== null) return this.#turns.takePart() ? limit : 0;
    let received = 0;
    do received += this.#receive(limit - received);
    while (this.#computeNext());
    return received;
  }

  #receive(limit: number): number {
    let received = 0;
    while (received < limit && this.#waiting.length < this.#waiting_max) {
      const dispatch = this.exchange.nextDispatch(this.#checks);
      if (dispatch === null) break;
      this.#waiting.push(dispatch);
      received++;
    }
    return received;
  }

  /** False: nothing waits. */
  #computeNext(): boolean {
    const next = this.#nextDue();
    if (next === null) return false;
    const batch = this.#batch;
    batch.length = 0;
    let kept = 0;
    for (const dispatch of this.#waiting) {
      if (dispatch !== next && (dispatch.kind !== next.kind || dispatch.layer !== next.layer)) this.#waiting[kept++] = dispatch;
      // Who has given it up may have the room for its answer in use already, for what it has asked on the other lane.
      else if (this.exchange.isWanted(dispatch)) batch.push(dispatch);
    }
    this.#waiting.length = kept;
    const isDone = batch.length > 1 && this.#computesTogether(batch);
    for (const dispatch of batch) this.exchange.answer(dispatch, isDone ? 'computed' : this.#compute(dispatch));
    return true;
  }

  /** The first that came of those that are due at once. */
  #nextDue(): ArrivedDispatch | null {
    let next: ArrivedDispatch | null = null;
    for (const dispatch of this.#waiting) if (next === null || isDueBefore(dispatch.due, next.due)) next = dispatch;
    return next;
  }

  /** False: one of them is refused, or it failed at one. Then each is looked at by itself. */
  #computesTogether(batch: readonly ArrivedDispatch[]): boolean {
    const { batches } = this;
    assert(batches, `NPU ${this.npu} computes dispatches one by one`);
    const asked = batch.filter((dispatch) => dispatch.kind === 'tokens');
    if (!asked.every((dispatch) => this.holds(dispatch))) return false;
    try {
      batches.compute(asked);
      return true;
    } catch (error) {
      if (error instanceof UnsoundMemory) throw error;
      return false;
    }
  }

  /** Where it fails, that is the asker's step to fail; this NPU and all others go on. */
  #compute(dispatch: ArrivedDispatch): Verdict {
    try {
      const reply = this.forward.layout.areas.reply + dispatch.replyOffset;
      if (dispatch.kind === 'tokens') {
        if (!this.holds(dispatch)) return 'refused';
        if (!this.#isCaptured(dispatch, reply)) this.compute(dispatch, reply, dispatch.pairs, this.#rows.formats);
      } else {
        assert(this.#projection, `NPU ${this.npu} was asked for columns of an output projection`);
        this.#projection.compute(dispatch, reply);
        this.forward.guard.weights?.pieces();
      }
      return 'computed';
    } catch (error) {
      // Not its asker's step alone: whatever else is asked of these weights comes of them too.
      if (error instanceof UnsoundMemory) throw error;
      return 'failed';
    }
  }

  /** Computed in one call; false: it is to be computed expert by expert, as what is timed, looked at or narrowed in between is, too. */
  #isCaptured(dispatch: TokenDispatch & Arrived, reply: number): boolean {
    const { there, back } = this.#rows.formats;
    const isPlain = there === 'f32' && back === 'f32' && this.forward.guard.weights === null && this.times.begin() < 0;
    return isPlain && this.graphs?.serve(dispatch, reply, dispatch.pairs) === true;
  }

  /** Members of its domains may have moved, or have been given up. */
  reseat(): void {
    this.#turns?.reseat();
  }

  /** Each of its slots once, on one row, as before the first request: what comes of it is nobody's. */
  rehearse(): void {
    const { config, layout, at } = this.forward;
    for (const layer of layersWithExperts(config))
      for (let slot = 0; slot < layout.expertSlots.each; slot++)
        if (this.expertIn(layer, slot) >= 0) this.forward.expert(layer, slot, offsetOf(layout.areas.reply), at.gathered, 1);
  }

  /** What a slot holds; −1: nothing. */
  expertIn(layer: number, slot: number): number {
    const { layout } = this.forward;
    return expertIn(this.#words, layout.expertSlots, layer, slot);
  }

  /** Experts in this NPU's slots, ascending. */
  expertsHeld(layer: number): number[] {
    const { expertSlots } = this.forward.layout;
    const held = Array.from({ length: expertSlots.rank < 0 ? 0 : expertSlots.each }, (_, slot) => this.expertIn(layer, slot));
    return [...new Set(held.filter((expert) => expert >= 0))].sort((a, b) => a - b);
  }

  /** This NPU's slots hold what the dispatch asks them for. Else it is refused: nobody computes with another expert's weights. */
  holds({ layer, epoch, segments, segmentsAddress }: TokenDispatch): boolean {
    const { config, layout } = this.forward;
    const table = this.#space.wordsOf(segmentsAddress);
    for (let segment = 0, word = offsetOf(segmentsAddress) >>> 2; segment < segments; segment++, word += 2) {
      const key = table[word] as number;
      const expert = key & EXPERT_MASK;
      // The shared expert never moves.
      if (expert !== config.moe.experts && !holdsExpert(this.#words, layout.expertSlots, layer, key >>> SLOT_SHIFT, expert, epoch)) return false;
    }
    return true;
  }

  /** Pairs that a dispatch's table announces; infinity if it cannot be one of ours. */
  readonly pairsOf = ({ segments, segmentsAddress }: TokenDispatch): number => {
    const table = this.#space.wordsOf(segmentsAddress);
    let pairs = 0;
    for (let segment = 0, word = offsetOf(segmentsAddress) >>> 2; segment < segments; segment++, word += 2) {
      const count = table[word + 1] as number;
      if (count < 0 || count > this.forward.layout.rows_max) return Number.POSITIVE_INFINITY;
      pairs += count;
    }
    return pairs;
  };

  /** Tells of each expert that a dispatch's table names. Its asker may be writing it anew: then what is told is neither the one nor the other. */
  lookInto({ segments, segmentsAddress }: TokenDispatch, tell: (expert: number, pairs: number) => void): void {
    const table = this.#space.wordsOf(segmentsAddress);
    for (let segment = 0, word = offsetOf(segmentsAddress) >>> 2; segment < segments; segment++, word += 2)
      tell((table[word] as number) & EXPERT_MASK, table[word + 1] as number);
  }

  /**
   * Computes a dispatch with this NPU's experts: pulls the rows from where they lie, and writes one row per (token, expert) to `reply`, which is in this
   * NPU's own region and holds `pairs` of them. `formats`: of rows there and here; missing: they are this NPU's own, as they are computed.
   */
  compute(dispatch: TokenDispatch, reply: number, pairs: number, { there, back }: RowFormats = OWN_ROWS): void {
    const { at, layout } = this.forward;
    const rowBytes = layout.row_bytes;
    const isNear = there === 'f32' && segmentOf(dispatch.rowsAddress) === segmentOf(layout.base);
    const table = this.#space.wordsOf(dispatch.segmentsAddress);
    let word = offsetOf(dispatch.segmentsAddress) >>> 2;
    let pairRows = offsetOf(dispatch.pairRowsAddress);
    let row = 0;
    let left = pairs;
    let began_us = this.times.begin();
    for (let segment = 0; segment < dispatch.segments; segment++, word += 2) {
      const key = table[word] as number;
      const slot = key >>> SLOT_SHIFT;
      const count = table[word + 1] as number;
      // The asker may have given the step up and be writing the next one's tables here: then the answer is for nobody, but must stay inside its room.
      left -= count;
      if (count < 0 || count > layout.rows_max || left < 0) invariantBroken(`NPU ${layout.npu} was asked for more than ${pairs} rows`);
      // A single row is read where it lies.
      const isAlone = isNear && count === 1;
      if (!isAlone) this.#rows.gather(at.gathered, dispatch.rowsAddress, table, pairRows, count, there);
      const x = isAlone ? offsetOf(dispatch.rowsAddress) + (table[pairRows >>> 2] as number) * rowBytes : at.gathered;
      if (back === 'f32') this.forward.expert(dispatch.layer, slot, offsetOf(reply) + row * rowBytes, x, count);
      else {
        this.forward.expert(dispatch.layer, slot, at.gathered, x, count);
        this.#rows.leave(offsetOf(reply), pairs, row, at.gathered, count);
      }
      if (began_us >= 0) began_us = this.times.add(dispatch.layer, key & EXPERT_MASK, count, began_us);
      pairRows += count * 4;
      row += count;
    }
  }
}
