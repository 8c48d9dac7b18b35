/**
 * A step of an attention NPU whose DP domain takes turns with others at the experts (xDeepServe §5.2): two micro-batches, each with half of the rows and a run of
 * the parts of its own, so that one is at attention while the other is at the experts.
 *
 *   micro-batch 0    | attention 0 |▶ A2E · experts · E2A ▶| attention 1 |▶ …
 *   micro-batch 1                  | attention 0 |▶ A2E · experts · E2A ▶| attention 1 | …
 *
 * The second never overtakes the first: where they share a sequence, the rows of the second attend to the KV of the first. One without rows goes through the rounds
 * with nothing, as the whole NPU does in an iteration in which it has no step (xccl/iterations.ts).
 *
 * The first computes where steps of other schedules do, the second on scratch of its own; at the end all rows lie one after the other as if they had been one.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { assert } from '../protocol/errors.ts';
import type { TokenBatch } from '../xccl/dispatch.ts';
import type { Iterations } from '../xccl/iterations.ts';
import type { Arithmetic, Span } from './arithmetic.ts';
import { MICRO_BATCHES } from './dp-domains.ts';
import { routedAt } from './routed-steps.ts';
import { SPAN, SPAN_WORDS } from './step-layout.ts';
import type { Part } from './step-parts.ts';
import type { MicroBatchPlace } from './turns-layout.ts';

export type MicroBatchOptions = {
  readonly model: Arithmetic;
  /** Made when they are needed first. */
  readonly parts: () => readonly Part[];
  readonly place: MicroBatchPlace;
  /** Of the shared expert, where another NPU has it. */
  readonly sharedId: number | null;
};

const NOTHING: TokenBatch = { tokens: 0, rows: 0, experts: 0, weights: 0 };

class MicroBatch {
  readonly #options: MicroBatchOptions;
  readonly #words: Int32Array;
  #parts: readonly Part[] = [];
  #rows = 0;
  #spans: readonly Span[] = [];
  /** The part that comes next. */
  part = 0;
  isAsking = false;
  /** Layers, the first ones, whose KV of its rows is there. */
  kv_layers = 0;

  constructor(options: MicroBatchOptions, space: AddressSpace) {
    this.#options = options;
    this.#words = space.wordsOf(options.model.layout.base);
  }

  get rows(): number {
    return this.#rows;
  }

  get isDone(): boolean {
    return this.part === this.#parts.length && !this.isAsking;
  }

