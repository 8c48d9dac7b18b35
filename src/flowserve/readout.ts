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
import { invariantBroken } from '../protocol/errors.ts';
import type { PositionLogprobs } from '../protocol/messages.ts';
import type { Drawn, StepEntry, StepOutcome, StepPlan } from '../protocol/steps.ts';
import type { Arithmetic, Span, TokenSampler } from './arithmetic.ts';
import { NOT_FINITE } from './sampler.ts';
import { LOGIT_ROWS_MAX } from './scratch-layout.ts';
import type { SlotTokens } from './slot-tokens.ts';
import { compute, type Part } from './step-parts.ts';

/** `token`: of the prompt, whose log-probability is wanted; −1: the row yields the next one. `draft`: of an entry's rows that do, so many are before it. */
type Reading = { readonly entry: number; readonly row: number; readonly token: number; readonly draft: number };
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

export class Readout {
  readonly parts: readonly Part[];
  readonly #forward: Arithmetic;
  readonly #sampler: TokenSampler;
  readonly #entries: readonly StepEntry[];
  readonly #slotTokens: SlotTokens;
  readonly #readings: readonly Reading[];
  readonly #results: Result[];

  /** `hasLogits`: all rows are prepared already, in their order. */
  constructor(forward: Arithmetic, sampler: TokenSampler, { entries }: StepPlan, spans: readonly Span[], slotTokens: SlotTokens, hasLogits: boolean) {
    this.#forward = forward;
    this.#sampler = sampler;
    this.#entries = entries;
    this.#slotTokens = slotTokens;
    this.#results = entries.map(({ tokens, drafts: count, samples, generated, foresees }) => {
      const drafts = count === 0 ? NO_DRAFTS : tokens.slice(-count);
      const result = { token: -1, logprobs: null, more: [], drafts, prompt_logprobs: null, error: null };
      return samples && generated === 0 && foresees > 0 ? { ...result, foreseen: [] } : result;
    });
    this.#readings = this.#readingsOf(spans);
    const rows = this.#readings.length;
    if (hasLogits && rows > LOGIT_ROWS_MAX) invariantBroken(`${rows} rows are prepared at once`);
    this.parts = this.#partsOf(rows, hasLogits);
  }

  /** What came of the step's entries, in their order, once all parts are done. */
  get outcomes(): readonly StepOutcome[] {
    return this.#results;
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
  #readingsOf(spans: readonly Span[]): Reading[] {
    const readings: Reading[] = [];
    for (const [entry, { slot, start, tokens }] of this.#entries.entries()) {
      const { prompt, sampling } = this.#sampler.sequenceOf(slot);
      if (sampling.prompt_logprobs < 0) continue;
      const { row } = spans[entry] as Span;
      const known = Math.min(tokens.length, prompt.length - 1 - start);
      for (let index = 0; index < known; index++) readings.push({ entry, row: row + index, token: prompt[start + index + 1] as number, draft: 0 });
    }
    for (const [entry, { samples, tokens, drafts }] of this.#entries.entries()) {
      if (!samples) continue;
      const first = (spans[entry] as Span).row + tokens.length - 1 - drafts;
      for (let draft = 0; draft <= drafts; draft++) readings.push({ entry, row: first + draft, token: -1, draft });
    }
    return readings;
  }
}

/** All rows before the one of that draft have drawn the drafts that follow them. */
const isConfirmed = ({ token, more, drafts, error }: Result, draft: number): boolean =>
  error === null && more.length === draft - 1 && (more.at(-1)?.token ?? token) === drafts[draft - 1];
