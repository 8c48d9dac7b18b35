/**
 * Which expert computes which token: the gate's choice, sorted by (NPU, expert, token), and the experts' side of a dispatch.
 * @module
 */
import { offsetOf, segmentOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { assert } from '../protocol/errors.ts';
import { type ExpertGroup, npuOfExpert } from '../protocol/topology.ts';
import type { TokenDispatch } from '../xccl/exchange.ts';
import type { Arithmetic } from './arithmetic.ts';
import { ExpertTimes } from './expert-times.ts';

/** The part of a step's pairs that goes to one NPU. */
export type Share = { readonly npu: number; readonly firstSegment: number; readonly segments: number; readonly firstPair: number; readonly pairs: number };

export class ExpertBatches {
  readonly #forward: Arithmetic;
  readonly #space: AddressSpace;
  readonly #group: ExpertGroup;
  readonly #words: Int32Array;
  /** Expert ids by (NPU, id). */
  readonly #order: readonly number[];
  readonly #start: Int32Array;
  /** Of what `compute` has computed. */
  readonly times = new ExpertTimes();

  constructor(forward: Arithmetic, space: AddressSpace, group: ExpertGroup) {
    this.#forward = forward;
    this.#space = space;
    this.#group = group;
    this.#words = space.wordsOf(forward.layout.base);
    const experts = forward.config.moe.experts;
    this.#order = Array.from({ length: experts }, (_, expert) => expert).sort((a, b) => npuOfExpert(a, group) - npuOfExpert(b, group) || a - b);
    this.#start = new Int32Array(experts + 1);
  }

  /** Sorts the pairs of `rows` tokens from `first` on (a counting sort), writes the tables and returns each NPU's share. */
  sort(rows: number, first = 0): Share[] {
    const { at, config } = this.#forward;
    const { topK } = config.moe;
    const words = this.#words;
    const start = this.#start;
    const chosen = at.experts >>> 2;
    const pairs = rows * topK;
    start.fill(0);
    for (let pair = 0; pair < pairs; pair++) (start[words[chosen + pair] as number] as number)++;
    const shares: Share[] = [];
    let share: { -readonly [field in keyof Share]: Share[field] } | null = null;
    let segment = 0;
    let next = 0;
    for (const expert of this.#order) {
      const count = start[expert] as number;
      start[expert] = next;
      if (count === 0) continue;
      const npu = npuOfExpert(expert, this.#group);
      if (share === null || share.npu !== npu) {
        share = { npu, firstSegment: segment, segments: 0, firstPair: next, pairs: 0 };
        shares.push(share);
      }
      share.segments++;
      share.pairs += count;
      words[(at.segments >>> 2) + 2 * segment] = expert;
      words[(at.segments >>> 2) + 2 * segment + 1] = count;
      segment++;
      next += count;
    }
    const pairRows = at.pairRows >>> 2;
    const rowIndices = at.rowIndices >>> 2;
    for (let row = 0, pair = 0; row < rows; row++) {
      for (let slot = 0; slot < topK; slot++, pair++) {
        const place = (start[words[chosen + pair] as number] as number)++;
        words[pairRows + place] = first + row;
        words[rowIndices + pair] = place;
      }
    }
    return shares;
  }

  /** The DISPATCH of a share: addresses in this NPU's dispatch area. */
  describe(share: Share, layer: number): TokenDispatch {
    const { segments, pairRows, normed } = this.#forward.layout.scratch;
    return {
      layer,
      segments: share.segments,
      segmentsAddress: segments + share.firstSegment * 8,
      pairRowsAddress: pairRows + share.firstPair * 4,
      rowsAddress: normed,
    };
  }

  /** Where the rows of a share's first pair belong; the others follow. */
  replyAddress({ firstPair }: Share): number {
    return this.#forward.layout.scratch.replies + firstPair * this.#forward.layout.row_bytes;
  }

  /** Pairs that a dispatch's table announces; infinity if it cannot be one of ours. */
  readonly pairsOf = ({ segments, segmentsAddress }: TokenDispatch): number => {
    const table = this.#space.wordsOf(segmentsAddress);
    let pairs = 0;
    for (let segment = 0, word = offsetOf(segmentsAddress) >>> 2; segment < segments; segment++, word += 2) {
      const count = table[word + 1] as number;
      if (count < 0 || count > this.#forward.layout.rows_max) return Number.POSITIVE_INFINITY;
      pairs += count;
    }
    return pairs;
  };

  /** Tells of each expert that a dispatch's table names. Its asker may be writing it anew: then what is told is neither the one nor the other. */
  lookInto({ segments, segmentsAddress }: TokenDispatch, tell: (expert: number, pairs: number) => void): void {
    const table = this.#space.wordsOf(segmentsAddress);
    for (let segment = 0, word = offsetOf(segmentsAddress) >>> 2; segment < segments; segment++, word += 2)
      tell(table[word] as number, table[word + 1] as number);
  }

  /**
   * Computes a dispatch with this NPU's experts: pulls the rows from where they lie, and writes one row per (token, expert) to `reply`, which is in this
   * NPU's own region and holds `pairs` of them.
   */
  compute(dispatch: TokenDispatch, reply: number, pairs: number): void {
    const { at, layout } = this.#forward;
    const rowBytes = layout.row_bytes;
    const isNear = segmentOf(dispatch.rowsAddress) === segmentOf(layout.base);
    const table = this.#space.wordsOf(dispatch.segmentsAddress);
    let word = offsetOf(dispatch.segmentsAddress) >>> 2;
    let pairRows = offsetOf(dispatch.pairRowsAddress);
    let target = offsetOf(reply);
    let left = pairs;
    let began_us = this.times.begin();
    for (let segment = 0; segment < dispatch.segments; segment++, word += 2) {
      const expert = table[word] as number;
      const count = table[word + 1] as number;
      // The asker may have given the step up and be writing the next one's tables here: then the answer is for nobody, but must stay inside its room.
      left -= count;
      if (count < 0 || count > layout.rows_max || left < 0) assert(false, `NPU ${layout.npu} was asked for more than ${pairs} rows`);
      if (!isNear) {
        for (let pair = 0; pair < count; pair++)
          this.#space.copy(layout.scratch.gathered + pair * rowBytes, dispatch.rowsAddress + (table[(pairRows >>> 2) + pair] as number) * rowBytes, rowBytes);
        this.#forward.expert(dispatch.layer, expert, target, at.gathered, count);
      } else if (count === 1) {
        const row = table[pairRows >>> 2] as number;
        this.#forward.expert(dispatch.layer, expert, target, offsetOf(dispatch.rowsAddress) + row * rowBytes, 1);
      } else {
        this.#forward.gatherRows(at.gathered, offsetOf(dispatch.rowsAddress), pairRows, count);
        this.#forward.expert(dispatch.layer, expert, target, at.gathered, count);
      }
      if (began_us >= 0) began_us = this.times.add(dispatch.layer, expert, count, began_us);
      pairRows += count * 4;
      target += count * rowBytes;
    }
  }
}
