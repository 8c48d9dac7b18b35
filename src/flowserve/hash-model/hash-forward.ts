/**
 * The hash model (DESIGN.md, third promise): the forward pass where kernels are skipped. A row of activations, a KV cell and an expert's answer are each
 * one 64-bit hash of all that the real one depends on; they lie where the real ones lie and travel as these do. So a lost dispatch, a stale block,
 * a wrong expert or weights of another version change the tokens that follow, and nothing else does.
 *
 *   x       = H(token, position, W)                              embed
 *   cell    = H(layer, position, W, x)                           into the sequence's block
 *   x       = H(layer, W, cell 0 … cell position, x)             attention, read through the block table
 *   normed  = H(layer, W, x)
 *   x       = H(layer, W, normed, x)                             dense layer
 *   reply e = H(layer, e, W of e, normed)                        on an NPU that has e in a slot
 *   x       = H(layer, W, x, (reply e, weight of e) by id, H(layer, W, normed))
 *   x       = H(layer, W, next token, x)                         input of an MTP layer, whose row of position i is at i + 1
 *   token   = H(H(W, x), position, seed and choice where it samples) mod vocabulary           hash-sampler.ts
 *
 * Experts are chosen evenly: no groups, no skew. Nothing here allocates.
 *
 * Split over ranks, each computes a row's hash from what it has and offers it in a column of its own; the row is the join of what all of them offer, which
 * is what any of them offers, so long as all agree. After a layer of experts each rank has rows of its own, as the real ones do.
 * NPUs that split their output projection offer each H(layer, W, row that attention has left) in the same way: while they agree, that row is the next x.
 * @module
 */

import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { assert } from '../../protocol/errors.ts';
import type { WireKernels } from '../../xccl/wire-format.ts';
import { evenExpertsAt } from '../experts/average-routing.ts';
import type { MaskedExperts } from '../experts/masked-experts.ts';
import { routedAt } from '../experts/routed-steps.ts';
import type { Arithmetic, GuardSeat, Span, TokenSampler } from '../forward/arithmetic.ts';
import { GatherTables, type TablePlace } from '../forward/tensor-share.ts';
import type { ModelShape, ProjectedColumns, ProjectionPlace } from '../layouts/step-layout.ts';
import { doWithout } from './gate-without.ts';
import { Hash, mix32 } from './hash.ts';
import { HashExperts } from './hash-experts.ts';
import { HASH_BYTES, type HashLayout, type HashScratch } from './hash-layout.ts';
import { HashSampler } from './hash-sampler.ts';

/** 17 and 18 are experts' (hash-experts.ts). */
const KIND = { embed: 11, cell: 12, attention: 13, norm: 14, dense: 15, gate: 16, combine: 19, head: 20, projection: 21, foresee: 22 } as const;
/** 2³² divided by the golden ratio: steps of a Weyl sequence, as in SplitMix. */
const GOLDEN = 0x9e3779b9;

/** Indices of the rows that NPUs have projected, from the NPU's own on. */
const projectedOf = ({ share, columns }: ProjectionPlace): number[] =>
  columns.map((_, after) => offsetOf((columns[(share.rank + after) % columns.length] as ProjectedColumns).target) >>> 2);

export class HashForward implements Arithmetic {
  masked: MaskedExperts | null = null;
  readonly config: ModelShape;
  readonly layout: HashLayout;
  /** Offsets within the NPU's segment. */
  readonly at: HashScratch;
  readonly #space: AddressSpace;
  readonly #words: Int32Array;
  readonly #floats: Float32Array;
  readonly #hash = new Hash();
  readonly #drawn = new Int32Array(2);
  /** Index of the replicated weights. */
  readonly #weights: number;
  readonly #experts: HashExperts;
  readonly tables: GatherTables;
  readonly guard: GuardSeat;
  readonly #rank: number;
  /** Words of a row of a table that ranks gather. */
  readonly #stride: number;
  /** Empty where the output projection is not split. */
  readonly #projected: readonly number[];

