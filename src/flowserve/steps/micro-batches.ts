/**
 * A step of an attention NPU whose experts are elsewhere, as two micro-batches (xDeepServe §5.2), each with half of the rows and a run of the parts of its own, so
 * that one is at attention while the other is at the experts: at those of its DP domain's turn (round-lanes.ts), or at whichever answer first (dataflow-lanes.ts).
 *
 *   micro-batch 0    | attention 0 |▶ A2E · experts · E2A ▶| attention 1 |▶ …
 *   micro-batch 1                  | attention 0 |▶ A2E · experts · E2A ▶| attention 1 | …
 *
 * Where experts refuse one of them, or a member of the domain is lost or back, the step is in nobody's iteration any more. It goes on with the next one, where it was: in
 * the rounds whose answers it has it takes part with nothing, and what was not answered it asks for once more. Nothing is computed or counted twice.
 *
 * The second never overtakes the first: where they share a sequence, the rows of the second attend to the KV of the first.
 *
 * The first computes where steps of other schedules do, the second on scratch of its own; at the end all rows lie one after the other as if they had been one.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { assert, MinipodError } from '../../protocol/errors.ts';
import { MemberIsBack } from '../../xccl/iterations.ts';
import { routedAt } from '../experts/routed-steps.ts';
import type { Arithmetic, Span } from '../forward/arithmetic.ts';
import { MICRO_BATCHES } from '../layouts/dp-domains.ts';
import { SPAN, SPAN_WORDS, writeSpan } from '../layouts/step-layout.ts';
import { LOSSES_MAX } from './asked-peers.ts';
import { MicroBatch, type MicroBatchOptions } from './micro-batch.ts';

/** What goes on around the steps of an NPU. */
export type Surrounding = {
  /** True: the step may begin. */
  begin(): boolean;
  /** NPUs without which none begins. */
  readonly awaited: readonly number[];
  /** For an NPU without a step under way. True if something went on. */
  poll(): boolean;
  /** Answers are missing to somebody who went by a map before that of `epoch`. */
  asksBefore(epoch: number): boolean;
  /** The step is no more. */
  giveUp(): void;
  /** NPUs may have moved, or have been given up. @throws `worker_lost` where that ends the iteration of the step at hand */
  reseat(): void;
};

export class MicroBatches {
  readonly #surrounding: Surrounding;
  readonly #batches: readonly MicroBatch[];
  readonly models: readonly Arithmetic[];
  readonly #space: AddressSpace;
  readonly #words: Int32Array;
  #hasBegun = false;
  #kv_layers = 0;
  /** Of the iteration of the step at hand. */
  #end: unknown = null;
  /** How many have ended under the step since somebody was lost. */
  #ends = 0;
  /** The step has left its iteration, and is in none yet. */
  #mustBeginAgain = false;

  /** `options`: of each micro-batch; the first one's model is the NPU's own. */
  constructor(options: readonly MicroBatchOptions[], surrounding: Surrounding, space: AddressSpace) {
    assert(options.length === MICRO_BATCHES, `${options.length} micro-batches`);
    this.#surrounding = surrounding;
    this.#batches = options.map((one) => new MicroBatch(one));
    this.models = options.map(({ model }) => model);
    this.#space = space;
    this.#words = space.wordsOf((this.models[0] as Arithmetic).layout.base);
  }

