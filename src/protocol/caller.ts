/** What travels on the ring between the caller's thread and the pod. @module */
import type { ErrorRecord } from './errors.ts';
import type { FinishReason, PositionLogprobs, Sampling } from './messages.ts';

/** Text, token ids or a conversation, as the caller gave it; tokenized on the pod's own thread. */
export type PromptRecord = {
  readonly kind: 'text' | 'tokens' | 'chat';
  readonly text: string;
  readonly tokens: readonly number[];
  /** Of a conversation, each as JSON. */
  readonly messages: readonly string[];
  /** Variables of the chat template besides the messages, as JSON. */
  readonly variables: string;
};

export type GenerateCall = {
  readonly type: 'GENERATE';
  readonly request: number;
  readonly prompt: PromptRecord;
  readonly add_special_tokens: boolean;
  readonly skip_special_tokens: boolean;
  readonly n: number;
  /** −1: as many as the context length leaves. */
  readonly max_tokens: number;
  readonly ignore_eos: boolean;
  readonly stop: readonly string[];
  readonly sampling: Sampling;
  readonly cache_salt: string;
  /** −1: any. */
  readonly data_parallel_rank: number;
  readonly priority: number;
  /** −1: none. */
  readonly deadline_ms: number;
  /** The context that the prompt goes on from; empty: none. */
  readonly context_id: string;
};

/** A prompt to keep under an id. */
export type CreateContextCall = {
  /** Empty: drawn. */
  readonly id: string;
  readonly prompt: PromptRecord;
  readonly add_special_tokens: boolean;
  readonly cache_salt: string;
  /** −1: until it is deleted. */
  readonly expires_ms: number;
};

/** Times are the pod's own; `over_ms` −1: it has no end. */
export type ContextRecord = { readonly id: string; readonly token_count: number; readonly created_ms: number; readonly over_ms: number };

export type CallerToPod = GenerateCall | { readonly type: 'CANCEL_CALL'; readonly request: number };

export type TokenLogprobRecord = { readonly token_id: number; readonly token: string; readonly bytes: readonly number[]; readonly logprob: number };
export type PositionRecord = { readonly chosen: TokenLogprobRecord; readonly top: readonly TokenLogprobRecord[] };

export type ChunkRecord = {
  readonly request: number;
  readonly choice: number;
  readonly text: string;
  readonly token_ids: readonly number[];
  readonly logprobs: readonly PositionRecord[] | null;
  readonly finish: FinishReason | null;
  readonly stop_string: string | null;
  readonly stop_token: number;
};

export type PodToCaller =
  | { readonly type: 'PROMPT'; readonly request: number; readonly token_ids: readonly number[] }
  | { readonly type: 'PROMPT_LOGPROBS'; readonly request: number; readonly logprobs: readonly PositionRecord[] }
  | { readonly type: 'SCHEDULED_CALL'; readonly request: number }
  /** The KV of so many of its prompt's tokens was there already. */
  | { readonly type: 'PROMPT_CACHED'; readonly request: number; readonly tokens: number }
  /** A choice's next tokens are of this DP group: its first ones, or, as it has moved, all from here on. */
  | { readonly type: 'CHOICE_MOVED'; readonly request: number; readonly choice: number; readonly dp_group: number }
  | { readonly type: 'CHUNKS'; readonly chunks: readonly ChunkRecord[] }
  | { readonly type: 'ENDED'; readonly request: number; readonly error: ErrorRecord | null; readonly generated: number };

export type { FinishReason, PositionLogprobs };
