/**
 * What a caller may pass, checked once at the boundary. Names of sampling options are OpenAI's and vLLM's.
 * @module
 */

import * as z from 'zod';
import { GROUP_CHOICES } from '../../actors/policies/group-choice.ts';
import { speculativeConfigSchema } from '../flowserve/drafters/speculative-config.ts';
import { REASONING_PARSERS, TOOL_CALL_PARSERS } from '../flowserve/frontend/parsers/formats.ts';
import { MinipodError } from '../protocol/errors.ts';
import { KV_CACHE_DTYPES, WIRE_DTYPES } from '../protocol/numerics.ts';
import { RECOVERIES } from '../protocol/recovery.ts';
import { JOB_EXECUTORS_MAX } from '../protocol/request-ids.ts';
import { ROLE_SWITCHES } from '../protocol/role-switch.ts';
import { EXECUTOR_ROLES, KV_FABRICS, SCHEDULES } from '../protocol/topology.ts';
import { firstIssue, inWords } from '../protocol/value-words.ts';
import type { InspectionEvent } from '../trace/inspection-events.ts';
import { expertBalancingSchema } from './expert-balancing-options.ts';
import { memoryCheckOptions } from './memory-check-options.ts';
import { checkTogether } from './option-rules.ts';
import { scaleRoom } from './scale-options.ts';

/** Named limits of what one call may ask for. */
export const LIMITS = {
  choices_max: 128,
  stop_strings_max: 16,
  stop_string_length_max: 1_024,
  logprobs_max: 20,
  npus_max: 512,
  workers_max: 64,
  spare_workers_max: 8,
  cache_salt_length_max: 256,
  /** Either way from 0: a request waits for what comes within 64 steps of its NPU for each 1 that those are better, so at most for 12,800 steps. */
  priority_max: 100,
  deadline_ms_max: 2 ** 31 - 1,
  context_id_length_max: 128,
  /** Each may have a few messages under way to one actor, whose mailbox holds 65,536. */
  queued_max: 16_384,
} as const;

export const tokenId = z.int().min(0).max(0xffff_ffff);
/** Two that are not well-formed may be one in UTF-8. */
export const cacheSaltSchema = z
  .string()
  .max(LIMITS.cache_salt_length_max)
  .refine((salt) => salt.isWellFormed(), 'has a lone surrogate (half of a character)')
  .default('');

/** How to generate: OpenAI's and vLLM's names, meanings and defaults (temperature 1, top_p 1, `max_tokens` up to the context length). */
export const generateOptionsSchema = z.strictObject({
  /** Tokens to generate at most, for each choice. Default: what the context length leaves. */
  max_tokens: z.int().min(1).optional(),
  /** No stop of any kind before this many tokens. */
  min_tokens: z.int().min(0).default(0),
  /** 0 is greedy. */
  temperature: z.number().min(0).max(100).default(1),
  top_p: z.number().gt(0).max(1).default(1),
  /** 0 or −1: off. */
  top_k: z.int().min(-1).default(0),
  min_p: z.number().min(0).max(1).default(0),
  /** Missing: drawn once at random and recorded. Any integer that a JavaScript number holds exactly. */
  seed: z.int().optional(),
  /** Generation ends before the first of these that appears; the text before it is returned. */
  stop: z
    .union([z.string(), z.array(z.string())])
    .transform((stop) => (typeof stop === 'string' ? [stop] : stop))
    .pipe(z.array(z.string().min(1).max(LIMITS.stop_string_length_max)).max(LIMITS.stop_strings_max))
    .default([]),
  stop_token_ids: z.array(tokenId).max(64).default([]),
  /** Go on past end-of-sequence tokens. */
  ignore_eos: z.boolean().default(false),
  /** Log-probability of each generated token, and of this many most likely alternatives (0: of the token alone). */
  logprobs: z.int().min(0).max(LIMITS.logprobs_max).optional(),
  /** The same for each token of the prompt. */
  prompt_logprobs: z.int().min(0).max(LIMITS.logprobs_max).optional(),
  /** Token id → added to its logit, −100 … 100. */
  logit_bias: z.record(z.string().regex(/^\d+$/, 'is not a token id'), z.number().min(-100).max(100)).default({}),
  presence_penalty: z.number().min(-2).max(2).default(0),
  frequency_penalty: z.number().min(-2).max(2).default(0),
  /** Over output tokens only; 1: off. */
  repetition_penalty: z.number().gt(0).max(10).default(1),
  /** Choices to generate from one prompt. */
  n: z.int().min(1).max(LIMITS.choices_max).default(1),
  /** Prefixes are cached for requests of the same salt only: requests of two tenants never share. */
  cache_salt: cacheSaltSchema,
  /**
   * The DP group that is to generate, by its number in the pod (`engine` in /metrics), in place of whichever is least loaded; where prefill and decode are
   * apart, the prefill group. It waits where that group is lost. vLLM's name.
   */
  data_parallel_rank: z.int().min(0).optional(),
  /** Whose turn is sooner: the lower the sooner, as in vLLM. Who waits is overtaken for a while only, so each turn comes. */
  priority: z.int().min(-LIMITS.priority_max).max(LIMITS.priority_max).default(0),
  /** Milliseconds that it may take in all, waiting included; then it fails as `deadline_exceeded`, with what came until then. Default: as long as it takes. */
  deadline_ms: z.number().positive().max(LIMITS.deadline_ms_max).optional(),
  /**
   * A context that was created before (`createContext`), of the same `cache_salt`: the prompt goes on where it ends, a conversation after its messages.
   * The prompt may be empty then.
   */
  context_id: z.string().max(LIMITS.context_id_length_max).default(''),
  /** Put bos before a text prompt, if the model has one. */
  add_special_tokens: z.boolean().default(true),
  /** False: special tokens are part of the text. Where a parser is asked for they always are, since its marks may be such. */
  skip_special_tokens: z.boolean().default(true),
  /** Has replies parsed where they are generated: each chunk has in `parsed` what reasoning, content and calls of tools its text completes (docs/tool-calls.md). */
  reasoning_parser: z.enum(REASONING_PARSERS).optional(),
  tool_call_parser: z.enum(TOOL_CALL_PARSERS).optional(),
  /** False: in a pod that drafts, none of its tokens is. No token depends on it. */
  speculative_decoding: z.boolean().default(true),
});