  /** The step has its iteration; before, others have one that it has no part in. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** A step whose inputs are laid out as those of one batch; `isCaptured`: in graph mode, as far as its micro-batches are captured. */
  start(rows: number, spans: readonly Span[], isCaptured: boolean): void {
    this.#kv_layers = 0;
    this.#ends = 0;
    this.#end = null;
    for (const batch of this.#batches) batch.stepBegins();
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
    const [first, second] = this.#batches as [MicroBatch, MicroBatch];
    const [from, to] = this.models as readonly [Arithmetic, Arithmetic];
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
    try {
      if (this.#end !== null) throw this.#end;
      return this.#poll(onLayers);
    } catch (error) {
      this.#end = null;
      return this.#survive(error);
    }
  }

  #poll(onLayers: (layers: number) => void): 'pending' | 'asked' | 'done' {
    if (!this.#hasBegun && !this.#begins()) return 'pending';
    let hasAsked = false;
    for (const [lane, batch] of this.#batches.entries()) {
      const isThere = batch.catchUp();
      if (isThere === false) continue;
      if (isThere === 'refused' || (batch.isAsking && batch.look() === 'refused')) return this.#leave();
      if (batch.isAsking || batch.isDone || this.#mustFollow(lane)) continue;
      const went = batch.goOn();
      if (went === 'refused') return this.#leave();
      hasAsked ||= went === 'asked';
    }
    this.#tellLayers(onLayers);
    if (this.#batches.every(({ isDone }) => isDone)) {
      this.#join();
      return 'done';
    }
    return hasAsked ? 'asked' : 'pending';
  }

  /** The step has an iteration from here on; or not yet. */
  #begins(): boolean {
    const surrounding = this.#surrounding;
    if (this.#mustBeginAgain && this.#batches.some(({ experts }) => experts.mustWait)) {
      surrounding.poll();
      return false;
    }
    if (!surrounding.begin()) {
      // What this one did in it may have been the last.
      surrounding.poll();
      if (!surrounding.begin()) return false;
    }
    this.#hasBegun = true;
    this.#mustBeginAgain = false;
    return true;
  }

  /** Takes part in what other NPUs of the domain have begun, where this one has no step in it. True if something went on. */
  takePart(): boolean {
    return this.#surrounding.poll();
  }

  /** The step is given up. */
  reset(): void {
    this.#hasBegun = false;
    this.#mustBeginAgain = false;
    this.#end = null;
    this.#surrounding.giveUp();
  }

  /** A step that was refused has to look when it may go on: nothing arrives that tells, unless it awaits who is lost. */
  get mustBeginAgain(): boolean {
    return this.#mustBeginAgain && !this.#batches.some(({ experts }) => experts.awaitsLost);
  }

  /** Batches that were refused. */
  get refusals(): number {
    return this.#batches.reduce((sum, { experts }) => sum + experts.refusals, 0);
  }

  /** Answers are missing to somebody who went by a map before that of `epoch`. */
  asksBefore(epoch: number): boolean {
    return this.#surrounding.asksBefore(epoch);
  }

  /** A member of the domain was lost, which is not the step's end; anything else is. */
  #survive(error: unknown): 'asked' {
    if (!(error instanceof MinipodError) || error.code !== 'worker_lost') throw error;
    if (!(error instanceof MemberIsBack) && ++this.#ends > LOSSES_MAX)
      throw new MinipodError('worker_failed', `${this.#ends} losses in one step, which may be its own doing; the last: ${error.message}`);
    return this.#leave();
  }

  /** Of the iteration: the step begins again. */
  #leave(): 'asked' {
    for (const batch of this.#batches) batch.leave();
    this.#hasBegun = false;
    this.#mustBeginAgain = true;
    return 'asked';
  }

  /** NPUs of the domain may have moved, or have been given up. */
  reseat(): void {
    try {
      this.#surrounding.reseat();
    } catch (error) {
      this.#end = error;
    }
  }

  /** NPUs whose answers are missing. */
  get missing(): number[] {
    return [...(this.#hasBegun ? [] : this.#surrounding.awaited), ...this.#batches.flatMap(({ missing }) => missing)];
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
    const source = (this.models[0] as Arithmetic).at.spans / 4;
    const { at } = this.models[lane] as Arithmetic;
    for (const [index, { slot, row, rows, from: seen = 0, kept: all = 0 }] of spans.entries()) {
      const first = Math.max(row, from);
      const count = Math.min(row + rows, to) - first;
      if (count <= 0) continue;
      const table = words[source + index * SPAN_WORDS + SPAN.table] as number;
      const kept = Math.min(count, row + all - first);
      const rest = { slot, row: first - from, rows: count, from: seen };
      const span: Span = kept > 0 ? { ...rest, kept } : rest;
      writeSpan(words, at, own.length, span, table);
      own.push(span);
    }
    return own;
  }

  /** Of the second micro-batch, from behind the first one's. */
  #copyInputs(first: number, rows: number): void {
    const words = this.#words;
    const [from, to] = this.models as readonly [Arithmetic, Arithmetic];
    words.copyWithin(to.at.tokenIds / 4, from.at.tokenIds / 4 + first, from.at.tokenIds / 4 + first + rows);
    words.copyWithin(to.at.positions / 4, from.at.positions / 4 + first, from.at.positions / 4 + first + rows);
  }

  /** The second one's rows behind those of the first. */
  #join(): void {
    const [first, second] = this.#batches as [MicroBatch, MicroBatch];
    const [to, from] = this.models as readonly [Arithmetic, Arithmetic];
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
