/**
 * A step of an attention NPU whose experts are elsewhere, as two micro-batches (xDeepServe §5.2), each with half of the rows and a run of the parts of its own, so
 * that one is at attention while the other is at the experts: at those of its DP domain's turn (round-lanes.ts), or at whichever answer first (dataflow-lanes.ts).
 *
 *   micro-batch 0    | attention 0 |▶ A2E · experts · E2A ▶| attention 1 |▶ …
 *   micro-batch 1                  | attention 0 |▶ A2E · experts · E2A ▶| attention 1 | …
 *
 * Where experts refuse one of them the step begins again: it is in nobody's iteration any more, and goes by a later map.
 *
 * The second never overtakes the first: where they share a sequence, the rows of the second attend to the KV of the first.
 *
 * The first computes where steps of other schedules do, the second on scratch of its own; at the end all rows lie one after the other as if they had been one.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import type { LaneAnswer } from '../xccl/iterations.ts';
import type { Arithmetic, Span, StepGraphs } from './arithmetic.ts';
import { MICRO_BATCHES } from './dp-domains.ts';
import { routedAt } from './routed-steps.ts';
import { SPAN, SPAN_WORDS } from './step-layout.ts';
import type { Experts, Part } from './step-parts.ts';

/** The experts, as one micro-batch asks them. */
export type LaneExperts = {
  /** Another step than before: what that one was refused is over. */
  stepBegins(): void;
  /** For the rows that its gate has seen last; there may be none. */
  ask(part: Experts, rows: number): void;
  /** `here`: with the tables by which the next part sums them. `refused`: there are none, and the step's batches have no part in what went on. */
  answer(rows: number): LaneAnswer;
  /** It was refused a moment ago, and knows no better. */
  readonly mustWait: boolean;
  /** How often it was refused. */
  readonly refusals: number;
  /** NPUs whose answers are missing. */
  readonly missing: number[];
};

/** What goes on around the steps of an NPU. */
export type Surrounding = {
  /** True: the step may begin. */
  begin(): boolean;
  /** For an NPU without a step under way. True if something went on. */
  poll(): boolean;
  /** Answers are missing to somebody who went by a map before that of `epoch`. */
  asksBefore(epoch: number): boolean;
  /** The step is no more. */
  giveUp(): void;
  /** NPUs may have moved, or have been given up. @throws where that ends the step at hand */
  reseat(): void;
};

/** What a micro-batch goes through: kernel by kernel, or captured; null: nothing is. And one layer of it. */
export type BatchParts = { readonly inTurn: readonly Part[]; readonly graphs: StepGraphs | null; readonly ofLayer: (layer: number) => readonly Part[] };

export type MicroBatchOptions = {
  readonly model: Arithmetic;
  /** Made when they are needed first. */
  readonly parts: () => BatchParts;
  readonly experts: LaneExperts;
};

class MicroBatch {
  readonly #options: MicroBatchOptions;
  #made: BatchParts | null = null;
  #parts: readonly Part[] = [];
  #rows = 0;
  #spans: readonly Span[] = [];
  /** The part that comes next. */
  part = 0;
  isAsking = false;
  /** Layers, the first ones, whose KV of its rows is there. */
  kv_layers = 0;

  constructor(options: MicroBatchOptions) {
    this.#options = options;
  }

  get experts(): LaneExperts {
    return this.#options.experts;
  }

  get rows(): number {
    return this.#rows;
  }

  get isDone(): boolean {
    return this.part === this.#parts.length && !this.isAsking;
  }

  /** Null: so many are not captured. One without rows goes through the parts of one row, and computes none. */
  capturedOf(rows: number, spans: readonly Span[]): readonly Part[] | null {
    return this.#all.graphs?.layersOf(Math.max(1, rows), Math.max(1, spans.length)) ?? null;
  }

