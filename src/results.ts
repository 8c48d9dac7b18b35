/** What a caller gets back. @module */
import type { ReplyPart } from './protocol/output.ts';

/** One token with its log-probability under the model, before any sampling option. */
export type TokenLogprob = {
  readonly token_id: number;
  /** The token's own text; � where it is part of a character. */
  readonly token: string;
  readonly bytes: readonly number[];
  readonly logprob: number;
  /** The most likely tokens at this position, best first; as many as `logprobs` asked for. */
  readonly top_logprobs: readonly Omit<TokenLogprob, 'top_logprobs'>[];
};

export type FinishReason = 'stop' | 'length';

export type Usage = {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  /** Of the prompt's tokens, those that were not computed anew: an earlier request began alike. */
  readonly cached_tokens: number;
  /** Missing: nothing was drafted. */
  readonly drafted?: DraftUsage;
};

/** Of tokens that were drafted, those that are in the completion, and those that are not. OpenAI's names. */
export type DraftUsage = { readonly accepted_prediction_tokens: number; readonly rejected_prediction_tokens: number };

/** A piece of one choice. Text of several tokens may come in one chunk; text held back for a stop string or an unfinished character comes in a later one. */
export type Chunk = {
  readonly choice: number;
  readonly text: string;
  readonly token_ids: readonly number[];
  /** One for each of `token_ids`, if asked for. */
  readonly logprobs: readonly TokenLogprob[] | null;
  /** On a choice's last chunk only. */
  readonly finish_reason: FinishReason | null;
  /** The string or token id that ended it, if one did. */
  readonly stop_reason: string | number | null;
  /** Where a parser was asked for. */
  readonly parsed?: ParsedReply;
  /** It, or something before it, was computed without all experts (option `degraded`): it is not what the model would say. */
  readonly degraded?: true;
};

/** Parts of a reply: what its text completes; and how many of the tokens are of the reasoning itself, without the marks around it. */
export type ParsedReply = { readonly parts: readonly ReplyPart[]; readonly reasoning_tokens: number };

export type PromptInfo = {
  readonly token_ids: readonly number[];
  /** One for each prompt token but the first (null), if asked for. */
  readonly logprobs: readonly (TokenLogprob | null)[] | null;
};

export type CompletionChoice = {
  readonly index: number;
  readonly text: string;
  readonly token_ids: readonly number[];
  readonly logprobs: readonly TokenLogprob[] | null;
  readonly finish_reason: FinishReason;
  readonly stop_reason: string | number | null;
  /** Where a parser was asked for: all of it, neighbours of a kind as one. */
  readonly parsed?: ParsedReply;
};

export type Completion = {
  readonly id: string;
  readonly model: string;
  readonly prompt: PromptInfo;
  readonly choices: readonly CompletionChoice[];
  readonly usage: Usage;
  /** The seed that was used, drawn if none was given. */
  readonly seed: number;
  /** As of chunks: at least one was so. */
  readonly degraded?: true;
};

/** A prompt that is kept under an id, for requests that go on from it. */
export type ContextInfo = {
  readonly id: string;
  readonly tokens: number;
  /** Unix seconds; on a virtual clock, seconds since the pod began. */
  readonly created: number;
  /** The same; null: never. */
  readonly expires: number | null;
};

/** A running generation: iterate it for its chunks. Leaving the loop early cancels the request. */
export type Generation = AsyncIterable<Chunk> & {
  readonly id: string;
  readonly seed: number;
  /** Resolves before the first chunk; its logprobs only when prefill is complete. */
  readonly prompt: Promise<PromptInfo>;
  /** Complete when iteration has ended. */
  usage(): Usage;
  times(): RequestTimes;
  /** Where its choices were computed, and when, so far. */
  choices(): readonly ChoiceTimes[];
  /** `listener` is called when tokens of a choice come, whether anybody reads them or not; by the clock of times(). One that is given later takes its place. */
  onTokens(listener: (choice: number, tokens: number, now_ms: number) => void): void;
  /** A chunk of it was computed without all experts. */
  readonly degraded: boolean;
};

/** Where a choice was computed, and when, as its caller saw it: milliseconds since the pod's start; null: it did not get so far. Groups are numbered as `engine` in /metrics. */
export type ChoiceTimes = {
  readonly choice: number;
  /** The DP group that its first token came from: the one that computed its prompt. */
  readonly prefill_group: number | null;
  /** The one that its last token came from: another one where prefill and decode are apart, or where it has moved. */
  readonly decode_group: number | null;
  readonly first_token: number | null;
  /** The first token of `decode_group`, where that is another group. */
  readonly moved: number | null;
  readonly finished: number | null;
};

/** Times of one request, milliseconds since the pod's start; null where it did not get so far. */
export type RequestTimes = { readonly received: number; readonly scheduled: number | null; readonly first_token: number | null; readonly finished: number };
