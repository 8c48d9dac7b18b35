/**
 * What a step's rows are read for when all layers are computed: log-probabilities of prompt tokens, and the tokens that follow.
 * Rows are prepared in batches, as many as the logits have room for: the step's last parts.
 *
 *   [ head ─ (G) ─▶ read ] × batches
 *
 * Split over ranks, each computes its columns of the logits, and all of them sample: the next step may already have been launched, and its tokens must be
 * known wherever it begins. Log-probabilities are the first rank's to tell.
 *
 * Drafts are verified here (xDeepServe §4.6): rows of an entry are read in their order, each for as long as the row before has drawn the very token that this one
 * was computed for. So the sampler sees the tokens that it would see without drafts, and draws with the same noise.
 * @module
 */
import { invariantBroken } from '../../protocol/errors.ts';
import type { PositionLogprobs } from '../../protocol/messages.ts';
import type { Drawn, StepEntry, StepOutcome, StepPlan } from '../../protocol/steps.ts';
import type { Arithmetic, Span, TokenSampler } from '../forward/arithmetic.ts';
import { LOGIT_ROWS_MAX } from '../layouts/scratch-layout.ts';
import { NOT_FINITE } from './sampler.ts';
import type { SlotTokens } from './slot-tokens.ts';
import { compute, type Part } from './step-parts.ts';

/** `token`: of the prompt, whose log-probability is wanted; −1: the row yields the next one. `draft`: of an entry's rows that do, so many are before it. */
type Reading = { entry: number; row: number; token: number; draft: number };
type Result = {
  token: number;
  logprobs: PositionLogprobs | null;
  readonly more: Drawn[];
  readonly drafts: readonly number[];
  prompt_logprobs: PositionLogprobs[] | null;
  error: StepOutcome['error'];
  /** Filled by whoever computes them. */
  readonly foreseen?: number[];
};

const NO_DRAFTS: readonly number[] = [];

/** Of one step after the other: what each needs of its own only is made anew. */
export class Readout {
  readonly #forward: Arithmetic;
  readonly #sampler: TokenSampler;
  readonly #slotTokens: SlotTokens;
  readonly #readAll: readonly Part[] = [compute(() => this.#read(0, this.#rows, 0))];
  /** Of the step at hand. */
  #entries: readonly StepEntry[] = [];
  #results: readonly Result[] = [];
  #parts: readonly Part[] = [];
  /** The first `#rows` of them are its; those behind are of steps before. */
  readonly #readings: Reading[] = [];
  #rows = 0;

  constructor(forward: Arithmetic, sampler: TokenSampler, slotTokens: SlotTokens) {
    this.#forward = forward;
    this.#sampler = sampler;
    this.#slotTokens = slotTokens;
  }

  get parts(): readonly Part[] {
    return this.#parts;
  }

  /** What came of the step's entries, in their order, once all parts are done. */
  get outcomes(): readonly StepOutcome[] {
    return this.#results;
  }

  /** Of an entry's rows the first one that is read; as many as it has: none is. */
  firstRead({ slot, start, tokens, samples, drafts }: StepEntry): number {
    const { prompt, sampling } = this.#sampler.sequenceOf(slot);
    if (sampling.prompt_logprobs >= 0 && start < prompt.length - 1) return 0;
    return samples ? tokens.length - 1 - drafts : tokens.length;
  }

  /** `spans`: of each entry its last rows, from the first one on that is read. `hasLogits`: all rows are prepared already, in their order. */
  begin({ entries }: StepPlan, spans: readonly Span[], hasLogits: boolean): this {
    const results: Result[] = [];
    for (const entry of entries) results.push(resultOf(entry));
    this.#entries = entries;
    this.#results = results;
    this.#rows = 0;
    this.#noteReadings(spans);
    const rows = this.#rows;
    if (hasLogits && rows > LOGIT_ROWS_MAX) invariantBroken(`${rows} rows are prepared at once`);
    this.#parts = hasLogits && this.#forward.layout.share.tp === 1 ? this.#readAll : this.#partsOf(rows, hasLogits);
    return this;
  }