  constructor(config: ModelShape, layout: HashLayout, space: AddressSpace) {
    assert(segmentOf(layout.base + layout.bytes - 1) === segmentOf(layout.base), `the region of NPU ${layout.npu} spans segments`);
    this.config = config;
    this.layout = layout;
    this.at = Object.fromEntries(Object.entries(layout.scratch).map(([name, address]) => [name, offsetOf(address)])) as HashScratch;
    this.#space = space;
    this.#words = space.wordsOf(layout.base);
    this.#floats = space.floatsOf(layout.base);
    this.#weights = offsetOf(layout.weights) >>> 2;
    this.#experts = new HashExperts(config, { ...layout, hasShared: layout.sharedNpu === null && config.moe.sharedExperts > 0 }, space);
    this.guard = this.#experts.guard;
    const { rank, tp } = layout.share;
    this.#rank = rank;
    this.#stride = 2 * tp;
    const columns = (address: number): TablePlace => ({ address, width: tp, unit: 1, column_bytes: HASH_BYTES });
    const { attended, projected, activated, rows, logits } = layout.scratch;
    const perRow = { attended: columns(attended), projected: columns(projected), activated: columns(activated), logits: columns(logits) };
    this.tables = new GatherTables(tp, { ...perRow, rows: { ...columns(rows), width: 1 } });
    this.#projected = layout.projection === null ? [] : projectedOf(layout.projection);
  }

  embed(rows: number): void {
    const words = this.#words;
    const x = this.at.x >>> 2;
    const tokens = this.at.tokenIds >>> 2;
    const positions = this.at.positions >>> 2;
    for (let row = 0; row < rows; row++) {
      this.#begin(KIND.embed, words[tokens + row] as number, words[positions + row] as number);
      this.#hash.write(words, x + 2 * row);
    }
  }

  /** Each span's cells are read once a layer, in every step, for all of its rows: a row's hash goes on where the row before it ended. */
  attention(layer: number, _rows: number, spans: readonly Span[]): void {
    this.#attendInto(this.at.x >>> 2, 2, layer, spans);
  }

  attend(layer: number, _rows: number, spans: readonly Span[]): void {
    this.#attendInto(this.#offer(this.at.attended), this.#stride, layer, spans);
  }

  project(_layer: number, rows: number): void {
    this.#join(this.#offer(this.at.projected), this.#stride, this.at.attended, rows);
  }

  projectColumns(layer: number, rows: number, y: number, x: number): void {
    this.#hashRows(KIND.projection, layer, y, x, rows);
  }

  addProjected(rows: number): void {
    if (this.#projected.length > 0) this.#joinColumns(rows);
    else this.#join(this.at.x >>> 2, 2, this.at.projected, rows);
  }

  activate(layer: number, rows: number): void {
    this.#denseInto(this.#offer(this.at.activated), this.#stride, layer, rows);
  }

  down(_layer: number, rows: number): void {
    this.#join(this.#offer(this.at.projected), this.#stride, this.at.activated, rows);
  }

  keepRows(rows: number, first: number): void {
    this.#words.copyWithin((this.at.rows >>> 2) + 2 * first, (this.at.x >>> 2) + 2 * first, (this.at.x >>> 2) + 2 * (first + rows));
  }

  takeRows(rows: number): void {
    this.#words.copyWithin(this.at.x >>> 2, this.at.rows >>> 2, (this.at.rows >>> 2) + 2 * rows);
  }

  /** Index of this rank's column in a table's first row. */
  #offer(table: number): number {
    return (table >>> 2) + 2 * this.#rank;
  }

