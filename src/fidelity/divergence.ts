/**
 * How far a model's predictions are from those of another: over all of the vocabulary, at each token of a text, and layer by layer.
 * Both are computed side by side on this thread by the forward pass that serves, so two models that compute alike differ by nothing at all.
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import { LOGIT_ROWS_MAX } from '../flowserve/layouts/scratch-layout.ts';
import { openCheckpoint } from '../model/checkpoint.ts';
import { exp } from '../model/kernels/float64.ts';
import { resolveModel } from '../model/registry.ts';
import { loadTokenizer, type Tokenizer } from '../model/tokenizer.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Numerics } from '../protocol/numerics.ts';
import { BareModel, PASS_ROWS_MAX } from './bare-model.ts';
import { type Perplexity, perplexityFrom } from './perplexity.ts';
import { type CutText, cutText, type TextPart } from './text-windows.ts';

/** A position where the two models disagree most. */
export type WorstToken = {
  /** Among the scored tokens of the text. */
  readonly index: number;
  readonly token_id: number;
  readonly token: string;
  /** Text of the tokens before it. */
  readonly before: string;
  /** KL divergence at this position, in nats. */
  readonly kl: number;
  readonly logprob: number;
  readonly against_logprob: number;
};

/** Of what a layer leaves, over all positions. */
export type LayerError = {
  readonly layer: number;
  /** ‖x − x′‖ ÷ ‖x′‖, of all rows together; x′ is the other model's. */
  readonly relative_error: number;
  /** The largest of a single row. */
  readonly worst_row: number;
};

export type Divergence = {
  readonly model: Perplexity;
  readonly against: Perplexity;
  /** Of the model from the other, KL(other ‖ model), in nats a token. */
  readonly kl_mean: number;
  readonly kl_max: number;
  /** Positions at which both have the same most likely token. */
  readonly top1_agreement: number;
  readonly worst: readonly WorstToken[];
  /** By layer, if asked for. */
  readonly layers: readonly LayerError[] | null;
};

/** Numerics are the model's, not those of the one it is held against, which is computed as it is. */
export type DivergenceOptions = TextPart &
  Numerics & {
    /** A model's name or folder, and that of the one it is held against. */
    readonly model: string;
    readonly against: string;
    readonly text: string;
    readonly layers?: boolean;
    /** So many of the worst tokens. Default: 10. */
    readonly worst?: number;
    readonly signal?: AbortSignal | undefined;
    readonly onProgress?: ((done: number, total: number) => void) | undefined;
  };

const WORST = 10;
const TOKENS_BEFORE = 8;

/** @throws `invalid_request` for models that do not read the same tokens, for a text that is too short, and when it is aborted */
export async function divergenceOf(options: DivergenceOptions): Promise<Divergence> {
  const folders = [options.model, options.against].map(resolveModel) as [string, string];
  const [tokenizer, otherTokenizer] = await Promise.all([loadTokenizer(folders[0]), loadTokenizer(folders[1])]);
  // As a pod cuts it, which needs a position for what it generates: the two perplexities are of the same windows.
  const context = Math.min(...folders.map(contextOf)) - 1;
  const cut = cutText(options.text, tokenizer, context, options);
  const other = cutText(options.text, otherTokenizer, context, options);
  if (!isSameCut(cut, other)) throw unlike(options, 'their tokenizers read it as different tokens');
  const models = [await BareModel.open(folders[0], cut.window, options), await BareModel.open(folders[1], cut.window)] as const;
  const [{ config }, { config: otherConfig }] = models;
  if (config.vocabSize !== otherConfig.vocabSize) throw unlike(options, `their vocabularies have ${config.vocabSize} and ${otherConfig.vocabSize} tokens`);
  if (options.layers && (config.layers !== otherConfig.layers || config.hiddenSize !== otherConfig.hiddenSize))
    throw unlike(
      options,
      `they have ${config.layers} layers of ${config.hiddenSize} and ${otherConfig.layers} of ${otherConfig.hiddenSize}: leave out --layers`,
    );
  const comparison = new Comparison(models, tokenizer, options);
  for (const [index, { ids, scored_from }] of cut.windows.entries()) {
    for (let start = 0; start < ids.length; start += PASS_ROWS_MAX) {
      comparison.pass(ids, start, scored_from);
      await setImmediate();
      if (options.signal?.aborted) throw new MinipodError('cancelled', 'the comparison was stopped');
    }
    options.onProgress?.(index + 1, cut.windows.length);
  }
  return comparison.result(cut);
}

function contextOf(folder: string): number {
  using checkpoint = openCheckpoint(folder);
  return checkpoint.config.maxPositions;
}

const isSameCut = (a: CutText, b: CutText): boolean =>
  a.windows.length === b.windows.length && a.windows.every(({ ids }, window) => ids.join() === b.windows[window]?.ids.join());

const unlike = ({ model, against }: DivergenceOptions, why: string): MinipodError =>
  new MinipodError('invalid_request', `against: ${model} and ${against} cannot be held against each other: ${why}`, { param: 'against' });

class Comparison {
  readonly #models: readonly [BareModel, BareModel];
  readonly #tokenizer: Tokenizer;
  readonly #worst_max: number;
  readonly #nats: [number, number] = [0, 0];
  readonly #layers: { difference: number; size: number; worst: number }[] | null;
  #worst: WorstToken[] = [];
  #kl = 0;
  #kl_max = 0;
  #agreed = 0;
  #scored = 0;