  #partsOf(rows: number, hasLogits: boolean): Part[] {
    const isSplit = this.#forward.layout.share.tp > 1;
    // Peers may still read a batch's logits while the next one is computed: two batches take turns.
    const batch_max = isSplit ? LOGIT_ROWS_MAX / 2 : LOGIT_ROWS_MAX;
    const parts: Part[] = [];
    for (let from = 0, turn = 0; from < rows; from += batch_max, turn ^= 1) {
      const count = Math.min(batch_max, rows - from);
      const first = isSplit ? turn * batch_max : 0;
      if (!hasLogits) parts.push(compute(() => this.#forward.head((index) => this.#readings[from + index]?.row ?? 0, count, first)));
      if (isSplit) parts.push({ kind: 'gather', table: 'logits', what: `'logits' of rows ${from} to ${from + count - 1}`, first, rows: () => count });
      parts.push(compute(() => this.#read(from, count, first)));
    }
    return parts;
  }

  #read(from: number, count: number, first: number): void {
    for (let index = 0; index < count; index++) {
      const reading = this.#readings[from + index] as Reading;
      if (reading.token >= 0) this.#readPrompt(reading, first + index);
      else this.#sample(reading, first + index);
    }
  }

  #readPrompt({ entry, token }: Reading, row: number): void {
    if (this.#forward.layout.share.rank > 0) return;
    const result = this.#results[entry] as Result;
    const { slot } = this.#entries[entry] as StepEntry;
    const logprobs = this.#sampler.logprobs(row, token, this.#sampler.sequenceOf(slot).sampling.prompt_logprobs);
    result.prompt_logprobs ??= [];
    result.prompt_logprobs.push(logprobs);
    if (!Number.isFinite(logprobs.logprob)) result.error = NOT_FINITE;
  }

  #sample({ entry, draft }: Reading, row: number): void {
    const result = this.#results[entry] as Result;
    if (draft > 0 && !isConfirmed(result, draft)) return;
    const { slot, start, tokens, generated, drafts } = this.#entries[entry] as StepEntry;
    const { sampling } = this.#sampler.sequenceOf(slot);
    const position = start + tokens.length - drafts + draft;
    const { token, error } = this.#sampler.sample(slot, row, position, generated + draft);
    this.#slotTokens.drew(slot, token, position);
    result.error ??= error;
    const isTold = error === null && sampling.logprobs >= 0 && this.#forward.layout.share.rank === 0;
    const logprobs = isTold ? this.#sampler.logprobs(row, token, sampling.logprobs) : null;
    if (draft === 0) {
      result.token = token;
      result.logprobs = logprobs;
    } else if (error === null) result.more.push({ token, logprobs });
  }

  /** The prompt tokens that follow each of the step's rows, where a sequence asked for their log-probabilities; then what each row of a last token yields, and of the drafts behind it. */
  #noteReadings(spans: readonly Span[]): void {
    const entries = this.#entries;
    for (let entry = 0; entry < entries.length; entry++) {
      const { slot, start, tokens } = entries[entry] as StepEntry;
      const { prompt, sampling } = this.#sampler.sequenceOf(slot);
      if (sampling.prompt_logprobs < 0) continue;
      const span = spans[entry] as Span;
      const row = firstRowOf(span, tokens);
      const known = Math.min(tokens.length, prompt.length - 1 - start);
      if (known > 0) checkComputed(row, span);
      for (let index = 0; index < known; index++) this.#note(entry, row + index, prompt[start + index + 1] as number, 0);
    }
    for (let entry = 0; entry < entries.length; entry++) {
      const { samples, tokens, drafts } = entries[entry] as StepEntry;
      if (!samples) continue;
      const span = spans[entry] as Span;
      const first = firstRowOf(span, tokens) + tokens.length - 1 - drafts;
      checkComputed(first, span);
      for (let draft = 0; draft <= drafts; draft++) this.#note(entry, first + draft, -1, draft);
    }
  }

  #note(entry: number, row: number, token: number, draft: number): void {
    const reading = this.#readings[this.#rows++];
    if (reading === undefined) this.#readings.push({ entry, row, token, draft });
    else {
      reading.entry = entry;
      reading.row = row;
      reading.token = token;
      reading.draft = draft;
    }
  }
}

function resultOf({ tokens, drafts: count, samples, generated, foresees }: StepEntry): Result {
  const drafts = count === 0 ? NO_DRAFTS : tokens.slice(-count);
  const result = { token: -1, logprobs: null, more: [], drafts, prompt_logprobs: null, error: null };
  return samples && generated === 0 && foresees > 0 ? { ...result, foreseen: [] } : result;
}

/** Where the row of the entry's first token lies, or would. */
const firstRowOf = ({ row, rows }: Span, tokens: readonly number[]): number => row + rows - tokens.length;

/** What is read is what `firstRead` said would be: rows before it are other rows by now. */
function checkComputed(row: number, span: Span): void {
  if (row < span.row) invariantBroken(`row ${row} is read of a sequence whose rows are computed from ${span.row} on`);
}

/** All rows before the one of that draft have drawn the drafts that follow them. */
const isConfirmed = ({ token, more, drafts, error }: Result, draft: number): boolean =>
  error === null && more.length === draft - 1 && (more.at(-1)?.token ?? token) === drafts[draft - 1];
