/**
 * A text cut into windows that a model can see at once, each token scored once.
 *
 *   tokens     0 ───────────────────────────────────────────────▶
 *   window 0   [bos | scored ············ ]
 *   window 1          [bos | seen already | scored ······]           begins `stride` tokens after the one before it
 *   window 2                     [bos | seen already | scored ······]
 *
 * A stride of the window's own length cuts the text apart: cheapest, but each window's first tokens are scored with nothing before them. A shorter one costs
 * window ÷ stride as much, and leaves every token at least window − stride of what stands before it.
 * @module
 */
import { readFileSync } from 'node:fs';
import type { Tokenizer } from '../model/tokenizer.ts';
import { MinipodError } from '../protocol/errors.ts';

export type TextWindow = {
  /** What the model is given: bos, if it has one, then tokens of the text. */
  readonly ids: readonly number[];
  /** The first of `ids` that is scored; all after it are too. */
  readonly scored_from: number;
};

export type TextPart = {
  /** Ids of a window at most, bos among them. Default: as many as the model can see. */
  readonly window?: number | undefined;
  /** Tokens from the beginning of a window to that of the next. Default: half of what a window holds. */
  readonly stride?: number | undefined;
  /** Tokens at the beginning of the text that are left out, and how many are taken at most after them. */
  readonly skip_tokens?: number | undefined;
  readonly max_tokens?: number | undefined;
};

export type CutText = {
  readonly windows: readonly TextWindow[];
  readonly window: number;
  readonly stride: number;
  /** Those that are scored, and their bytes in the text. */
  readonly tokens: number;
  readonly bytes: number;
};

/** @throws `invalid_request` where the file cannot be read */
export function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new MinipodError('invalid_request', `text: ${file} cannot be read: ${error instanceof Error ? error.message : error}`, {
      param: 'text',
      cause: error,
    });
  }
}

/** Ids of a part of a text. @throws `invalid_request` where too little is left */
export function tokensOf(text: string, tokenizer: Tokenizer, { skip_tokens = 0, max_tokens }: TextPart): number[] {
  const all = tokenizer.encode(text, { addSpecialTokens: false });
  const taken = all.slice(skip_tokens, max_tokens === undefined ? undefined : skip_tokens + max_tokens);
  if (taken.length < 2)
    throw new MinipodError(
      'invalid_request',
      `text: has ${all.length} tokens, of which ${taken.length} are left after the first ${skip_tokens}; at least 2 are needed`,
      {
        param: 'text',
      },
    );
  return taken;
}

/** `context`: ids that the model can be given. @throws `invalid_request` for a window or stride that cannot be */
export function cutText(text: string, tokenizer: Tokenizer, context: number, part: TextPart = {}): CutText {
  const head = tokenizer.bosTokenId === null ? [] : [tokenizer.bosTokenId];
  const { window = context } = part;
  const refuse = (param: string, why: string): never => {
    throw new MinipodError('invalid_request', `${param}: ${why}`, { param });
  };
  if (window > context) refuse('window', `${window} ids, and the model can be given ${context}`);
  const room = window - head.length;
  if (room < 2) refuse('window', `${window} ids leave ${room} for the text; at least 2 are needed`);
  const stride = part.stride ?? Math.ceil(room / 2);
  // Where there is no bos, a window's first token has to be one that was scored before.
  if (stride > window - 1)
    refuse('stride', `${stride} tokens from window to window, of ${window} ids each, would leave some unscored; at most ${window - 1} are possible`);

  const tokens = tokensOf(text, tokenizer, part);
  const windows: TextWindow[] = [];
  // Nothing stands before the first token of all where there is no bos: it cannot be scored.
  let done = head.length === 0 ? 1 : 0;
  const first = done;
  for (let from = 0; done < tokens.length; from += stride) {
    const end = Math.min(from + room, tokens.length);
    windows.push({ ids: [...head, ...tokens.slice(from, end)], scored_from: head.length + done - from });
    done = end;
  }
  const bytes = tokens.slice(first).reduce((sum, id) => sum + tokenizer.tokenBytes(id).length, 0);
  return { windows, window, stride, tokens: tokens.length - first, bytes };
}
