/**
 * Turns logits into tokens and log-probabilities, for the sequences in an NPU's slots.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Kernels } from '../../model/kernels/kernels.ts';
import { SAMPLING_WORD, SAMPLING_WORDS, writeSamplingParams } from '../../model/kernels/sampling-params.ts';
import { assert, type ErrorRecord } from '../../protocol/errors.ts';
import type { PositionLogprobs, Sequence } from '../../protocol/messages.ts';
import type { Sampled, TokenSampler } from '../forward/arithmetic.ts';
import type { Forward } from '../forward/forward.ts';
import { BANNED_MAX, BIAS_MAX } from '../layouts/npu-layout.ts';

type Slot = {
  readonly sequence: Sequence;
  /** No bias, penalty or ban applies and temperature is 0: the token is the logits' argmax. */
  readonly isPlainGreedy: boolean;
  readonly hasPenalties: boolean;
  /** Output tokens and how often each came. */
  readonly counts: Map<number, number>;
};

export const NOT_FINITE: ErrorRecord = { code: 'not_finite', message: 'the model computed logits that are NaN or infinite', param: null };

export class Sampler implements TokenSampler {
  readonly #forward: Forward;
  readonly #kernels: Kernels;
  readonly #memory: WebAssembly.Memory;
  readonly #words: Int32Array;
  readonly #floats: Float32Array;
  readonly #slots: (Slot | null)[] = [];

  constructor(forward: Forward, space: AddressSpace) {
    this.#forward = forward;
    this.#kernels = forward.kernels;
    this.#memory = space.memory(forward.layout.base);
    this.#words = space.wordsOf(forward.layout.base);
    this.#floats = space.floatsOf(forward.layout.base);
  }

  attach(slot: number, sequence: Sequence, output: readonly number[]): void {
    const { sampling } = sequence;
    const hasPenalties = sampling.presence_penalty !== 0 || sampling.frequency_penalty !== 0 || sampling.repetition_penalty !== 1;
    const isPlainGreedy = sampling.temperature === 0 && !hasPenalties && sampling.bias_ids.length === 0 && sampling.min_tokens === 0;
    const counts = new Map<number, number>();
    for (const token of output) counts.set(token, (counts.get(token) ?? 0) + 1);
    this.#slots[slot] = { sequence, isPlainGreedy, hasPenalties, counts };
    if (!isPlainGreedy) this.#writeRecord(slot, sequence);
  }

  detach(slot: number): void {
    this.#slots[slot] = null;
  }

  reset(): void {
    this.#slots.length = 0;
  }

  sequenceOf(slot: number): Sequence {
    const held = this.#slots[slot];
    if (held === null || held === undefined) throw new Error(`slot ${slot} holds no sequence`);
    return held.sequence;
  }

