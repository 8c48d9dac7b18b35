/**
 * Log-probabilities in the three shapes that clients know: completions', chat's and vLLM's for prompts.
 * @module
 */
import type { PromptInfo, TokenLogprob } from '../results.ts';
import type { HiddenTokens } from './hidden-tokens.ts';

export type CompletionLogprobs = {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  /** Where each token starts, in characters (Unicode code points) of the choice's text. */
  readonly text_offset: number[];
};

type Alternative = Omit<TokenLogprob, 'top_logprobs'>;
type TokenName = (token: Alternative) => string;

// JSON has no −∞; vLLM's floor.
const LOGPROB_MIN = -9999;
const finite = (logprob: number): number => Math.max(logprob, LOGPROB_MIN);

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A token's text; where it is only part of a character, its bytes as OpenAI writes them: `bytes:\xe2\x80`. */
export function tokenText({ bytes, token }: Alternative): string {
  if (bytes.length === 0) return token;
  try {
    return strict.decode(Uint8Array.from(bytes));
  } catch {
    return `bytes:${bytes.map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  }
}

/** vLLM's `return_tokens_as_token_ids`. */
const tokenIdText = ({ token_id }: Alternative): string => `token_id:${token_id}`;

export const tokenNames = (asIds: boolean): TokenName => (asIds ? tokenIdText : tokenText);

const codePoints = (text: string): number => {
  let count = 0;
  for (const _ of text) count++;
  return count;
};

/** Counts the characters that tokens complete, one choice's tokens in order. A token within a character starts where that character does. */
class Offsets {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  readonly #hidden: Pick<HiddenTokens, 'has'>;
  #offset: number;

  constructor(start: number, hidden: Pick<HiddenTokens, 'has'>) {
    this.#offset = start;
    this.#hidden = hidden;
  }

  take({ token_id, bytes }: Alternative): number {
    const start = this.#offset;
    if (!this.#hidden.has(token_id)) this.#offset += codePoints(this.#decoder.decode(Uint8Array.from(bytes), { stream: true }));
    return start;
  }
}

/** Writes the logprobs of one completion choice, chunk after chunk. */
export class CompletionLogprobWriter {
  readonly #name: TokenName;
  readonly #best: number;
  readonly #offsets: Offsets;
  readonly #echo: { text: string; prompt: PromptInfo } | null;

  /** `best`: alternatives to write, of those that are there. */
  constructor(name: TokenName, best: number, hidden: Pick<HiddenTokens, 'has'>, echo: { text: string; prompt: PromptInfo } | null) {
    this.#name = name;
    this.#best = best;
    this.#echo = echo;
    this.#offsets = new Offsets(echo === null ? 0 : codePoints(echo.text), hidden);
  }

  /** `firstToken` names the prompt's first token, which has no log-probability and so no record. */
  prompt(firstToken: string): CompletionLogprobs {
    const written: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    const { text, prompt } = this.#echo ?? { text: '', prompt: { token_ids: [], logprobs: [] } };
    // A special token that the text does not show (bos) takes no room in it.
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    let at = 0;
    let offset = 0;
    for (let i = 0; i < prompt.token_ids.length; i++) {
      const logprob = prompt.logprobs?.[i] ?? null;
      written.tokens.push(logprob === null ? firstToken : this.#name(logprob));
      written.token_logprobs.push(logprob === null ? null : finite(logprob.logprob));
      written.top_logprobs.push(logprob === null ? null : this.#top(logprob));
      written.text_offset.push(offset);
      const shown = logprob === null ? firstToken : decoder.decode(Uint8Array.from(logprob.bytes), { stream: true });
      if (!text.startsWith(shown, at)) continue;
      at += shown.length;
      offset += codePoints(shown);
    }
    return written;
  }

  tokens(logprobs: readonly TokenLogprob[]): CompletionLogprobs {
    return {
      tokens: logprobs.map(this.#name),
      token_logprobs: logprobs.map(({ logprob }) => finite(logprob)),
      top_logprobs: logprobs.map((logprob) => this.#top(logprob)),
      text_offset: logprobs.map((logprob) => this.#offsets.take(logprob)),
    };
  }

  /** The best ones and, wherever it ranks, the token itself; of two with one name the likelier. `fromEntries` takes any name for a plain key. */
  #top(logprob: TokenLogprob): Record<string, number> {
    const named = new Map<string, number>();
    for (const token of [...logprob.top_logprobs.slice(0, this.#best), logprob])
      if (!named.has(this.#name(token))) named.set(this.#name(token), finite(token.logprob));
    return Object.fromEntries(named);
  }
}

export const joinLogprobs = (a: CompletionLogprobs, b: CompletionLogprobs): CompletionLogprobs => ({
  tokens: [...a.tokens, ...b.tokens],
  token_logprobs: [...a.token_logprobs, ...b.token_logprobs],
  top_logprobs: [...a.top_logprobs, ...b.top_logprobs],
  text_offset: [...a.text_offset, ...b.text_offset],
});

/** Chat's `logprobs.content`. */
export const chatLogprobs = (logprobs: readonly TokenLogprob[], name: TokenName) =>
  logprobs.map((token) => ({ ...chatToken(token, name), top_logprobs: token.top_logprobs.map((other) => chatToken(other, name)) }));

const chatToken = (token: Alternative, name: TokenName) => ({ token: name(token), logprob: finite(token.logprob), bytes: token.bytes });

/** vLLM's `prompt_logprobs`: null for the first token, then token id → its record; the rank is known for those among the best only. */
export function promptLogprobs(prompt: PromptInfo, best: number) {
  return (prompt.logprobs ?? []).map((entry) => {
    if (entry === null) return null;
    const record: Record<string, { logprob: number; rank: number | null; decoded_token: string }> = {
      [entry.token_id]: { logprob: finite(entry.logprob), rank: null, decoded_token: tokenText(entry) },
    };
    entry.top_logprobs.slice(0, best).forEach((other, index) => {
      record[other.token_id] = { logprob: finite(other.logprob), rank: index + 1, decoded_token: tokenText(other) };
    });
    return record;
  });
}
