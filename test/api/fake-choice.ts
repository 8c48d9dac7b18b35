/** The tokens of the fake pod: what they are, which comes next, and how a choice writes them. @module */
import type { ResolvedGenerateOptions } from '../../src/options/options.ts';
import type { Chunk, TokenLogprob } from '../../src/results.ts';

export const BOS = 256;
export const EOS = 257;
export const VOCAB_SIZE = 258;

export const hash = (...values: number[]): number => {
  let h = 0x811c9dc5;
  for (const value of values) h = Math.imul(h ^ value ^ (h >>> 13), 0x01000193) + 0x9e3779b9;
  return (h ^ (h >>> 15)) >>> 0;
};

const encoder = new TextEncoder();
export const bytesOf = (id: number): number[] => (id < 256 ? [id] : [...encoder.encode(id === BOS ? '<|bos|>' : '<|end|>')]);

/** One choice: a token a step, text held back while it may be the start of a stop string or half of a character. */
export class Choice {
  done = false;
  readonly #ids: number[];
  readonly #promptLength: number;
  readonly #options: ResolvedGenerateOptions & { max_tokens: number };
  readonly #salt: number[];
  readonly #choice: number;
  readonly #decoder = new TextDecoder();
  #held = '';

  constructor(prompt: readonly number[], options: ResolvedGenerateOptions & { max_tokens: number }, seed: number, choice: number) {
    this.#ids = [...prompt];
    this.#promptLength = prompt.length;
    this.#options = options;
    this.#choice = choice;
    this.#salt = options.temperature === 0 ? [] : [seed, choice];
  }

  step(): Chunk {
    const { stop, stop_token_ids, ignore_eos, max_tokens, logprobs } = this.#options;
    const digest = hash(this.#ids.length, ...this.#salt, ...this.#ids.slice(-32));
    const id = this.#next(digest);
    this.#ids.push(id);
    const count = this.#ids.length - this.#promptLength;
    this.#held += id < 256 ? this.#decoder.decode(Uint8Array.of(id), { stream: true }) : '';
    const found = stop.map((one) => ({ one, at: this.#held.indexOf(one) })).find(({ at }) => at >= 0);
    const stopToken = (id === EOS && !ignore_eos) || stop_token_ids.includes(id);
    const finish_reason = found !== undefined || stopToken ? 'stop' : count >= max_tokens ? 'length' : null;
    const keep = finish_reason === null ? Math.max(0, ...stop.map((one) => one.length - 1)) : 0;
    if (found !== undefined) this.#held = this.#held.slice(0, found.at);
    else if (finish_reason !== null) this.#held += this.#decoder.decode();
    const text = this.#held.slice(0, this.#held.length - keep);
    this.#held = this.#held.slice(text.length);
    this.done = finish_reason !== null;
    const stop_reason = found?.one ?? (stop_token_ids.includes(id) ? id : null);
    return {
      choice: this.#choice,
      text,
      token_ids: [id],
      logprobs: logprobs === undefined ? null : [logprobOf(id, digest, logprobs)],
      finish_reason,
      stop_reason,
    };
  }

  #next(digest: number): number {
    const last = this.#ids.at(-1);
    if (last === 0xc3) return 0x80 + (digest % 64);
    if (digest % 50 === 0) return EOS;
    return digest % 5 === 0 ? 0xc3 : 0x20 + (digest % 95);
  }
}

export function logprobOf(id: number, digest: number, best: number): TokenLogprob {
  const token = (token_id: number, rank: number) => {
    const bytes = bytesOf(token_id);
    return { token_id, token: new TextDecoder().decode(Uint8Array.from(bytes)), bytes, logprob: -Math.fround(rank + (digest % 1000) / 1001) };
  };
  const others = Array.from({ length: best }, (_, rank) => token((id + rank) % VOCAB_SIZE, rank));
  return { ...token(id, 0), top_logprobs: others };
}
