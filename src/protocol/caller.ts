/** What travels on the ring between the caller's thread and the pod. @module */
import type { ErrorRecord } from './errors.ts';
import type { FinishReason, Sampling } from './messages.ts';
import type { ParsedText } from './output.ts';

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
  /** Empty: none. */
  readonly reasoning_parser: string;
  readonly tool_call_parser: string;
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
  /** Whether it may be drafted. */
  readonly drafts: boolean;
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
  /** Of one that a lost control thread had kept, by the pod's clock; missing: now. */
  readonly created_ms?: number;
  /** So far ids were drawn, by control threads that are lost, too; missing: none was. */
  readonly drawn?: number;
};

/** Times are the pod's own; `over_ms` −1: it has no end. */
export type ContextRecord = { readonly id: string; readonly token_count: number; readonly created_ms: number; readonly over_ms: number };

export type CallerToPod =
  | GenerateCall
  | { readonly type: 'CANCEL_CALL'; readonly request: number }
  /** The text of one of its choices cannot be told: nothing more of it is to be computed. */
  | { readonly type: 'FAIL_CALL'; readonly request: number }
  /** It has ended in the pod, and tokens of it were lost on their way: it is to go on from its record. */
  | { readonly type: 'RESUME_CALL'; readonly request: number };

export type TokenLogprobRecord = { readonly token_id: number; readonly token: string; readonly bytes: readonly number[]; readonly logprob: number };
export type PositionRecord = { readonly chosen: TokenLogprobRecord; readonly top: readonly TokenLogprobRecord[] };

/** A token of a choice, and the text that it completes: a function of the choice's ids up to it, whichever DP group computes it. */
export type ChunkRecord = {
  /** The request's own id, whose attempt is the epoch of its owner (request-ids.ts). */
  readonly request: number;
  readonly choice: number;
  /** Of the token in the choice's output, from 0 on. */
  readonly index: number;
  readonly text: string;
  readonly token_ids: readonly number[];
  readonly logprobs: readonly PositionRecord[] | null;
  readonly finish: FinishReason | null;
  readonly stop_string: string | null;
  readonly stop_token: number;
  /** Of a choice's first token: tokens of its prompt whose KV was there already. */
  readonly cached: number;
  /** As `TokenOut.drafted`. */
  readonly drafted: number;
  /** Null: nobody asked for it. */
  readonly parsed: ParsedText | null;
  readonly degraded?: true;
};

/** What the output process of a DP group streams. */
export type OutputToCaller =
  | { readonly type: 'CHUNKS'; readonly chunks: readonly ChunkRecord[] }
  /** Of prompt tokens `start`…; a prompt that is computed in chunks comes in several. `request`: as in chunks. */
  | { readonly type: 'PROMPT_LOGPROBS'; readonly request: number; readonly start: number; readonly logprobs: readonly PositionRecord[] }
  /** The text of one of its choices cannot be told: the caller ends the call with the error. `request`: as in chunks. */
  | { readonly type: 'TEXT_FAILED'; readonly request: number; readonly error: ErrorRecord };

/** What the control thread says of a call. */
export type FrontendToCaller =
  /** It is open. `records`: by choice, where its tokens are recorded; empty where there was no room. */
  | { readonly type: 'PROMPT'; readonly request: number; readonly token_ids: readonly number[]; readonly records: readonly number[] }
  | { readonly type: 'SCHEDULED_CALL'; readonly request: number }
  /** Nothing of it is left in the pod; without an error its last tokens may still be on their way, and its caller may ask for those that are lost. */
  | { readonly type: 'ENDED'; readonly request: number; readonly error: ErrorRecord | null };

export type PodToCaller = OutputToCaller | FrontendToCaller;

export type { FinishReason };
