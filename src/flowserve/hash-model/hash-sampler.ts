/**
 * The hash model's next token: the row's hash, position, and, where the request samples, its seed and choice.
 *
 * Where it has tokens that MTP layers can foresee (`ModelShape.foreseeable`), the row says which ones: those are a hash of the sequence and the position alone.
 * There are no logits. So what only shapes a distribution (top_p, min_p, penalties, logit_bias; temperature but for being 0) is taken and changes
 * nothing: a recorded workload runs as it is. Of top_k there is so much: where it samples, a text is of so many different tokens, the same everywhere, and so
 * repeats itself where they are few. What would have to be made up is refused: log-probabilities. Stop tokens come by chance, never before
 * `min_tokens`.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { type ErrorRecord, MinipodError, toErrorRecord } from '../../protocol/errors.ts';
import type { PositionLogprobs, Sampling, Sequence } from '../../protocol/messages.ts';
import type { Sampled, TokenSampler } from '../forward/arithmetic.ts';
import { Hash } from './hash.ts';
import type { HashForward } from './hash-forward.ts';

/** Before the hash model is given a request: @throws `invalid_request` for what it cannot answer. */
export function checkHashSampling({ logprobs, prompt_logprobs }: Pick<Sampling, 'logprobs' | 'prompt_logprobs'>): void {
  const param = logprobs >= 0 ? 'logprobs' : prompt_logprobs >= 0 ? 'prompt_logprobs' : null;
  if (param !== null)
    throw new MinipodError('invalid_request', `${param}: the hash model computes no probabilities; leave ${param} out, or run the real kernels`, { param });
}

type Slot = { readonly sequence: Sequence; readonly seedLow: number; readonly seedHigh: number; readonly refusal: ErrorRecord | null };

const KIND = { greedy: 31, sampled: 32, foreseeable: 33 } as const;

export class HashSampler implements TokenSampler {
  readonly #words: Int32Array;
  readonly #forward: HashForward;
  readonly #vocabSize: number;
  readonly #hash = new Hash();
  readonly #token = new Int32Array(2);
  /** Of 2³² hashes so many stand for a token that can be foreseen, in either model. */
  readonly #foreseeable: number;
  readonly #slots: (Slot | null)[] = [];

  constructor(forward: HashForward, space: AddressSpace) {
    this.#words = space.wordsOf(forward.layout.base);
    this.#forward = forward;
    this.#vocabSize = forward.config.vocabSize;
    this.#foreseeable = Math.floor(Math.sqrt(forward.config.foreseeable ?? 0) * 2 ** 32);
  }

  attach(slot: number, sequence: Sequence): void {
    const seed = BigInt.asUintN(64, BigInt(sequence.sampling.seed)); // negative ones in two's complement
    this.#slots[slot] = {
      // Of a prompt that cannot be scored nothing is scored: the request fails with its first token.
      sequence: { ...sequence, sampling: { ...sequence.sampling, prompt_logprobs: -1 } },
      seedLow: Number(seed & 0xffff_ffffn),
      seedHigh: Number(seed >> 32n),
      refusal: refusalOf(sequence.sampling),
    };
  }

  detach(slot: number): void {
    this.#slots[slot] = null;
  }

  reset(): void {
    this.#slots.length = 0;
  }

  sequenceOf(slot: number): Sequence {
    return this.#slotOf(slot).sequence;
  }

  sample(slot: number, row: number, position: number, generated: number): Sampled {
    const { sequence, seedLow, seedHigh, refusal } = this.#slotOf(slot);
    if (refusal !== null) return { token: -1, error: refusal };
    const isGreedy = sequence.sampling.temperature === 0;
    const at = this.#forward.headRow(row);
    this.#hash.begin(isGreedy ? KIND.greedy : KIND.sampled, position, isGreedy ? 0 : sequence.choice);
    if (!isGreedy) this.#hash.absorb(seedLow, seedHigh);
    this.#hash.absorb(this.#words[at] as number, this.#words[at + 1] as number);
    this.#hash.write(this.#token, 0);
    const hash = (this.#token[0] as number) >>> 0;
    const { top_k } = sequence.sampling;
    const token = isGreedy || top_k <= 0 ? hash % this.#vocabSize : Math.floor((this.#vocabSize * (1 + 2 * (hash % top_k))) / (2 * top_k)) % this.#vocabSize;
    if ((this.#token[1] as number) >>> 0 < this.#foreseeable) return { token: this.#foreseeableAt(sequence, position, generated), error: null };
    return { token: generated < sequence.sampling.min_tokens ? this.#unlessBanned(token, sequence.sampling.stop_token_ids) : token, error: null };
  }

  /** The rows of both models say whether a token is what could be foreseen, and those of MTP layers are read as the others are. */
  guess(slot: number, row: number, position: number, generated: number): number {
    return this.sample(slot, row, position, generated).token;
  }

  #foreseeableAt({ prompt, choice, sampling }: Sequence, position: number, generated: number): number {
    this.#hash.begin(KIND.foreseeable, position, choice);
    this.#hash.absorb(prompt.length, prompt[0] ?? 0);
    this.#hash.write(this.#token, 0);
    const token = ((this.#token[0] as number) >>> 0) % this.#vocabSize;
    return generated < sampling.min_tokens ? this.#unlessBanned(token, sampling.stop_token_ids) : token;
  }

  /** The token, or the next one that does not stop. */
  #unlessBanned(token: number, banned: readonly number[]): number {
    let allowed = token;
    for (let tries = 0; tries < banned.length && banned.includes(allowed); tries++) allowed = (allowed + 1) % this.#vocabSize;
    return allowed;
  }

  logprobs(): PositionLogprobs {
    throw new MinipodError('internal', 'the hash model was asked for log-probabilities, which it refuses before');
  }

  #slotOf(slot: number): Slot {
    const held = this.#slots[slot];
    if (held === null || held === undefined) throw new Error(`slot ${slot} holds no sequence`);
    return held;
  }
}

function refusalOf(sampling: Sampling): ErrorRecord | null {
  try {
    checkHashSampling(sampling);
    return null;
  } catch (error) {
    return toErrorRecord(error);
  }
}
