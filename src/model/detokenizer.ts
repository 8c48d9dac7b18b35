/**
 * Token ids to text as they come, never half a character.
 * @module
 */
import type { Tokenizer } from './tokenizer.ts';
import { newUtf8Decoder } from './utf8-decoder.ts';

/**
 * The pushed texts and the flushed one together are the decoded ids, special tokens skipped unless asked for.
 * All state is what the ids determine: one that is pushed a request's ids so far goes on where the lost one stopped.
 *
 * @example
 * ```ts
 * const detokenizer = new Detokenizer(tokenizer);
 * for (const id of ids) process.stdout.write(detokenizer.push(id));
 * process.stdout.write(detokenizer.flush());
 * ```
 */
export class Detokenizer {
  readonly #tokenizer: Pick<Tokenizer, 'tokenBytes' | 'specialTokenIds'>;
  readonly #decoder = newUtf8Decoder();
  readonly #skipSpecialTokens: boolean;

  constructor(tokenizer: Pick<Tokenizer, 'tokenBytes' | 'specialTokenIds'>, { skipSpecialTokens = true }: { readonly skipSpecialTokens?: boolean } = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = skipSpecialTokens;
  }

  /** The text that this token completes; empty while a character lacks bytes. Bytes that cannot become one are U+FFFD. */
  push(id: number): string {
    if (this.#skipSpecialTokens && this.#tokenizer.specialTokenIds.has(id)) return '';
    return this.#decoder.decode(this.#tokenizer.tokenBytes(id), { stream: true });
  }

  /** U+FFFD if a character was left incomplete, else nothing. Afterwards the detokenizer starts anew. */
  flush(): string {
    return this.#decoder.decode();
  }
}
