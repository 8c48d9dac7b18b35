/**
 * The pod as its caller sees it.
 * @module
 */

import type { ScaleOptions } from './flowserve/scale-shapes.ts';
import type { ContextOptions, ContextsOf } from './options/context-options.ts';
import type { GenerateOptions } from './options/options.ts';
import type { RebalanceReport } from './protocol/expert-maps.ts';
import type { KvEventPage } from './protocol/kv-events.ts';
import type { ChatMessage, Conversation, Prompt } from './protocol/prompt.ts';
import type { Completion, ContextInfo, Generation } from './results.ts';
import type { PodExperts, PodStats, ScaleReport } from './stats.ts';

export type ModelInfo = {
  readonly name: string;
  readonly architecture: string;
  readonly context_length: number;
  readonly vocab_size: number;
  readonly parameters: number;
  /** Unix seconds at which the pod loaded it. */
  readonly created: number;
  readonly has_chat_template: boolean;
};

/** `force`: install the plan though it is predicted no better than what is there. */
export type RebalanceOptions = { readonly force?: boolean };

export interface Pod extends AsyncDisposable {
  readonly model: ModelInfo;
  /** Choices that may wait or run in it at once; more are refused as overloaded. */
  readonly max_queued: number;
  /** Throws `invalid_request` at once for options that cannot be served; everything later rejects the iteration. Nothing runs twice: iterate a generation once. */
  generate(prompt: Prompt, options?: GenerateOptions): Generation;
  complete(prompt: Prompt, options?: GenerateOptions): Promise<Completion>;
  /** Token ids of a prompt: text (with bos if asked), or a conversation through the chat template. */
  tokenize(
    prompt: string | readonly ChatMessage[] | Conversation,
    options?: { add_special_tokens?: boolean },
  ): Promise<{ token_ids: number[]; tokens: string[] }>;
  /** Special tokens are left out unless asked for. @throws `context_length_exceeded` for more than the model's context length */
  detokenize(tokenIds: readonly number[], options?: { skip_special_tokens?: boolean }): Promise<string>;
  /**
   * Plans experts' places on what was routed so far, now and not when the period is over, and moves them while requests run, if that is predicted better. What became
   * of it, by task executor. @throws `invalid_request` for a pod without `expert_balancing`
   */
  rebalance(options?: RebalanceOptions): Promise<readonly RebalanceReport[]>;
  /** Forgets what the prefix cache keeps: the next requests compute their prompts anew. Requests that run keep what they hold. */
  resetPrefixCache(): Promise<void>;
  /**
   * Computes a prompt and keeps its KV under an id: requests with that `context_id` go on from it. It is kept before anything that is not; no token depends
   * on that. Nothing is kept where the signal aborts before it is there. @throws `invalid_request` for an id that is taken, and as `generate` does for a prompt that cannot be served.
   */
  createContext(prompt: Prompt, options?: ContextOptions): Promise<ContextInfo>;
  /** Those of a `cache_salt` (default: those without) that are neither deleted nor over, the oldest first. */
  listContexts(options?: ContextsOf): Promise<readonly ContextInfo[]>;
  /** False: there was none of that `cache_salt` (default: without one). Requests that go on from it and run already keep what they hold. */
  deleteContext(id: string, options?: ContextsOf): Promise<boolean>;
  /**
   * What happened to a DP group's KV blocks, in vLLM's words: batches from number `from` (default 0) on, some hundred at most; the last 1,024
   * are kept. @throws `invalid_request` where there is no such group, `worker_failed` while its worker is lost
   */
  kvEvents(dp_group: number, from?: number): Promise<KvEventPage>;
  stats(): Promise<PodStats>;
  /**
   * What each expert does: tokens, place, queue, service times. With `measure` (the default) batches are timed from this call on, until a minute after the last
   * such one: so the first one knows no times. No token depends on it. On a virtual clock times are the cost model's.
   */
  experts(options?: { measure?: boolean }): Promise<PodExperts>;
  /**
   * Changes how many DP groups serve, and how many expert NPUs where these are apart, up to what `scale_max` reserved, while requests run: those on a group that is to
   * stand by go on elsewhere, with their KV or computed anew, and experts' weights are copied from NPUs that have them; no request fails and no token changes. It ends in
   * the new shape or in the old one. @throws `invalid_request` for what cannot be done, `overloaded` while another change is under way, `deadline_exceeded` where it
   * took longer than `deadline_ms`, `worker_failed` where a worker was lost on the way: then the shape is the old one
   */
  scale(options: ScaleOptions): Promise<ScaleReport>;
  /** Fails what still runs with `closed`, stops all threads and frees the memory. Safe to call twice. */
  close(): Promise<void>;
}
