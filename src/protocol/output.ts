/** What a DP group tells its output process, which turns ids into text and streams it to the frontend (xDeepServe §4, output shortcut). @module */
import type { FinishReason, PositionLogprobs, Sequence, Stage } from './messages.ts';

/** How a sequence's ids become text: of use to its output process alone. */
export type TextTerms = {
  readonly stop: readonly string[];
  readonly skip_special_tokens: boolean;
};

export type TokenOut = {
  readonly request: number;
  readonly choice: number;
  /** Of the token in the choice's output, from 0 on. */
  readonly index: number;
  readonly token: number;
  readonly finish: FinishReason | null;
  /** The token ended it by itself (end of sequence, stop_token_ids) and is not part of the text. */
  readonly stops: boolean;
  readonly logprobs: PositionLogprobs | null;
  /** Of a choice's first token: tokens of its prompt whose KV was there already. */
  readonly cached: number;
  /** Of prompt tokens `prompt_start`…, as their chunk was computed; `token` is −1 if it yielded none. */
  readonly prompt_start: number;
  readonly prompt_logprobs: readonly PositionLogprobs[] | null;
};

/** One whose first token here comes now: `output` came from elsewhere before it. Without its prompt, unless that is scored. */
export type Begun = { readonly sequence: Sequence; readonly stage: Stage; readonly output: readonly number[] };

/** An output process's inbox: one message a step, for all of its sequences. */
export type OutputMessage =
  | { readonly type: 'TOKENS'; readonly tokens: readonly TokenOut[]; readonly begun: readonly Begun[] }
  /** It ends here without a token that says so: cancelled, failed, or another's by now. */
  | { readonly type: 'FORGET'; readonly request: number; readonly choice: number };