  /** Rows at `target`, `stride` words apart, from a table: what this rank offers there, changed by whatever another one offers that is not the same. */
  #join(target: number, stride: number, table: number, rows: number): void {
    const words = this.#words;
    for (let row = 0, from = table >>> 2, to = target; row < rows; row++, from += this.#stride, to += stride) {
      const [own, ownHigh] = [from + 2 * this.#rank, from + 2 * this.#rank + 1];
      let low = words[own] as number;
      let high = words[ownHigh] as number;
      for (let other = from; other < from + this.#stride; other += 2) {
        low = (low + mix32((words[other] as number) ^ (words[own] as number))) | 0;
        high = (high + mix32((words[other + 1] as number) ^ (words[ownHigh] as number))) | 0;
      }
      words[to] = low;
      words[to + 1] = high;
    }
  }

  /** x = attended, changed by whatever another NPU has projected that is not the same. */
  #joinColumns(rows: number): void {
    const words = this.#words;
    const [own = 0] = this.#projected;
    const x = this.at.x >>> 2;
    const attended = this.at.attended >>> 2;
    for (let word = 0; word < 2 * rows; word++) {
      let joined = words[attended + word] as number;
      for (let at = 1; at < this.#projected.length; at++)
        joined = (joined + mix32((words[(this.#projected[at] as number) + word] as number) ^ (words[own + word] as number))) | 0;
      words[x + word] = joined;
    }
  }

  writeCells(layer: number, _rows: number, spans: readonly Span[]): void {
    for (const span of spans) this.#store(layer, span);
  }

  #attendInto(target: number, stride: number, layer: number, spans: readonly Span[]): void {
    this.writeCells(layer, 0, spans);
    for (const span of spans) this.#attend(target, stride, layer, span);
  }

  #store(layer: number, { slot, row: first, rows, kept = 0 }: Span): void {
    const words = this.#words;
    const x = this.at.x >>> 2;
    const positions = this.at.positions >>> 2;
    for (let row = first + kept; row < first + rows; row++) {
      const position = words[positions + row] as number;
      this.#begin(KIND.cell, layer, position);
      this.#hash.absorb(words[x + 2 * row] as number, words[x + 2 * row + 1] as number);
      this.#hash.write(words, this.#cell(slot, layer, position));
    }
  }

  #attend(target: number, stride: number, layer: number, { slot, row: first, rows, from = 0 }: Span): void {
    const hash = this.#hash;
    const words = this.#words;
    const { block_size } = this.layout.kv;
    const x = this.at.x >>> 2;
    const positions = this.at.positions >>> 2;
    this.#begin(KIND.attention, layer, 0);
    let read = from;
    for (let row = first; row < first + rows; row++) {
      const end = (words[positions + row] as number) + 1;
      while (read < end) {
        const count = Math.min(end - read, block_size - (read % block_size));
        hash.absorbPairs(words, this.#cell(slot, layer, read), count);
        read += count;
      }
      const at = x + 2 * row;
      hash.writeWith(words[at] as number, words[at + 1] as number, words, target + stride * row);
    }
  }

  /** Index of a position's cell, through the block table. */
  #cell(slot: number, layer: number, position: number): number {
    const { kv, blockTables } = this.layout;
    const block = Math.floor(position / kv.block_size);
    const table = offsetOf(blockTables.address) >>> 2;
    const offset = this.#words[table + slot * blockTables.blocks_max + block] as number;
    return (offset >>> 2) + ((layer * kv.layer_bytes) >>> 2) + 2 * (position - block * kv.block_size);
  }

  postNorm(layer: number, rows: number, first = 0): void {
    this.#hashRows(KIND.norm, layer, this.at.normed + HASH_BYTES * first, this.at.x + HASH_BYTES * first, rows);
  }

  dense(layer: number, rows: number): void {
    this.#denseInto(this.at.x >>> 2, 2, layer, rows);
  }

  #denseInto(target: number, stride: number, layer: number, rows: number): void {
    const words = this.#words;
    const x = this.at.x >>> 2;
    const normed = this.at.normed >>> 2;
    for (let row = 0; row < rows; row++) {
      this.#begin(KIND.dense, layer, 0);
      this.#hash.absorb(words[normed + 2 * row] as number, words[normed + 2 * row + 1] as number);
      this.#hash.absorb(words[x + 2 * row] as number, words[x + 2 * row + 1] as number);
      this.#hash.write(words, target + stride * row);
    }
  }

  /** Each row's experts: a sample without replacement (R. Floyd, in J. Bentley, "A sample of brilliance", CACM 30 (9), 1987), kept in order by insertion. */
  gate(layer: number, rows: number, first = 0): void {
    const words = this.#words;
    const { experts, topK } = this.config.moe;
    const counts = this.layout.counts[layer];
    assert(counts, `layer ${layer} has no experts`);
    const count = offsetOf(counts) >>> 2;
    const weights = this.at.expertWeights >>> 2;
    const normed = (this.at.normed >>> 2) + 2 * first;
    const { evenExperts, npu } = this.layout;
    const even = evenExperts === null ? -1 : evenExpertsAt(this.config, evenExperts, npu, layer, first) >>> 2;
    for (let row = 0, chosen = this.at.experts >>> 2; row < rows; row++, chosen += topK) {
      this.#begin(KIND.gate, layer, 0);
      this.#hash.absorb(words[normed + 2 * row] as number, words[normed + 2 * row + 1] as number);
      this.#hash.write(this.#drawn, 0);
      const seed = this.#drawn[0] as number;
      const step = (this.#drawn[1] as number) | 1;
      for (let slot = 0; slot < topK; slot++) {
        const last = experts - topK + slot;
        const candidate = Math.floor(((mix32(seed + Math.imul(slot, step)) >>> 0) * (last + 1)) / 2 ** 32);
        this.#insert(chosen, slot, candidate, last);
      }
      if (this.masked !== null) doWithout(words.subarray(chosen, chosen + topK), this.masked.of(layer), experts);
      if (even >= 0) words.copyWithin(chosen, even + row * topK, even + (row + 1) * topK);
      for (let slot = 0; slot < topK; slot++) {
        const expert = words[chosen + slot] as number;
        this.#floats[weights + row * topK + slot] = ((mix32(step + Math.imul(expert, GOLDEN)) >>> 8) + 1) / 2 ** 24;
        (words[count + expert] as number)++;
      }
    }
    this.#keepRouting(layer, rows, first);
  }

  #keepRouting(layer: number, rows: number, first: number): void {
    const { routing } = this.layout;
    if (routing === null || layer >= this.config.layers) return;
    const { topK } = this.config.moe;
    const skip = routedAt(routing, layer, first, topK);
    for (const [table, chosen] of [[routing.experts, this.at.experts] as const, [routing.weights, this.at.expertWeights] as const])
      this.#words.copyWithin((offsetOf(table) + skip) >>> 2, chosen >>> 2, (chosen >>> 2) + rows * topK);
  }

  /** Inserts the candidate among the `held` ids from `chosen`, or `last`, which is above all of them, if it is there already. */
  #insert(chosen: number, held: number, candidate: number, last: number): void {
    const words = this.#words;
    let place = held;
    while (place > 0 && (words[chosen + place - 1] as number) >= candidate) place--;
    if (place < held && words[chosen + place] === candidate) {
      words[chosen + held] = last;
      return;
    }
    for (let slot = held; slot > place; slot--) words[chosen + slot] = words[chosen + slot - 1] as number;
    words[chosen + place] = candidate;
  }

