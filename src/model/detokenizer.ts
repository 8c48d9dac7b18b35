/**
 * Token ids to text as they come, never half a character.
 * @module
 */
import { newUtf8Decoder } from './utf8-decoder.ts';
import type { Vocabulary } from './vocabulary.ts';

const NO_CHARACTER = '\uFFFD';
/** Texts are kept of the ids below. */
const KEPT_MAX = 2 ** 18;

/** By vocabulary and id: the text of a token that is no special one, and begins and ends with a character; null: it is another one; undefined: nobody has asked. */
const wholeTexts = new WeakMap<Vocabulary, (string | null | undefined)[]>();

function wholeTextsOf(vocabulary: Vocabulary): (string | null | undefined)[] {
  const known = wholeTexts.get(vocabulary);
  if (known !== undefined) return known;
  const texts: (string | null | undefined)[] = [];
  wholeTexts.set(vocabulary, texts);
  return texts;
}

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
  readonly #wholeTexts: (string | null | undefined)[];
  readonly #decoder = newUtf8Decoder();
  readonly #skipSpecialTokens: boolean;
  /** The last token ended with a character: the decoder holds no bytes. */
  #isWhole = true;

  constructor(vocabulary: Vocabulary, { skipSpecialTokens = true }: { readonly skipSpecialTokens?: boolean } = {}) {
    this.#vocabulary = vocabulary;
    this.#wholeTexts = wholeTextsOf(vocabulary);
    this.#skipSpecialTokens = skipSpecialTokens;
  }

  /** The text that this token completes; empty while a character lacks bytes. Bytes that cannot become one are U+FFFD. */
  push(id: number): string {
    const whole = this.#isWhole ? (this.#wholeTexts[id] ?? this.#lookUp(id)) : null;
    if (whole !== null) return whole;
    if (this.#skipSpecialTokens && this.#vocabulary.specialTokenIds.has(id)) return '';
    const text = this.#vocabulary.tokenText(id);
    const wasWhole = this.#isWhole;
    this.#isWhole = !text.includes(NO_CHARACTER);
    return wasWhole && this.#isWhole ? text : this.#decoder.decode(this.#vocabulary.tokenBytes(id), { stream: true });
  }

  /** Kept for all who ask later, in a list without gaps: V8 makes hash tables of others. */
  #lookUp(id: number): string | null {
    const texts = this.#wholeTexts;
    if (texts[id] === null || !(id >= 0 && id < KEPT_MAX)) return null;
    while (texts.length <= id) texts.push(undefined);
    const text = this.#vocabulary.specialTokenIds.has(id) ? null : this.#vocabulary.tokenText(id);
    texts[id] = text === null || text.includes(NO_CHARACTER) ? null : text;
    return texts[id];
  }

  /** U+FFFD if a character was left incomplete, else nothing. Afterwards the detokenizer starts anew. */
  flush(): string {
    this.#isWhole = true;
    return this.#decoder.decode();
  }
}
