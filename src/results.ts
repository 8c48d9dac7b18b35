/** What a caller gets back. @module */
import type { NpuReport } from './protocol/threads.ts';

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

export type Usage = { readonly prompt_tokens: number; readonly completion_tokens: number; readonly total_tokens: number };

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
};

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
};

export type Completion = {
  readonly id: string;
  readonly model: string;
  readonly prompt: PromptInfo;
  readonly choices: readonly CompletionChoice[];
  readonly usage: Usage;
  /** The seed that was used, drawn if none was given. */
  readonly seed: number;
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
};

/** What an NPU reports, and where it is. `die`: whose memory it has. */
export type NpuStats = NpuReport & { readonly worker: number; readonly hbm_bytes: number };

/** A region of global memory: one owner's, in one segment. `base` is a global address, segment × 2³² + offset. */
export type RegionStats = {
  readonly owner: string;
  readonly kind: string;
  readonly base: number;
  readonly bytes: number;
  /** `quarantined`: a worker that was given up may still write there. */
  readonly state: string;
  readonly epoch: number;
};

/** Who has a thread's rings: `caller`, `control`, `worker/0`, or a spare seat. */
export type ThreadStats = {
  readonly thread: number;
  readonly name: string;
  readonly epoch: number;
  /** Times it slept and was woken. */
  readonly wakes: number;
};

/** A ring between two threads: what its writer and what its reader count. */
export type LinkStats = {
  readonly from: string;
  readonly to: string;
  readonly lane: string;
  /** Frames and bytes of payload written. */
  readonly frames: number;
  readonly bytes: number;
  /** Payloads that found no room and waited at the writer. */
  readonly full: number;
  /** Times the reader slept and was woken for this link. */
  readonly wakes: number;
  /** Payloads that wait for room now. */
  readonly waiting: number;
  readonly waiting_bytes: number;
  /** For how long the reader has read nothing of what lies there or waits for it. */
  readonly stalled_ms: number;
  /** Credits: what ring and slab take at this moment. */
  readonly ring_free_bytes: number;
  readonly slab_free_bytes: number;
  readonly slab_bytes_max: number;
  readonly received_frames: number;
  readonly received_bytes: number;
  /** Times that the reader let go of the link at a frame of an epoch that is over: what its writer had left in it is dropped. */
  readonly stale: number;
  /** Sampled frames by the time from send to receive: entry n counts those under 2ⁿ µs, the last one all others. */
  readonly latencies_us: readonly number[];
};

export type PodStats = {
  readonly model: string;
  readonly uptime_seconds: number;
  readonly requests_running: number;
  readonly requests_waiting: number;
  readonly requests_finished: Readonly<Record<string, number>>;
  readonly prompt_tokens: number;
  readonly generation_tokens: number;
  /** Positions a KV block holds. */
  readonly kv_block_size: number;
  readonly npus: readonly NpuStats[];
  /** Tokens routed to each expert: `[MoE layer][expert id]`. */
  readonly expert_loads: readonly (readonly number[])[];
  readonly memory: { readonly total_bytes: number; readonly regions: readonly RegionStats[] };
  readonly fabric: { readonly links: readonly LinkStats[]; readonly threads: readonly ThreadStats[] };
  /** Messages that an actor's state did not expect, as `role TYPE state`: a defect, counted and never dropped in silence. */
  readonly unexpected_messages: readonly string[];
};

/** Times of one request, milliseconds since the pod's start; null where it did not get so far. */
export type RequestTimes = { readonly received: number; readonly scheduled: number | null; readonly first_token: number | null; readonly finished: number };
