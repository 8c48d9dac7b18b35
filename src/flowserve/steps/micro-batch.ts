/**
 * One micro-batch of a step (micro-batches.ts): goes through its parts up to where experts are asked, and on when they have answered.
 *
 *   parts ─▶ asked ─▶ answered ─▶ parts ─▶ asked …
 *            ▲   └─ left: the iteration that it was asked in is over for its step, as it is where there is nobody to ask
 *            └─ caught up, in the next one: rounds whose answers it has pass with nothing
 * @module
 */
import { assert } from '../../protocol/errors.ts';
import type { LaneAnswer } from '../../xccl/iterations.ts';
import type { Arithmetic, Span, StepGraphs } from '../forward/arithmetic.ts';
import type { Experts, Part } from './step-parts.ts';

/** The experts, as one micro-batch asks them. */
export type LaneExperts = {
  /** Another step than before: what that one was refused is over. */
  stepBegins(): void;
  /**
   * For the rows that its gate has seen last; there may be none. False: nobody who is there has what they need, and the step has no part in what goes on.
   * @throws `worker_lost` where the iteration has ended for all, as `answer` does
   */
  ask(part: Experts, rows: number): boolean;
  /** Takes part in a round with nothing; its answer is waited for all the same. */
  pass(): void;
  /** `here`: with the tables by which the next part sums them. `refused`: there are none, and the step's batches have no part in what went on. */
  answer(rows: number): LaneAnswer;
  /** It was refused a moment ago, and knows no better; or awaits those that are lost. */
  readonly mustWait: boolean;
  /** NPUs that are lost alone have what it is to ask for: it is told when somebody is back, or another has it. */
  readonly awaitsLost: boolean;
  /** How often it was refused. */
  readonly refusals: number;
  /** NPUs whose answers are missing. */
  readonly missing: readonly number[];
};

/** What a micro-batch goes through: kernel by kernel, or captured; null: nothing is. And one layer of it. */
export type BatchParts = { readonly inTurn: readonly Part[]; readonly graphs: StepGraphs | null; readonly ofLayer: (layer: number) => readonly Part[] };

export type MicroBatchOptions = {
  readonly model: Arithmetic;
  /** Made when they are needed first. */
  readonly parts: () => BatchParts;
  readonly experts: LaneExperts;
};

export class MicroBatch {
  readonly #options: MicroBatchOptions;
  #made: BatchParts | null = null;
  #parts: readonly Part[] = [];
  #rows = 0;
  #spans: readonly Span[] = [];
  /** The part that comes next. */
  part = 0;
  /** What experts were asked is not answered yet. */
  isAsking = false;
  /** It was asked in an iteration that the step has no part in any more. */
  #mustAskAgain = false;
  /** Its share of what it has asked others for is not computed yet. */
  #owesOwn = false;
  /** Rounds of the step that were answered; and those of the iteration at hand: it passes the others with nothing first. */
  #answered = 0;
  #passed = 0;
  #isPassing = false;
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
    return this.part === this.#parts.length && !this.isAsking && this.#passed === this.#answered;
  }

  /** NPUs whose answers are missing. */
  get missing(): readonly number[] {
    return this.isAsking || this.#isPassing ? this.experts.missing : [];
  }

  /** Null: so many are not captured. One without rows goes through the parts of one row, and computes none. */
  capturedOf(rows: number, spans: readonly Span[]): readonly Part[] | null {
    return this.#all.graphs?.layersOf(Math.max(1, rows), Math.max(1, spans.length)) ?? null;
  }

  get #all(): BatchParts {
    this.#made ??= this.#options.parts();
    return this.#made;
  }

  /** Of another step. */
  stepBegins(): void {
    this.experts.stepBegins();
    this.#answered = 0;
    this.#passed = 0;
    this.#isPassing = false;
  }

  /** The iteration is over for its step. */
  leave(): void {
    this.#passed = 0;
    this.#isPassing = false;
    this.#mustAskAgain = this.isAsking;
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
    this.#mustAskAgain = false;
    this.kv_layers = 0;
  }

  /** Comes to where it was when the iteration before ended. False: it is not there yet. `refused`: as LaneAnswer, or by `ask`. */
  catchUp(): boolean | 'refused' {
    while (this.#passed < this.#answered) {
      if (!this.#isPassing) {
        this.#isPassing = true;
        this.experts.pass();
      }
      const answer = this.experts.answer(0);
      if (answer !== 'here') return answer === 'refused' ? answer : false;
      this.#isPassing = false;
      this.#passed++;
    }
    if (this.#mustAskAgain) {
      this.#mustAskAgain = false;
      if (!this.#ask()) return 'refused';
    }
    return true;
  }

  /** Whether the experts have answered. */
  look(): LaneAnswer {
    const answer = this.experts.answer(this.#rows);
    if (answer === 'here') {
      this.isAsking = false;
      this.#answered++;
      this.#passed++;
    }
    return answer;
  }

  #ask(): boolean {
    const part = this.#parts[this.part - 1];
    assert(part?.kind === 'experts' && this.isAsking, 'a micro-batch asks experts where a part says so');
    if (!this.experts.ask(part, this.#rows)) return false;
    if (!this.#owesOwn) return true;
    // What this NPU does itself while the experts compute.
    this.#owesOwn = false;
    if (this.#rows > 0) part.own(this.#rows, undefined);
    return true;
  }

  /** Goes on to where the experts are asked, or to the end. `refused`: by `ask`. */
  goOn(): 'asked' | 'ended' | 'refused' {
    while (this.part < this.#parts.length) {
      const part = this.#parts[this.part++] as Part;
      if (part.kind === 'experts') {
        this.isAsking = true;
        this.#owesOwn = true;
        return this.#ask() ? 'asked' : 'refused';
      }
      assert(part.kind === 'compute', `a micro-batch has no part '${part.kind}'`);
      if (this.#rows > 0) part.compute(this.#rows, this.#spans);
      this.kv_layers = Math.max(this.kv_layers, part.kv_layers);
    }
    return 'ended';
  }
}