export type GenerateOptions = z.input<typeof generateOptionsSchema> & {
  /** Stops the request wherever it is: queued, in prefill, or streaming. */
  readonly signal?: AbortSignal | undefined;
};
export type ResolvedGenerateOptions = z.output<typeof generateOptionsSchema>;

const splitShape = z.strictObject({
  domains: z.int().min(1),
  experts: z.int().min(1),
  shared: z.union([z.int().min(1), z.literal('attention')]).optional(),
});
const executorShape = z.strictObject({
  role: z.enum(EXECUTOR_ROLES),
  dp: z.int().min(1),
  tp: z.int().min(1).default(1),
  oproj: z.int().min(1).optional(),
  split: splitShape.optional(),
});

export const podOptions = z.strictObject({
  /** A shipped model's name or the path of a folder in the Hugging Face layout. */
  model: z.string().min(1).default('tiny-deepseek-v3'),
  /**
   * How work is laid out over NPUs: `colocated:dp=2`, `pd:prefill=2xdp1tp2,decode=1xdp4`, `mixed:colocated=1xdp1,prefill=1xdp1,decode=1xdp2`, or the same as
   * a list of task executors. `moe-attention:domains=3x4,experts=8`, `pd:prefill=1xdp2,decode=1xdomains3x4experts8`: three domains of four attention NPUs, and eight
   * NPUs that have the experts. `colocated:dp=4,oproj=2`, `decode=1xdp4oproj2`: each two NPUs share the weights of their output projections.
   * Default: one colocated task executor with `npus` DP groups.
   */
  topology: z.union([z.string(), z.array(executorShape).min(1)]).optional(),
  /**
   * `live`: worker threads, real kernels, real time. `virtual`: all actors on the caller's thread and on a clock that moves from event to event;
   * whoever has the same seed sees the same run.
   */
  clock: z.enum(['live', 'virtual']).default('live'),
  /** What happens when, on a virtual clock: another seed is another interleaving of the same tokens. Default: 0. */
  seed: z.int().optional(),
  /**
   * `real`, or `hash`, on a virtual clock only: activations are hashes, tokens are too, and weights take no memory. What is lost or mixed up still
   * changes them.
   */
  kernels: z.enum(['real', 'hash']).default('real'),
  /** Of `hash`: so much of what it generates its MTP layers draft right (`speculative_config`), as trained ones do; missing: none, but by chance. */
  hash_foreseeable: z.number().min(0).max(1).optional(),
  /**
   * A file to record the run in; one that is there already is not replaced. Where the pod goes on though its control thread was lost, it does in another one beside it:
   * `run.2.trace` of `run.trace`.
   */
  record: z.string().min(1).optional(),
  /**
   * A file for the run's routing, which experts each token goes to in each layer and with which weights (docs/routing-trace.md); one that is there already is
   * not replaced. No token depends on it.
   */
  record_routing: z.string().min(1).optional(),
  /**
   * On the live clock, where recorder or disk are slower than the run: the run waits for them, and says so after 2 s; or, after 2 s, it goes on and the
   * recording stops, with a warning. Default: `wait`.
   */
  record_when_full: z.enum(['wait', 'stop']).optional(),
  /** False: no prompt, nor what tells one, is in the trace, which still replays without its kernels. What was generated is in it. Needs `prefix_caching: false`. */
  record_prompts: z.boolean().default(true),
  /** Short for `colocated:dp=N`. Default: 1. */
  npus: z.int().min(1).max(LIMITS.npus_max).optional(),
  /** vLLM's name: so many DP groups. Short for `colocated:dp=N`; with a topology, as many as that has. */
  data_parallel_size: z.int().min(1).max(LIMITS.npus_max).optional(),
  /** Threads that host the NPUs. Never more than NPUs. Default: 1. */
  workers: z.int().min(1).max(LIMITS.workers_max).default(1),
  /** The worker of each NPU, in order. Default: contiguous runs of nearly equal length, of NPUs with attention and, from the last worker on, of those with experts only. */
  npu_workers: z.array(z.int().min(0)).optional(),
  /** Memory kept for successors of workers that hang and cannot be stopped, one worker's NPUs each. Node stops any thread; Deno does not stop one that runs. */
  spare_workers: z.int().min(0).max(LIMITS.spare_workers_max).default(0),
  /**
   * What is done where a worker is lost. `fine-grained`: it has a successor, what it computed goes on elsewhere. `restart`, the baseline to compare with: all
   * workers end and begin anew, those that decode first, and all requests are computed anew from their records. Default: `fine-grained`. No token depends on it.
   */
  recovery: z.enum(RECOVERIES).optional(),
  /**
   * False: a lost worker has no successor, and the pod goes on with those that are left. Where experts can lie elsewhere (`expert_balancing`, `scale_max`), those that it
   * alone had are loaded there from the checkpoint, as far as there is room. Default: true. No token depends on it.
   */
  respawn: z.boolean().optional(),
  /**
   * Where no copy is left of some experts, nor is to come, serve on without them, in place of `experts_lost`: gates choose the next best ones. What is generated so is
   * **not what the model would say**: each chunk and completion of it has `degraded: true`, and its KV is kept for nobody else. Default: false.
   */
  degraded: z.boolean().optional(),
  /** So long a lost worker's successor is waited for before experts that nobody else has are loaded onto the NPUs that are left. Default: 5 s. No token depends on it. */
  rehome_after_ms: z
    .int()
    .min(1)
    .max(2 ** 31 - 1)
    .optional(),
  /**
   * With `respawn: false`: whether an attention NPU takes the role of a lost expert NPU whose experts are nowhere else. Requests wait for it (`foreground`), or are served
   * without those experts (`degraded`) or fail meanwhile (`background`); `auto`: the first in EP groups of fewer than 32 NPUs, the other in larger ones. Default: `auto`.
   */
  role_switch: z.enum(ROLE_SWITCHES).optional(),
  /**
   * Job executors, each on a thread of its own: the first on the control thread, the others on workers, so at most one more than those. Each request goes to one at
   * random. Default: 2, or 1 where there is one worker: with that all NPUs die, and nothing is left that could go on.
   */
  job_executors: z.int().min(1).max(JOB_EXECUTORS_MAX).optional(),
  /** Positions a KV block holds; a multiple of 16. */
  kv_block_size: z.int().min(16).max(1024).multipleOf(16).default(16),
  /** KV blocks of each NPU. Default: room for 8 requests of full length. */
  kv_blocks: z.int().min(1).optional(),
  /**
   * What KV is kept as. `auto`: float32, as it is computed. `int8`: MLA's latent, or each head's keys and values, in INT8 with a scale a position, MLA's rope keys in
   * BF16 (xDeepServe §4.7). It is the model's numerics: tokens differ from `auto`'s, and are the same in every topology.
   */
  kv_cache_dtype: z.enum(KV_CACHE_DTYPES).default('auto'),
  /**
   * In what tokens' rows go to the experts, by dispatch or A2E. `int8`: INT8 with a scale a token (xDeepServe §3.2), a quarter of the bytes; to experts on the same NPU as
   * well: it is the model's numerics, never a property of the way they take. Where experts are in INT8, which read their rows so in any case, no token depends on it.
   */
  dispatch_dtype: z.enum(WIRE_DTYPES).default('auto'),
  /** The same of what experts answer, by combine or E2A, before the gate's weights sum it. Tokens differ from `auto`'s, and are the same in every topology. */
  combine_dtype: z.enum(WIRE_DTYPES).default('auto'),
  /**
   * KV blocks that host DRAM holds below each NPU: what HBM has no room for is kept there, and brought back when that is sooner than computing it anew. Default: none,
   * since on one machine both lie in the same memory; more `kv_blocks` serve better then.
   */
  dram_blocks: z
    .int()
    .min(0)
    .max(2 ** 24)
    .default(0),
  /** Bytes a second that blocks move between HBM and DRAM: by this a hit there is weighed; on a virtual clock they also move so fast. Default: the machine's. */
  dram_bytes_per_s: z.number().positive().optional(),
  /** Tokens that one step of an NPU computes at most, prefill and decode together. */
  max_batch_tokens: z.int().min(1).max(4096).default(256),
  /** Requests that one step of an NPU serves at most. */
  max_batch_requests: z.int().min(1).max(1024).default(64),
  /** Keep the KV of what was computed, for requests that begin alike. No token depends on it. */
  prefix_caching: z.boolean().default(true),
  /**
   * Take the KV of a prompt's beginning from the DP group that computed it, where that is sooner than computing it anew, instead of computing it in each group that
   * comes by it. Needs `prefix_caching` and several groups. No token depends on it.
   */
  prefix_sharing: z.boolean().default(false),
  /**
   * Bytes a second that blocks move between DP groups: by this a hit there is weighed, and what a group gives back that is to stand by; on a virtual clock they also
   * move so fast. On the live one it needs `prefix_sharing` or `scale_max`. Default: the machine's.
   */
  link_bytes_per_s: z.number().positive().optional(),
  /** Plan each step of an NPU while the one before it runs. False, to compare with: the NPU waits for its scheduler between two steps. No token depends on it. */
  async_scheduling: z.boolean().default(true),
  /** Decode runs op by op, as prefill does, instead of as captured programs of kernel calls. No token depends on it. */
  enforce_eager: z.boolean().default(false),
  /** Whose turn it is where requests wait: by `priority`, those alike by arrival; or `fcfs`, first come, first served, whatever their priorities. */
  scheduling_policy: z.enum(['priority', 'fcfs']).default('priority'),
  /**
   * How a task executor chooses the DP group of a request. `packed`: full batches on few groups of each worker; `least_kv`: the lowest KV use, counting what is
   * reserved; `cost_model`: a leader among them gives each to where it is probably prefilled soonest; `round_robin`: each in turn, the baseline. `auto`:
   * `least_kv` where it decodes only, `cost_model` where it prefills only, else `packed`.
   */
  load_balancing: z.enum(['auto', 'cost_model', ...GROUP_CHOICES]).default('auto'),
  /**
   * With `cost_model`, in each task executor that has more: so many DP groups, the last ones, take prompts of `long_prompt_tokens` tokens or more, and no others do.
   * Refused where no executor is such.
   */
  long_prompt_groups: z.int().min(0).max(LIMITS.npus_max).default(0),
  /** Default: 8192. */
  long_prompt_tokens: z.int().min(1).optional(),
  /**
   * How long a prefill side keeps the KV that it has computed for a decode side which does not come for it, for want of room or since it is silent; then that
   * one computes it anew. Refused where nobody lends any. Default: 10 min.
   */
  kv_lease_ms: z.int().min(1).max(LIMITS.deadline_ms_max).optional(),
  /**
   * What KV travels by from one task executor to another: the memory that they share, or TCP on this machine, a stand-in for the RoCE network between machines.
   * On a virtual clock `tcp` costs what such a network would. No token depends on it.
   */
  kv_fabric: z.enum(KV_FABRICS).default('memory'),
  /**
   * How prefill's KV gets to decode: by `request`, when all of it is computed; or by `layer`, while the last step of the prompt is: each layer may be copied
   * once it is there. No token depends on it.
   */
  kv_transfer: z.enum(['request', 'layer']).default('request'),
  ...memoryCheckOptions,
  /**
   * Where attention NPUs and expert NPUs are apart, how they take turns. `dataflow`: an expert NPU takes whatever has arrived, and nobody waits for a peer that he
   * needs nothing from. `domains`: the attention NPUs of a domain go layer by layer together, in two micro-batches, and domains are at the experts in turn; decode
   * runs op by op then. No token depends on it.
   */
  schedule: z.enum(SCHEDULES).optional(),
  /**
   * Where attention NPUs and expert NPUs are apart and all flows: into so many micro-batches a step of enough rows is cut, so that one is at attention while the other
   * is at the experts. Two run part by part, not as captured programs. Where domains take turns they are always 2. Default: 1. No token depends on it.
   */
  micro_batches: z.union([z.literal(1), z.literal(2)]).optional(),
  /**
   * Move and replicate experts as they are asked for, while requests run (xDeepServe §4.5): each layer has `redundant_slots` slots beyond one for each expert, over
   * all of an executor's NPUs together; every `period_ms` a placement is planned by `policy` on what was routed in the last `windows` periods, and installed where it
   * is predicted better, if the busiest NPU has `threshold` times what the mean one has, or more. No token depends on it. Missing: each expert stays in its one place.
   */
  expert_balancing: expertBalancingSchema.optional(),
  /**
   * For measurements alone: experts are asked in turn, whatever the gate chooses (xDeepServe figure 11, "Avg-routing"), which is what balancing can reach at most.
   * **What is generated are not the model's tokens.**
   */
  average_routing: z.boolean().default(false),
  /** vLLM's names for the same: with `enable_eplb`, `eplb_config` says how many slots are redundant. */
  enable_eplb: z.boolean().default(false),
  eplb_config: z.strictObject({ num_redundant_experts: z.int().min(1).max(4096), policy: z.literal('default').optional() }).optional(),
  /**
   * Draft tokens that the next step verifies, all in one pass (xDeepServe §4.6), in vLLM's words: `{ method: 'ngram', num_speculative_tokens: 3 }` looks up what
   * followed the last time that a text came by its last tokens. A request is drafted for as far as that pays. No token depends on it. Missing: nothing is.
   */
  speculative_config: speculativeConfigSchema.optional(),
  /** Room for changes of the pod's shape while requests run (`pod.scale`). */
  ...scaleRoom,
  /** Choices that may wait or run in the pod at once; more are refused as overloaded. */
  max_queued: z.int().min(1).max(LIMITS.queued_max).default(4096),
  /** Bytes of one segment of global memory, at most 4 GiB less 64 KiB. */
  segment_bytes: z
    .int()
    .min(1 << 20)
    .max(2 ** 32 - 65_536)
    .multipleOf(65_536)
    .default(2 ** 32 - 65_536),
  /** Bytes of global memory that the pod may take in all. Default: 3/4 of this machine's memory. */
  memory_bytes: z
    .int()
    .min(1 << 20)
    .optional(),
});

