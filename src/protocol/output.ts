/** What a DP group tells its output process, which turns ids into text and streams it to the frontend (xDeepServe §4, output shortcut). @module */
import type { FinishReason, PositionLogprobs, Sequence, Stage } from './messages.ts';

/** How a sequence's ids become text: of use to its output process alone. */
export type TextTerms = {
  readonly stop: readonly string[];
  readonly skip_special_tokens: boolean;
  /** Names of parsers (flowserve/frontend/parsers); empty: none. */
  readonly reasoning_parser: string;
  readonly tool_call_parser: string;
  /** The tools' declarations as JSON, where the parser reads them; else empty. */
  readonly tools: string;
  /** How the prompt ends, where the parser wants to know: it may have opened the reasoning. */
  readonly prompt_tail: string;
};

/**
 * What a reply is made of. `call` opens the tool call of that number, counted from 0; its `id` is the model's own where its format has one. `arguments` are JSON
 * text as the model wrote it.
 */
export type ReplyPart =
  | { readonly kind: 'reasoning' | 'content'; readonly text: string }
  | { readonly kind: 'call'; readonly index: number; readonly name: string; readonly id: string | null }
  | { readonly kind: 'arguments'; readonly index: number; readonly text: string };

/** The parts that a token completes, and whether it is one of the reasoning itself (1) or not (0); the marks around that are not. */
export type ParsedText = { readonly parts: readonly ReplyPart[]; readonly reasoning_tokens: number };

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
  /** So many drafts were verified behind it, in the step that drew it; −1: it is such a draft itself. */
  readonly drafted: number;
  /** Of prompt tokens `prompt_start`…, as their chunk was computed; `token` is −1 if it yielded none. */
  readonly prompt_start: number;
  readonly prompt_logprobs: readonly PositionLogprobs[] | null;
  /** It, or something before it, was computed without all experts. */
  readonly degraded?: true;
};

/** One whose first token here comes now: `output` came from elsewhere before it. Without its prompt, unless that is scored. */
export type Begun = { readonly sequence: Sequence; readonly stage: Stage; readonly output: readonly number[] };

/** An output process's inbox: one message a step, for all of its sequences. */
export type OutputMessage =
  | { readonly type: 'TOKENS'; readonly tokens: readonly TokenOut[]; readonly begun: readonly Begun[] }
  /** It ends here without a token that says so: cancelled, failed, or another's by now. */
  | { readonly type: 'FORGET'; readonly request: number; readonly choice: number };