  get #all(): BatchParts {
    this.#made ??= this.#options.parts();
    return this.#made;
  }

  /** One layer alone. */
  beginLayer(layer: number, rows: number, spans: readonly Span[]): void {
    this.begin(rows, spans, this.#all.ofLayer(layer));
  }

  /** `captured`: null: kernel by kernel. */
  begin(rows: number, spans: readonly Span[], captured: readonly Part[] | null): void {
    this.#parts = captured ?? this.#all.inTurn;
    this.#rows = rows;
    this.#spans = spans;
    this.part = 0;
    this.isAsking = false;
    this.kv_layers = 0;
  }

  /** Goes on to where the experts are asked. False: to the end. */
  goOn(): boolean {
    while (this.part < this.#parts.length) {
      const part = this.#parts[this.part++] as Part;
      if (part.kind === 'experts') {
        this.experts.ask(part, this.#rows);
        this.isAsking = true;
        return true;
      }
      assert(part.kind === 'compute', `a micro-batch has no part '${part.kind}'`);
      if (this.#rows > 0) part.compute(this.#rows, this.#spans);
      this.kv_layers = Math.max(this.kv_layers, part.kv_layers);
    }
    return false;
  }

  /** What this NPU does itself while the experts compute. */
  computeOwn(): void {
    const part = this.#parts[this.part - 1];
    if (part?.kind === 'experts' && this.#rows > 0) part.own(this.#rows, undefined);
  }
}

export class MicroBatches {
  readonly #surrounding: Surrounding;
  readonly #batches: readonly MicroBatch[];
  readonly #models: readonly Arithmetic[];
  readonly #space: AddressSpace;
  readonly #words: Int32Array;
  #hasBegun = false;
  #kv_layers = 0;
  /** Why the step at hand cannot go on. */
  #broken: unknown = null;
  /** As it was started; null: it has come to layers that cannot be done again with it. */
  #begin: (() => void) | null = null;
  /** The step was refused, and has not begun again. */
  #mustBeginAgain = false;

  /** `options`: of each micro-batch; the first one's model is the NPU's own. */
  constructor(options: readonly MicroBatchOptions[], surrounding: Surrounding, space: AddressSpace) {
    assert(options.length === MICRO_BATCHES, `${options.length} micro-batches`);
    this.#surrounding = surrounding;
    this.#batches = options.map((one) => new MicroBatch(one));
    this.#models = options.map(({ model }) => model);
    this.#space = space;
    this.#words = space.wordsOf((this.#models[0] as Arithmetic).layout.base);
  }

  /** The step has its iteration; before, others have one that it has no part in. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** A step whose inputs are laid out as those of one batch; `isCaptured`: in graph mode, as far as its micro-batches are captured. */
  start(rows: number, spans: readonly Span[], isCaptured: boolean): void {
    this.#kv_layers = 0;
    for (const { experts } of this.#batches) experts.stepBegins();
    this.#begin = () => this.#start(rows, spans, isCaptured);
    this.#begin();
  }

  #start(rows: number, spans: readonly Span[], isCaptured: boolean): void {
    const [first, second] = this.#batches as [MicroBatch, MicroBatch];
    const half = Math.ceil(rows / MICRO_BATCHES);
    this.#hasBegun = false;
    this.#mustBeginAgain = false;
    const [firstSpans, secondSpans] = [this.#cut(0, spans, 0, half), this.#cut(1, spans, half, rows)];
    // Both or none: who is ahead is told by the parts.
    const ofFirst = isCaptured ? first.capturedOf(half, firstSpans) : null;
    const ofSecond = ofFirst === null ? null : second.capturedOf(rows - half, secondSpans);
    first.begin(half, firstSpans, ofSecond === null ? null : ofFirst);
    second.begin(rows - half, secondSpans, ofSecond);
    this.#copyInputs(half, rows - half);
  }

  /** One layer more for the step at hand, of rows that lie as those of one batch; there may be none. */
  goOnWith(layer: number, rows: number, spans: readonly Span[]): void {
    this.#begin = null;
    const [first, second] = this.#batches as [MicroBatch, MicroBatch];
    const [from, to] = this.#models as readonly [Arithmetic, Arithmetic];
    const { row_bytes, scratch } = from.layout;
    const half = Math.ceil(rows / MICRO_BATCHES);
    const [firstSpans, secondSpans] = [this.#cut(0, spans, 0, half), this.#cut(1, spans, half, rows)];
    first.beginLayer(layer, half, firstSpans);
    second.beginLayer(layer, rows - half, secondSpans);
    this.#copyInputs(half, rows - half);
    this.#space.copy(to.layout.scratch.x, scratch.x + half * row_bytes, (rows - half) * row_bytes);
  }

  /** Goes on until answers are missing. `asked`: experts have just been asked. `onLayers`: told of layers whose KV is there. */
  poll(onLayers: (layers: number) => void): 'pending' | 'asked' | 'done' {
    const surrounding = this.#surrounding;
    if (this.#broken !== null) throw this.#broken;
    if (!this.#hasBegun) {
      if (this.mustBeginAgain && this.#batches.some(({ experts }) => experts.mustWait)) {
        surrounding.poll();
        return 'pending';
      }
      if (!surrounding.begin()) {
        // What this one did in it may have been the last.
        surrounding.poll();
        if (!surrounding.begin()) return 'pending';
      }
      this.#hasBegun = true;
      this.#mustBeginAgain = false;
    }
    let hasAsked = false;
    for (const [lane, batch] of this.#batches.entries()) {
      if (batch.isAsking) {
        const answer = batch.experts.answer(batch.rows);
        if (answer === 'refused') {
          this.#beginAgain();
          return 'asked';
        }
        batch.isAsking = answer === 'pending';
      }
      if (batch.isAsking || batch.isDone || this.#mustFollow(lane) || !batch.goOn()) continue;
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
    return this.#surrounding.poll();
  }

  /** The step is given up. */
  reset(): void {
    this.#hasBegun = false;
    this.#mustBeginAgain = false;
    this.#broken = null;
    this.#surrounding.giveUp();
  }

  /** A step that was refused has to look when it may begin again: nothing arrives that tells. */
  get mustBeginAgain(): boolean {
    return this.#mustBeginAgain;
  }

  /** Batches that were refused. */
  get refusals(): number {
    return this.#batches.reduce((sum, { experts }) => sum + experts.refusals, 0);
  }

  /** Answers are missing to somebody who went by a map before that of `epoch`. */
  asksBefore(epoch: number): boolean {
    return this.#surrounding.asksBefore(epoch);
  }

  /** What it has computed so far is computed once more, the same bits to the same places. */
  #beginAgain(): void {
    if (this.#begin === null) throw new MinipodError('worker_lost', "a drafter's layer was refused its experts, which lie elsewhere by now");
    this.#begin();
    this.#mustBeginAgain = true;
  }

  /** NPUs of the domain may have moved, or have been given up. */
  reseat(): void {
    try {
      this.#surrounding.reseat();
    } catch (error) {
      this.#broken = error;
    }
  }

  /** NPUs whose answers are missing. */
  get missing(): number[] {
    return this.#batches.flatMap(({ isAsking, experts }) => (isAsking ? experts.missing : []));
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
    for (const [index, { slot, row, rows, from: seen = 0 }] of spans.entries()) {
      const first = Math.max(row, from);
      const count = Math.min(row + rows, to) - first;
      if (count <= 0) continue;
      const table = words[source + index * SPAN_WORDS + SPAN.table] as number;
      const at = target + own.length * SPAN_WORDS;
      words[at + SPAN.row] = first - from;
      words[at + SPAN.rows] = count;
      words[at + SPAN.table] = table;
      words[at + SPAN.from] = seen;
      own.push({ slot, row: first - from, rows: count, from: seen });
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