export const podOptionsSchema = podOptions.superRefine(checkTogether);

/** How experts are balanced, whichever way it was said. */
export function expertBalancingOf({
  expert_balancing,
  eplb_config,
}: Pick<ResolvedPodOptions, 'expert_balancing' | 'eplb_config'>): ResolvedPodOptions['expert_balancing'] {
  if (eplb_config === undefined) return expert_balancing;
  return expertBalancingSchema.parse({ redundant_slots: eplb_config.num_redundant_experts });
}

/** How many job executors there are if nothing is said of it. */
export const jobExecutorsOf = ({ job_executors, workers }: Pick<ResolvedPodOptions, 'job_executors' | 'workers'>): number =>
  job_executors ?? Math.min(2, workers);

export type LoadProgress = { readonly loaded_bytes: number; readonly total_bytes: number; readonly tensor: string };
export type PodOptions = z.input<typeof podOptionsSchema> & {
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /**
   * Told of all that the pod's actors do, in the protocol of Stately's inspector: `inspect: (event) => inspector.adapter.send(event)`, with any inspector of
   * `@statelyai/inspect`. It changes no token; a pod on worker threads waits where it is slow, so it is for looking on, not for production.
   */
  readonly inspect?: ((event: InspectionEvent) => void) | undefined;
};
export type ResolvedPodOptions = z.output<typeof podOptionsSchema>;

/** Made once: making it takes five times as long as asking it, and each call is asked. */
const anyOptions = z.record(z.string(), z.unknown());

/** @throws `invalid_request` where no options at all were passed, but something else */
export function checkOptions(value: unknown, what: string): void {
  parseOptions(anyOptions, value, what);
}

/** Parses, or throws `invalid_request` naming the first option at fault and what it should be. */
export function parseOptions<Schema extends z.ZodType>(schema: Schema, value: unknown, what: string): z.output<Schema> {
  const result = schema.safeParse(value, inWords);
  if (result.success) return result.data;
  const { path, message } = firstIssue(result.error.issues);
  const param = path.join('.') || what;
  const wrong = param === what ? `the options ${message.replace(/^is /, 'are ')}` : `${param}: ${message}`;
  throw new MinipodError('invalid_request', `${what}: ${wrong}`, { param });
}