  constructor(models: readonly [BareModel, BareModel], tokenizer: Tokenizer, { layers = false, worst = WORST }: DivergenceOptions) {
    this.#models = models;
    this.#tokenizer = tokenizer;
    this.#worst_max = worst;
    this.#layers = layers ? Array.from({ length: models[0].config.layers }, () => ({ difference: 0, size: 0, worst: 0 })) : null;
  }

  /** Rows from `start` on, as many as a pass has. Row i foresees token i + 1. */
  pass(ids: readonly number[], start: number, scored_from: number): void {
    const rows = Math.min(PASS_ROWS_MAX, ids.length - start);
    const first = Math.max(0, scored_from - 1 - start);
    const end = Math.min(rows, ids.length - 1 - start);
    for (const model of this.#models) {
      model.place(start, rows);
      model.embed(ids.slice(start, start + rows));
    }
    if (this.#layers === null) for (const model of this.#models) for (let layer = 0; layer < model.config.layers; layer++) model.layer(layer, rows);
    else
      for (const [layer, sums] of this.#layers.entries()) {
        for (const model of this.#models) model.layer(layer, rows);
        this.#compareRows(sums, first, end);
      }
    for (let row = first; row < end; row += LOGIT_ROWS_MAX) this.#compareLogits(ids, start, row, Math.min(LOGIT_ROWS_MAX, end - row));
  }

  #compareRows(sums: { difference: number; size: number; worst: number }, first: number, end: number): void {
    const { hiddenSize } = this.#models[0].config;
    const [x, other] = this.#models.map((model) => model.rowsAt('x', hiddenSize, end)) as [Float32Array, Float32Array];
    for (let row = first; row < end; row++) {
      let difference = 0;
      let size = 0;
      for (let at = row * hiddenSize; at < (row + 1) * hiddenSize; at++) {
        const value = other[at] as number;
        difference += ((x[at] as number) - value) ** 2;
        size += value * value;
      }
      sums.difference += difference;
      sums.size += size;
      sums.worst = Math.max(sums.worst, Math.sqrt(difference / size));
    }
  }

  #compareLogits(ids: readonly number[], start: number, row: number, count: number): void {
    const { vocabSize } = this.#models[0].config;
    const [mine, others] = this.#models.map((model) => model.logits(row, count)) as [ReturnType<BareModel['logits']>, ReturnType<BareModel['logits']>];
    for (let index = 0; index < count; index++) {
      const at = index * vocabSize;
      const token = ids[start + row + index + 1] as number;
      const sum = this.#models[0].kernels.logSumExp(mine.address + at * 4, vocabSize);
      const otherSum = this.#models[1].kernels.logSumExp(others.address + at * 4, vocabSize);
      const logprobOf = (id: number): number => Math.fround((mine.values[at + id] as number) - sum);
      const otherLogprobOf = (id: number): number => Math.fround((others.values[at + id] as number) - otherSum);
      let kl = 0;
      for (let id = 0; id < vocabSize; id++) {
        const logprob = otherLogprobOf(id);
        if (logprob > LOGPROB_MIN) kl += exp(logprob) * (logprob - logprobOf(id));
      }
      const [best, otherBest] = [mine, others].map(({ address }, model) => this.#models[model as 0 | 1].kernels.argmaxRow(address + at * 4, vocabSize));
      if (best === otherBest) this.#agreed++;
      this.#nats[0] -= logprobOf(token);
      this.#nats[1] -= otherLogprobOf(token);
      this.#kl += kl;
      this.#kl_max = Math.max(this.#kl_max, kl);
      this.#keepWorst(kl, ids, start + row + index + 1, logprobOf(token), otherLogprobOf(token));
      this.#scored++;
    }
  }

  #keepWorst(kl: number, ids: readonly number[], position: number, logprob: number, against_logprob: number): void {
    if (kl === 0 || (this.#worst.length === this.#worst_max && kl <= (this.#worst.at(-1)?.kl ?? 0))) return;
    const token_id = ids[position] as number;
    const before = this.#tokenizer.decode(ids.slice(Math.max(0, position - TOKENS_BEFORE), position), { skipSpecialTokens: true });
    const worst: WorstToken = { index: this.#scored, token_id, token: this.#tokenizer.tokenText(token_id), before, kl, logprob, against_logprob };
    this.#worst = [...this.#worst, worst].sort((a, b) => b.kl - a.kl || a.index - b.index).slice(0, this.#worst_max);
  }

  result(cut: CutText): Divergence {
    return {
      model: perplexityFrom(this.#nats[0], cut),
      against: perplexityFrom(this.#nats[1], cut),
      kl_mean: this.#kl / this.#scored,
      kl_max: this.#kl_max,
      top1_agreement: this.#agreed / this.#scored,
      worst: this.#worst,
      layers: this.#layers?.map(({ difference, size, worst }, layer) => ({ layer, relative_error: Math.sqrt(difference / size), worst_row: worst })) ?? null,
    };
  }
}

/** e to the power of less is nothing in float32, and beyond what `exp` is for. */
const LOGPROB_MIN = -100;