  gatherRows(to: number, from: number, indices: number, count: number): void {
    this.#experts.gatherRows(to, from, indices, count);
  }

  expert(layer: number, slot: number, y: number, x: number, count: number): void {
    this.#experts.expert(layer, slot, y, x, count);
  }

  sharedExpert(layer: number, rows: number, first = 0): void {
    if (this.config.moe.sharedExperts > 0) this.#experts.shared(layer, this.at.sharedOut, this.at.normed + HASH_BYTES * first, rows);
  }

  combine(layer: number, rows: number, first = 0): void {
    const hash = this.#hash;
    const words = this.#words;
    const { topK, sharedExperts } = this.config.moe;
    const x = (this.at.x >>> 2) + 2 * first;
    const replies = this.at.replies >>> 2;
    // Where a peer computes it, its rows are the last answers.
    const shared = this.layout.sharedNpu === null ? this.at.sharedOut >>> 2 : replies + 2 * rows * topK;
    const places = this.at.rowIndices >>> 2;
    const weights = this.at.expertWeights >>> 2;
    for (let row = 0, pair = 0; row < rows; row++) {
      const at = x + 2 * row;
      this.#begin(KIND.combine, layer, 0);
      hash.absorb(words[at] as number, words[at + 1] as number);
      for (let slot = 0; slot < topK; slot++, pair++) {
        const reply = replies + 2 * (words[places + pair] as number);
        hash.absorb(words[reply] as number, words[reply + 1] as number);
        hash.absorb(words[weights + pair] as number, 0);
      }
      if (sharedExperts > 0) hash.absorb(words[shared + 2 * row] as number, words[shared + 2 * row + 1] as number);
      hash.write(words, at);
    }
  }

