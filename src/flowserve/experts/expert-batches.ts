/**
 * Which slot computes which token: the gate's choice by the expert map, sorted by (NPU, slot, token). Where another NPU computes the shared expert, that comes
 * after the slots, and that NPU is the last: so the rows of all tokens' shared experts are the last answers, whoever else is asked.
 * @module
 */
import type { ExpertMap } from '../../../actors/policies/expert-placement/expert-map.ts';
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { ExpertGroup } from '../../protocol/topology.ts';
import type { TokenDispatch } from '../../xccl/exchange.ts';
import type { Block } from '../../xccl/row-sums.ts';
import type { Arithmetic } from '../forward/arithmetic.ts';
import { sentFrom } from '../forward/narrow-rows.ts';
import type { Range } from '../forward/tensor-share.ts';
import { fillEvenExperts } from './average-routing.ts';
import { ExpertRouting } from './expert-routing.ts';
import { EXPERT_MASK, type ExpertSlots, SLOT_SHIFT, slotByMap } from './expert-slots.ts';

/** The part of a step's pairs that goes to one NPU. */
export type Share = { readonly npu: number; readonly firstSegment: number; readonly segments: number; readonly firstPair: number; readonly pairs: number };
type GrowingShare = { -readonly [field in keyof Share]: Share[field] };

/** The group's NPUs, the one after `last` first; null: in their order. */
export const npusInTurn = ({ first, npus }: ExpertGroup, last: number | null): readonly number[] =>
  Array.from({ length: npus }, (_, index) => first + (last === null ? index : (last + 1 - first + index) % npus));

export class ExpertBatches {
  readonly routing: ExpertRouting;
  /** Slots are in their order from this one on, and round: the first of the NPU after the one that computes the shared expert. */
  readonly firstSlot: number;
  readonly #forward: Arithmetic;
  readonly #slots: ExpertSlots;
  readonly #words: Int32Array;
  /** By slot of the group. */
  readonly #start: Int32Array;
  /** NPUs that are lost: what they were asked goes elsewhere, where the map says so. */
  readonly lost: ReadonlySet<number>;
  /** Of the dispatch area, those of the micro-batch before. */
  readonly rowsBefore: number;

  /**
   * `map`: what the group's slots hold; missing: what they do where none is redundant. `first`: of a second micro-batch, the batches of the first, whose routing
   * they share, and how many rows of the dispatch area come before its own.
   */
  constructor(
    forward: Arithmetic,
    space: AddressSpace,
    map?: ExpertMap,
    lost: ReadonlySet<number> = new Set(),
    first?: { readonly batches: ExpertBatches; readonly rows: number },
  ) {
    const { expertSlots, sharedNpu, evenExperts, rows_max } = forward.layout;
    if (evenExperts !== null) fillEvenExperts(forward.config, evenExperts, rows_max, space);
    this.#forward = forward;
    this.#slots = expertSlots;
    this.#words = space.wordsOf(forward.layout.base);
    this.#start = new Int32Array(expertSlots.total);
    this.firstSlot = ((npusInTurn(expertSlots.group, sharedNpu)[0] as number) - expertSlots.group.first) * expertSlots.each;
    this.routing = first?.batches.routing ?? new ExpertRouting(forward.config, forward.layout, space, map);
    this.lost = lost;
    this.rowsBefore = first?.rows ?? 0;
  }

  /** Sorts the pairs of `rows` tokens from `first` on (a counting sort), writes the tables and returns each NPU's share. */
  sort(layer: number, rows: number, first = 0): Share[] {
    const { at, config } = this.#forward;
    const { topK, experts } = config.moe;
    const { group, each, total, spread } = this.#slots;
    const words = this.#words;
    const start = this.#start;
    const chosen = at.experts >>> 2;
    const rowIndices = at.rowIndices >>> 2;
    const map = this.#map(layer);
    const expertOfSlot = map + experts + 1 + total;
    start.fill(0);
    for (let row = 0, pair = 0; row < rows; row++) {
      const position = this.rowsBefore + first + row + spread;
      for (let choice = 0; choice < topK; choice++, pair++) {
        const slot = slotByMap(words, map, experts, words[chosen + pair] as number, position);
        words[rowIndices + pair] = slot;
        (start[slot] as number)++;
      }
    }
    const shares: Share[] = [];
    let share: GrowingShare | null = null;
    let segment = 0;
    let next = 0;
    for (let turn = 0, slot = this.firstSlot; turn < total; turn++, slot = slot + 1 === total ? 0 : slot + 1) {
      const count = start[slot] as number;
      start[slot] = next;
      if (count === 0) continue;
      const rank = Math.floor(slot / each);
      if (share === null || share.npu !== group.first + rank) {
        share = { npu: group.first + rank, firstSegment: segment, segments: 0, firstPair: next, pairs: 0 };
        shares.push(share);
      }
      share.segments++;
      share.pairs += count;
      words[(at.segments >>> 2) + 2 * segment] = ((slot - rank * each) << SLOT_SHIFT) | (words[expertOfSlot + slot] as number);
      words[(at.segments >>> 2) + 2 * segment + 1] = count;
      segment++;
      next += count;
    }
    const pairRows = at.pairRows >>> 2;
    for (let row = 0, pair = 0; row < rows; row++) {
      for (let choice = 0; choice < topK; choice++, pair++) {
        const place = (start[words[rowIndices + pair] as number] as number)++;
        words[pairRows + place] = this.rowsBefore + first + row;
        words[rowIndices + pair] = place;
      }
    }
    this.addShared(shares, rows, first);
    return shares;
  }