  begin(rows: number, spans: readonly Span[]): void {
    if (this.#parts.length === 0) this.#parts = this.#options.parts();
    this.#rows = rows;
    this.#spans = spans;
    this.part = 0;
    this.isAsking = false;
    this.kv_layers = 0;
  }

  /** Goes on to where the experts are asked: what is to be asked, or null at the end. */
  goOn(): TokenBatch | null {
    while (this.part < this.#parts.length) {
      const part = this.#parts[this.part++] as Part;
      if (part.kind === 'experts') return this.#rows === 0 ? NOTHING : this.#batch();
      assert(part.kind === 'compute', `a micro-batch has no part '${part.kind}'`);
      if (this.#rows > 0) part.compute(this.#rows, this.#spans);
      this.kv_layers = Math.max(this.kv_layers, part.kv_layers);
    }
    return null;
  }

  /** What this NPU does itself while the experts compute. */
  computeOwn(): void {
    const { model } = this.#options;
    const part = this.#parts[this.part - 1];
    if (part?.kind === 'experts' && this.#rows > 0 && model.layout.sharedNpu === null) model.sharedExpert(part.layer, this.#rows);
  }

  /** The answers are here, as rows: the tables by which the next part sums them. */
  takeAnswers(): void {
    const { model, place } = this.#options;
    const { topK } = model.config.moe;
    const words = this.#words;
    const places = offsetOf(place.collect.places) / 4;
    const indices = model.at.rowIndices / 4;
    const { top_k } = place.collect;
    for (let row = 0; row < this.#rows; row++)
      for (let slot = 0; slot < topK; slot++) words[indices + row * topK + slot] = words[places + row * top_k + slot] as number;
  }

  #batch(): TokenBatch {
    const { model, place, sharedId } = this.#options;
    const { topK } = model.config.moe;
    const { top_k, weights } = place.collect;
    const words = this.#words;
    const chosen = model.at.experts / 4;
    const ids = offsetOf(place.ids) / 4;
    for (let row = 0; row < this.#rows; row++) {
      for (let slot = 0; slot < topK; slot++) words[ids + row * top_k + slot] = words[chosen + row * topK + slot] as number;
      if (sharedId !== null) words[ids + row * top_k + topK] = sharedId;
    }
    // Answers are summed by the gate's own weights, here: those of the exchange are looked at by nobody.
    return { tokens: this.#rows, rows: model.layout.scratch.normed, experts: place.ids, weights };
  }
}

export class MicroBatches {
  readonly iterations: Iterations;
  readonly #batches: readonly MicroBatch[];
  readonly #models: readonly Arithmetic[];
  readonly #space: AddressSpace;
  readonly #words: Int32Array;
  #hasBegun = false;
  #kv_layers = 0;
  /** Why the step at hand cannot go on. */
  #broken: unknown = null;

  /** `options`: of each micro-batch; the first one's model is the NPU's own. */
  constructor(options: readonly MicroBatchOptions[], iterations: Iterations, space: AddressSpace) {
    assert(options.length === MICRO_BATCHES, `${options.length} micro-batches`);
    this.iterations = iterations;
    this.#batches = options.map((one) => new MicroBatch(one, space));
    this.#models = options.map(({ model }) => model);
    this.#space = space;
    this.#words = space.wordsOf((this.#models[0] as Arithmetic).layout.base);
  }

  /** The step has its iteration; before, others have one that it has no part in. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** A step whose inputs are laid out as those of one batch. */
  start(rows: number, spans: readonly Span[]): void {
    const [first, second] = this.#batches as [MicroBatch, MicroBatch];
    const half = Math.ceil(rows / MICRO_BATCHES);
    this.#hasBegun = false;
    this.#kv_layers = 0;
    first.begin(half, this.#cut(0, spans, 0, half));
    second.begin(rows - half, this.#cut(1, spans, half, rows));
    this.#copyInputs(half, rows - half);
  }

  /** Goes on until answers are missing. `asked`: experts have just been asked. `onLayers`: told of layers whose KV is there. */
  poll(onLayers: (layers: number) => void): 'pending' | 'asked' | 'done' {
    const { iterations } = this;
    if (this.#broken !== null) throw this.#broken;
    if (!this.#hasBegun) {
      if (!iterations.begin()) {
        // What this one did in it may have been the last.
        iterations.poll();
        if (!iterations.begin()) return 'pending';
      }
      this.#hasBegun = true;
    }
    let hasAsked = false;
    for (const [lane, batch] of this.#batches.entries()) {
      if (batch.isAsking && iterations.answer(lane)) {
        batch.isAsking = false;
        batch.takeAnswers();
      }
      if (batch.isAsking || batch.isDone || this.#mustFollow(lane)) continue;
      const asks = batch.goOn();
      if (asks === null) continue;
      iterations.ask(lane, asks);
      batch.isAsking = true;
      hasAsked = true;
      batch.computeOwn();
    }
    this.#tellLayers(onLayers);
    if (this.#batches.every(({ isDone }) => isDone)) {
      this.#join();
      return 'done';
    }
    return hasAsked ? 'asked' : 'pending';
  }

  /** Takes part in what other NPUs of the domain have begun, where this one has no step in it. True if something went on. */
  takePart(): boolean {
    return this.iterations.poll();
  }

  /** The step is given up. */
  reset(): void {
    this.#hasBegun = false;
    this.#broken = null;
    this.iterations.giveUp();
  }

  /** NPUs of the domain may have moved, or have been given up. */
  reseat(): void {
    try {
      this.iterations.reseat();
    } catch (error) {
      this.#broken = error;
    }
  }

  /** NPUs whose answers are missing. */
  get missing(): number[] {
    return this.#batches.flatMap(({ isAsking }, lane) => (isAsking ? this.iterations.missing(lane) : []));
  }

  /** The micro-batch before has not come further yet. */
  #mustFollow(lane: number): boolean {
    const before = this.#batches[lane - 1];
    return before !== undefined && !before.isDone && before.part <= (this.#batches[lane] as MicroBatch).part;
  }

  #tellLayers(onLayers: (layers: number) => void): void {
    const layers = Math.min(...this.#batches.filter(({ rows }) => rows > 0).map(({ kv_layers }) => kv_layers));
    if (layers <= this.#kv_layers || !Number.isFinite(layers)) return;
    this.#kv_layers = layers;
    onLayers(layers);
  }

  /**
   * Of the spans, what lies in rows `from` … `to` − 1, counted from `from`; written where the micro-batch's kernels find them. The first one's are where all are:
   * that leaves their tables as they were.
   */
  #cut(lane: number, spans: readonly Span[], from: number, to: number): Span[] {
    const own: Span[] = [];
    const words = this.#words;
    const [source, target] = [0, lane].map((index) => (this.#models[index] as Arithmetic).at.spans / 4) as [number, number];
    for (const [index, { slot, row, rows }] of spans.entries()) {
      const first = Math.max(row, from);
      const count = Math.min(row + rows, to) - first;
      if (count <= 0) continue;
      const table = words[source + index * SPAN_WORDS + SPAN.table] as number;
      const at = target + own.length * SPAN_WORDS;
      words[at + SPAN.row] = first - from;
      words[at + SPAN.rows] = count;
      words[at + SPAN.table] = table;
      own.push({ slot, row: first - from, rows: count });
    }
    return own;
  }

  /** Of the second micro-batch, from behind the first one's. */
  #copyInputs(first: number, rows: number): void {
    const words = this.#words;
    const [from, to] = this.#models as readonly [Arithmetic, Arithmetic];
    words.copyWithin(to.at.tokenIds / 4, from.at.tokenIds / 4 + first, from.at.tokenIds / 4 + first + rows);
    words.copyWithin(to.at.positions / 4, from.at.positions / 4 + first, from.at.positions / 4 + first + rows);
  }

  /** The second one's rows behind those of the first. */
  #join(): void {
    const [first, second] = this.#batches as [MicroBatch, MicroBatch];
    const [to, from] = this.#models as readonly [Arithmetic, Arithmetic];
    const { row_bytes, scratch } = to.layout;
    if (second.rows === 0) return;
    this.#space.copy(scratch.x + first.rows * row_bytes, from.layout.scratch.x, second.rows * row_bytes);
    const { topK } = to.config.moe;
    const [all, own] = [to.layout.routing, from.layout.routing];
    if (all === null || own === null) return;
    for (const layer of all.layers) {
      const [target, source] = [routedAt(all, layer, first.rows, topK), routedAt(own, layer, 0, topK)];
      this.#space.copy(all.experts + target, own.experts + source, second.rows * topK * 4);
      this.#space.copy(all.weights + target, own.weights + source, second.rows * topK * 4);
    }
  }
}