  /** The token of the logits' row for absolute position `position`; `generated` tokens came before it. Or the reason why there is none. */
  sample(slot: number, row: number, position: number, generated: number): Sampled {
    const { logits, sampleScratch } = this.#forward.at;
    const { vocabSize } = this.#forward.config;
    const at = logits + row * vocabSize * 4;
    if (this.#kernels.allFinite(at, vocabSize) === 0) return { token: -1, error: NOT_FINITE };
    const held = this.#slots[slot] as Slot;
    if (held.isPlainGreedy) return { token: this.#kernels.argmaxRow(at, vocabSize), error: null };
    const record = this.#recordOf(slot);
    const word = record >>> 2;
    this.#words[word + SAMPLING_WORD.position] = position;
    this.#words[word + SAMPLING_WORD.banCount] = generated < held.sequence.sampling.min_tokens ? held.sequence.sampling.stop_token_ids.length : 0;
    if (held.hasPenalties) this.#writeOutputPairs(word, held.counts);
    const token = this.#kernels.sampleRow(at, vocabSize, record, sampleScratch) >>> 0;
    if (held.hasPenalties) held.counts.set(token, (held.counts.get(token) ?? 0) + 1);
    return { token, error: null };
  }

  guess(slot: number, row: number, position: number, generated: number, before: readonly number[]): number {
    const { counts, hasPenalties } = this.#slots[slot] as Slot;
    if (!hasPenalties) return this.sample(slot, row, position, generated).token;
    for (const token of before) counts.set(token, (counts.get(token) ?? 0) + 1);
    const { token } = this.sample(slot, row, position, generated);
    for (const drafted of token < 0 ? before : [...before, token]) this.#uncount(slot, drafted);
    return token;
  }

  #uncount(slot: number, token: number): void {
    const { counts } = this.#slots[slot] as Slot;
    const times = (counts.get(token) ?? 0) - 1;
    if (times > 0) counts.set(token, times);
    else counts.delete(token);
  }

  /** Log-probability of a token under the raw logits, and of the `top` best. */
  logprobs(row: number, token: number, top: number): PositionLogprobs {
    const { logits, topIds, topValues } = this.#forward.at;
    const { vocabSize } = this.#forward.config;
    const at = logits + row * vocabSize * 4;
    const logSum = this.#kernels.logSumExp(at, vocabSize);
    const logprob = Math.fround((this.#floats[(at >>> 2) + token] as number) - logSum);
    if (top <= 0) return { logprob, top_ids: [], top_logprobs: [] };
    const count = Math.min(top, vocabSize);
    this.#kernels.topLogits(topIds, topValues, at, vocabSize, count);
    const ids = Array.from({ length: count }, (_, index) => this.#words[(topIds >>> 2) + index] as number);
    const values = ids.map((_, index) => Math.fround((this.#floats[(topValues >>> 2) + index] as number) - logSum));
    return { logprob, top_ids: ids, top_logprobs: values };
  }

  #recordOf(slot: number): number {
    const { address, slot_bytes } = this.#forward.layout.samplers;
    return offsetOf(address) + slot * slot_bytes;
  }

  #writeRecord(slot: number, { sampling, choice }: Sequence): void {
    const record = this.#recordOf(slot);
    const biasAt = record + SAMPLING_WORDS * 4;
    const bannedAt = biasAt + BIAS_MAX * 8;
    assert(sampling.bias_ids.length <= BIAS_MAX && sampling.stop_token_ids.length <= BANNED_MAX, 'the frontend bounds both lists');
    const seed = BigInt.asUintN(64, BigInt(sampling.seed)); // negative ones in two's complement
    writeSamplingParams(this.#memory, record, {
      seedLow: Number(seed & 0xffff_ffffn),
      seedHigh: Number(seed >> 32n),
      choice,
      position: 0,
      temperature: sampling.temperature,
      topK: Math.max(0, sampling.top_k),
      topP: sampling.top_p,
      minP: sampling.min_p,
      repetitionPenalty: sampling.repetition_penalty,
      frequencyPenalty: sampling.frequency_penalty,
      presencePenalty: sampling.presence_penalty,
      biasCount: sampling.bias_ids.length,
      biasAddress: biasAt,
      outputCount: 0,
      outputAddress: this.#forward.at.outputPairs,
      banCount: 0,
      banAddress: bannedAt,
    });
    sampling.bias_ids.forEach((id, index) => {
      this.#words[(biasAt >>> 2) + 2 * index] = id;
      this.#floats[(biasAt >>> 2) + 2 * index + 1] = sampling.bias_values[index] ?? 0;
    });
    sampling.stop_token_ids.forEach((id, index) => {
      this.#words[(bannedAt >>> 2) + index] = id;
    });
  }

  #writeOutputPairs(word: number, counts: ReadonlyMap<number, number>): void {
    let pair = this.#forward.at.outputPairs >>> 2;
    for (const [token, times] of counts) {
      this.#words[pair++] = token;
      this.#words[pair++] = times;
    }
    this.#words[word + SAMPLING_WORD.outputCount] = counts.size;
  }
}