  /** Where another NPU computes the shared expert: all rows from `first` on, beside what is routed there. */
  addShared(shares: Share[], rows: number, first: number): void {
    const { at, config, layout } = this.#forward;
    const { sharedNpu: npu, expertSlots } = layout;
    if (npu === null) return;
    const words = this.#words;
    const pairs = rows * config.moe.topK;
    const last = shares.at(-1);
    const before = last ?? { firstSegment: 0, segments: 0 };
    const segment = before.firstSegment + before.segments;
    words[(at.segments >>> 2) + 2 * segment] = (expertSlots.each << SLOT_SHIFT) | config.moe.experts;
    words[(at.segments >>> 2) + 2 * segment + 1] = rows;
    for (let row = 0, place = (at.pairRows >>> 2) + pairs; row < rows; row++) words[place++] = this.rowsBefore + first + row;
    if (last?.npu === npu) shares[shares.length - 1] = { ...last, segments: last.segments + 1, pairs: last.pairs + rows };
    else shares.push({ npu, firstSegment: segment, segments: 1, firstPair: pairs, pairs: rows });
  }

  /**
   * The same pairs by the present map, for a share that was refused: its segments stay where they are, and each goes to a slot that holds its expert now.
   * Those that go to one NPU, one after the other, are one share.
   */
  sortAgain(layer: number, { firstSegment, segments, firstPair }: Share): Share[] {
    const words = this.#words;
    const { experts } = this.#forward.config.moe;
    const { group, each } = this.#slots;
    const table = this.#forward.at.segments >>> 2;
    const shares: Share[] = [];
    let share: GrowingShare | null = null;
    let next = firstPair;
    for (let segment = firstSegment; segment < firstSegment + segments; segment++) {
      const expert = (words[table + 2 * segment] as number) & EXPERT_MASK;
      const slot = this.#slotNow(layer, expert);
      const npu = slot < 0 ? (this.#sharedNow as number) : group.first + Math.floor(slot / each);
      if (expert !== experts) words[table + 2 * segment] = ((slot % each) << SLOT_SHIFT) | expert;
      if (share === null || share.npu !== npu) {
        share = { npu, firstSegment: segment, segments: 0, firstPair: next, pairs: 0 };
        shares.push(share);
      }
      const pairs = words[table + 2 * segment + 1] as number;
      share.segments++;
      share.pairs += pairs;
      next += pairs;
    }
    return shares;
  }

  /** Of a share that a lost NPU was to compute: others have some of it by the present map. */
  mayMove(layer: number, { firstSegment, segments }: Share): boolean {
    const table = this.#forward.at.segments >>> 2;
    const { group, each } = this.#slots;
    for (let segment = firstSegment; segment < firstSegment + segments; segment++) {
      const slot = this.#slotNow(layer, (this.#words[table + 2 * segment] as number) & EXPERT_MASK);
      if (!this.lost.has(slot < 0 ? (this.#sharedNow as number) : group.first + Math.floor(slot / each))) return true;
    }
    return false;
  }

  /** Of the group; −1: of the shared expert. */
  #slotNow(layer: number, expert: number): number {
    const { experts } = this.#forward.config.moe;
    return expert === experts ? -1 : slotByMap(this.#words, this.#map(layer), experts, expert, this.#slots.spread);
  }

  /** Where the shared expert is computed: another one that has it, where its own is lost. */
  get #sharedNow(): number | null {
    const { sharedNpu, sharedNpus } = this.#forward.layout;
    return sharedNpu !== null && this.lost.has(sharedNpu) ? (sharedNpus.find((npu) => !this.lost.has(npu)) ?? sharedNpu) : sharedNpu;
  }

  /** Index of a layer's map. */
  #map(layer: number): number {
    return offsetOf(this.#slots.maps[layer] ?? 0) >>> 2;
  }

  /** The DISPATCH of a share: addresses in this NPU's dispatch area. */
  describe(share: Share, layer: number): TokenDispatch {
    const { segments, pairRows, normed } = this.#forward.layout.scratch;
    return {
      layer,
      epoch: this.routing.epoch,
      segments: share.segments,
      segmentsAddress: segments + share.firstSegment * 8,
      pairRowsAddress: pairRows + share.firstPair * 4,
      rowsAddress: normed,
    };
  }

  /** As they travel, of a step's rows those that this NPU asks the experts for. */
  sent({ first, count }: Range): readonly Block[] {
    const { scratch, row_bytes, narrow } = this.#forward.layout;
    if (narrow.there === 'f32') return [{ address: scratch.normed + first * row_bytes, bytes: count * row_bytes }];
    const { scales, rows } = sentFrom(scratch, first, row_bytes / 4);
    return [
      { address: scales, bytes: 4 * count },
      { address: rows, bytes: (count * row_bytes) / 4 },
    ];
  }

  /** Where the rows of a share's first pair belong; the others follow. */
  replyAddress({ firstPair }: Share): number {
    return this.#forward.layout.scratch.replies + firstPair * this.#forward.layout.row_bytes;
  }
}
