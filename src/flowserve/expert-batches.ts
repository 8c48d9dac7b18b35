/**
 * Which expert computes which token: the gate's choice, sorted by (NPU, expert, token). Where another NPU computes the shared expert, that is the last of its
 * experts, and it is the last of the NPUs: so the rows of all tokens' shared experts are the last answers, whoever else is asked.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import { type ExpertGroup, npuOfExpert } from '../protocol/topology.ts';
import type { TokenDispatch } from '../xccl/exchange.ts';
import type { Arithmetic } from './arithmetic.ts';

/** The part of a step's pairs that goes to one NPU. */
export type Share = { readonly npu: number; readonly firstSegment: number; readonly segments: number; readonly firstPair: number; readonly pairs: number };

/** The group's NPUs, the one after `last` first; null: in their order. */
export const npusInTurn = ({ first, npus }: ExpertGroup, last: number | null): readonly number[] =>
  Array.from({ length: npus }, (_, index) => first + (last === null ? index : (last + 1 - first + index) % npus));

/** Expert ids by NPU, in the same turn, and id. */
export const expertsInTurn = (experts: number, group: ExpertGroup, last: number | null): readonly number[] =>
  npusInTurn(group, last).flatMap((npu) => Array.from({ length: experts }, (_, expert) => expert).filter((expert) => npuOfExpert(expert, group) === npu));

export class ExpertBatches {
  readonly #forward: Arithmetic;
  readonly #group: ExpertGroup;
  readonly #words: Int32Array;
  /** Expert ids by (NPU in turn, id). */
  readonly #order: readonly number[];
  readonly #start: Int32Array;

  constructor(forward: Arithmetic, space: AddressSpace, group: ExpertGroup) {
    this.#forward = forward;
    this.#group = group;
    this.#words = space.wordsOf(forward.layout.base);
    const { experts } = forward.config.moe;
    this.#order = expertsInTurn(experts, group, forward.layout.sharedNpu);
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
    this.addShared(shares, rows, first);
    return shares;
  }

  /** Where another NPU computes the shared expert: all rows from `first` on, beside what is routed there. */
  addShared(shares: Share[], rows: number, first: number): void {
    const { at, config, layout } = this.#forward;
    const { sharedNpu: npu } = layout;
    if (npu === null) return;
    const words = this.#words;
    const pairs = rows * config.moe.topK;
    const last = shares.at(-1);
    const before = last ?? { firstSegment: 0, segments: 0 };
    const segment = before.firstSegment + before.segments;
    words[(at.segments >>> 2) + 2 * segment] = config.moe.experts;
    words[(at.segments >>> 2) + 2 * segment + 1] = rows;
    for (let row = 0, place = (at.pairRows >>> 2) + pairs; row < rows; row++) words[place++] = first + row;
    if (last?.npu === npu) shares[shares.length - 1] = { ...last, segments: last.segments + 1, pairs: last.pairs + rows };
    else shares.push({ npu, firstSegment: segment, segments: 1, firstPair: pairs, pairs: rows });
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
}