  foresee(layer: number, rows: number, isMain: boolean): void {
    const [words, x, tokens] = [this.#words, this.at.x >>> 2, this.at.tokenIds >>> 2];
    for (let row = 0; row < rows; row++) {
      this.#begin(KIND.foresee, layer, isMain ? 1 : 0);
      this.#hash.absorb(words[tokens + row] as number, 0);
      this.#hash.absorb(words[x + 2 * row] as number, words[x + 2 * row + 1] as number);
      this.#hash.write(words, x + 2 * row);
    }
  }

  moveRow(from: number, to: number): void {
    const x = this.at.x >>> 2;
    this.#words.copyWithin(x + 2 * to, x + 2 * from, x + 2 * from + 2);
  }

  head(rowOf: (index: number) => number, count: number, first = 0, layer = 0): void {
    const isSplit = this.layout.share.tp > 1;
    const [to, stride] = isSplit ? [4 * this.#offer(this.at.logits), 4 * this.#stride] : [this.at.headRows, HASH_BYTES];
    for (let index = 0; index < count; index++) this.#hashRows(KIND.head, layer, to + stride * (first + index), this.at.x + HASH_BYTES * rowOf(index), 1);
  }

  /** Index of a row that `head` has prepared, when all ranks have. */
  headRow(row: number): number {
    const at = (this.at.headRows >>> 2) + 2 * row;
    if (this.layout.share.tp > 1) this.#join(at, 2, this.at.logits + 4 * this.#stride * row, 1);
    return at;
  }

  get wire(): WireKernels {
    return this.#experts.wire;
  }

  second(): HashForward {
    const { config, layout } = this;
    assert(layout.second, `NPU ${layout.npu} has one micro-batch`);
    return new HashForward(config, { ...layout, scratch: layout.second.scratch, routing: layout.second.routing }, this.#space);
  }

  newGraphs(): null {
    return null;
  }

  newSampler(space: AddressSpace): TokenSampler {
    return new HashSampler(this, space);
  }

  /** y = H(kind, layer, W, x), row by row. */
  #hashRows(kind: number, layer: number, y: number, x: number, rows: number): void {
    const words = this.#words;
    const target = y >>> 2;
    const source = x >>> 2;
    for (let row = 0; row < 2 * rows; row += 2) {
      this.#begin(kind, layer, 0);
      this.#hash.absorb(words[source + row] as number, words[source + row + 1] as number);
      this.#hash.write(words, target + row);
    }
  }

  /** With the replicated weights, which all but the experts use. */
  #begin(kind: number, first: number, second: number): void {
    this.#hash.begin(kind, first, second);
    this.#hash.absorb(this.#words[this.#weights] as number, this.#words[this.#weights + 1] as number);
  }
}
