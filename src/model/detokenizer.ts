/**
 * Token ids to text as they come, never half a character.
 * @module
 */
import { newUtf8Decoder } from './utf8-decoder.ts';
import type { Vocabulary } from './vocabulary.ts';

const NO_CHARACTER = '\uFFFD';

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
  readonly #vocabulary: Vocabulary;
  readonly #decoder = newUtf8Decoder();
  readonly #skipSpecialTokens: boolean;
  /** The last token ended with a character: the decoder holds no bytes. */
  #isWhole = true;

  constructor(vocabulary: Vocabulary, { skipSpecialTokens = true }: { readonly skipSpecialTokens?: boolean } = {}) {
    this.#vocabulary = vocabulary;
    this.#skipSpecialTokens = skipSpecialTokens;
  }

  /** The text that this token completes; empty while a character lacks bytes. Bytes that cannot become one are U+FFFD. */
  push(id: number): string {
    if (this.#skipSpecialTokens && this.#vocabulary.specialTokenIds.has(id)) return '';
    const text = this.#vocabulary.tokenText(id);
    const wasWhole = this.#isWhole;
    this.#isWhole = !text.includes(NO_CHARACTER);
    return wasWhole && this.#isWhole ? text : this.#decoder.decode(this.#vocabulary.tokenBytes(id), { stream: true });
  }

  /** U+FFFD if a character was left incomplete, else nothing. Afterwards the detokenizer starts anew. */
  flush(): string {
    this.#isWhole = true;
    return this.#decoder.decode();
  }
}
