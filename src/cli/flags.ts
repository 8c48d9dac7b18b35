/**
 * The command line's flags are the embedded API's options: `--max-tokens` is `max_tokens`. Each is checked by the API's own schema.
 * @module
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type * as z from 'zod';
import type { serveOptionsSchema } from '../api/serve.ts';
import type { generateOptionsSchema, podOptionsSchema } from '../options/options.ts';
import { EXECUTOR_ROLES, type ExecutorRole } from '../protocol/topology.ts';
import { firstIssue, inWords } from '../protocol/value-words.ts';
import type { expertsOptionsSchema } from './experts-look.ts';
import type { fabricOptionsSchema } from './fabric.ts';
import type { scaleOptionsSchema } from './scale.ts';
import type { serverSchema } from './server.ts';
import type { topOptionsSchema } from './top.ts';

type Flag = {
  /** What stands for its value in the help; none for a switch. */
  readonly value?: string;
  readonly help: string;
  /** A switch that turns off what is on by default. */
  readonly negated?: true;
  readonly env?: string;
  /** From text, together with what earlier uses of the same flag gave. */
  readonly read?: (text: string, earlier: unknown) => unknown;
};
type Flags<Schema extends z.ZodObject> = { readonly [Name in keyof z.input<Schema> & string]-?: Flag };

function number(text: string): number {
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError('It is not a number.');
  return value;
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1 << 10, m: 1 << 20, g: 1 << 30 };

function bytes(text: string): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?$/i.exec(text) ?? [];
  if (amount === undefined) throw new InvalidArgumentError('It is not a number of bytes, such as 1073741824 or 1GiB.');
  return Math.floor(Number(amount) * (UNITS[unit?.toLowerCase() ?? ''] ?? 1));
}

const list = (text: string, earlier: unknown): string[] => [...((earlier as string[] | undefined) ?? []), text];

const tokenIds = (text: string, earlier: unknown): number[] => [...((earlier as number[] | undefined) ?? []), ...text.split(',').map(number)];

function json(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new InvalidArgumentError('It is not JSON.');
  }
}

const executorName = (text: string): number | ExecutorRole => EXECUTOR_ROLES.find((role) => role === text) ?? number(text);

/** Pairs like attention=4, of these names, each once. */
const sizes =
  <Name extends string>(names: readonly Name[], example: string) =>
  (text: string, earlier: unknown): object => {
    const given: Record<string, number | string> = { ...(earlier as Record<string, number | string> | undefined) };
    for (const part of text.split(',')) {
      const [name = '', value = ''] = part.split('=');
      if (!names.includes(name as Name)) throw new InvalidArgumentError(`It is not like ${example}.`);
      if (name in given) throw new InvalidArgumentError(`It names ${name} twice.`);
      given[name] = name === 'executor' ? executorName(value) : number(value);
    }
    return given;
  };

const workerList = (text: string): number[] => text.split(',').map(number);

function bias(text: string, earlier: unknown): Record<string, number> {
  const [id = '', value = ''] = text.split('=');
  return { ...(earlier as Record<string, number> | undefined), [id]: number(value) };
}

/** A virtual clock stands still for whoever reads a real one: it is for programs that wait for nothing but the pod. */
export const PROGRAM_ONLY = ['clock', 'kernels', 'hash_foreseeable', 'seed'] as const;

export const POD_FLAGS = {
  model: { value: 'NAME_OR_DIR', help: 'a shipped model, or a folder in the Hugging Face layout' },
  topology: { value: 'TEXT', help: 'how work is laid out, as colocated:dp=2, pd:prefill=2xdp1tp2,decode=1xdp4 or moe-attention:domains=3x4,experts=8' },
  npus: { value: 'N', help: 'NPUs to emulate, short for --topology colocated:dp=N (default: 1)', read: number },
  data_parallel_size: { value: 'N', help: 'DP groups, in vLLM’s words: the same as --topology colocated:dp=N', read: number },
  workers: { value: 'N', help: 'threads that host the NPUs', read: number },
  npu_workers: { value: 'LIST', help: 'the worker of each NPU, as 0,0,1 (default: equal runs, those with experts only apart)', read: workerList },
  kv_block_size: { value: 'N', help: 'positions that a KV block holds, a multiple of 16', read: number },
  dispatch_dtype: { value: 'NAME', help: "what tokens' rows go to the experts in: 'auto', float32, or 'int8'" },
  combine_dtype: { value: 'NAME', help: "the same of what experts answer: 'auto' or 'int8'" },
  kv_cache_dtype: { value: 'NAME', help: "what KV is kept as: 'auto', float32, or 'int8'" },
  kv_blocks: { value: 'N', help: 'KV blocks of each NPU (default: room for 8 requests of full length)', read: number },
  dram_blocks: { value: 'N', help: 'KV blocks of host DRAM below each NPU (default: none)', read: number },
  link_bytes_per_s: { value: 'BYTES', help: 'how fast blocks move between DP groups; decides what is fetched and what computed anew', read: number },
  dram_bytes_per_s: { value: 'BYTES', help: 'how fast blocks move between the two; decides what is fetched and what computed anew', read: number },
  max_batch_tokens: { value: 'N', help: 'tokens that one step of an NPU computes at most', read: number },
  max_batch_requests: { value: 'N', help: 'requests that one step of an NPU serves at most', read: number },
  prefix_caching: { help: 'compute each prompt anew, also where an earlier one began alike', negated: true },
  prefix_sharing: { help: 'take the KV of a prompt’s beginning from the DP group that has it, where that beats computing' },
  async_scheduling: { help: 'plan a step only when the one before it has come back', negated: true },
  enforce_eager: { help: 'run decode op by op, not as captured programs of kernel calls' },
  scheduling_policy: { value: 'NAME', help: "whose turn it is where requests wait: 'priority', or 'fcfs' whatever their priorities" },
  long_prompt_groups: { value: 'N', help: 'DP groups of each executor that are for very long prompts alone', read: number },
  long_prompt_tokens: { value: 'N', help: 'tokens of a prompt that is very long (default: 8192)', read: number },
  load_balancing: { value: 'NAME', help: "how a DP group is chosen: 'packed', 'least_kv', 'cost_model' or 'round_robin' (default: by role)" },
  kv_lease_ms: { value: 'MS', help: 'how long KV waits for a decode side that does not come for it', read: number },
  kv_fabric: { value: 'NAME', help: "what KV travels by between task executors: the 'memory' that they share, or 'tcp'" },
  kv_checks: { value: 'WHEN', help: "KV is held against its sums at 'each-step', before a token is drawn from it, or 'off', never" },
  row_checks: { value: 'WHEN', help: "rows that NPUs take from one another are held against their sums at 'each-step', or 'off', never" },
  weight_checks: {
    value: 'WHEN',
    help: "weights are held against their sums: all of them in turn ('scrub'), those of 'each-step' before it is heard of, or 'off'",
  },
  weight_scrub_s: { value: 'S', help: 'in so many seconds a scrub looks at all weights once', read: number },
  kv_transfer: { value: 'HOW', help: "KV moves from prefill to decode by 'request', or by 'layer', while the prompt's last step is computed" },
  schedule: { value: 'NAME', help: "how attention NPUs and expert NPUs take turns: 'dataflow' (default) or 'domains'" },
  micro_batches: { value: 'N', help: 'into so many a step is cut where attention and experts are apart: 1 or 2', read: number },
  average_routing: { help: 'for measurements alone, tokens are not the model’s: experts are asked in turn, as evenly as can be' },
  expert_balancing: {
    value: 'JSON',
    help: 'balance experts over NPUs while requests run, as {"redundant_slots":8,"policy":"global","period_ms":60000}',
    read: json,
  },
  enable_eplb: { help: 'the same in vLLM’s words, with --eplb-config' },
  eplb_config: { value: 'JSON', help: 'as {"num_redundant_experts":8}', read: json },
  speculative_config: { value: 'JSON', help: 'draft tokens and verify several in one step, as {"method":"mtp","num_speculative_tokens":1}', read: json },
  scale_max: {
    value: 'LIST',
    help: 'room for changes of shape while requests run, as attention=4,experts=4: so many DP groups and expert NPUs at most; executor=decode where there are several',
    read: sizes(['executor', 'attention', 'experts'], 'attention=4,experts=4'),
  },
  scale_min: { value: 'LIST', help: 'experts=2: so few expert NPUs it may come to have', read: sizes(['experts'], 'experts=2') },
  max_queued: { value: 'N', help: 'choices that may wait or run at once; more are refused', read: number },
  job_executors: { value: 'N', help: 'job executors, each on a thread of its own (default: 2, with one worker 1)', read: number },
  spare_workers: { value: 'N', help: 'memory kept for successors of workers that cannot be stopped (on Deno)', read: number },
  recovery: { value: 'HOW', help: "where a worker is lost: 'fine-grained' (default), or 'restart' everything" },
  degraded: { help: 'serve on without experts of which no copy is left, and say so in each answer' },
  respawn: { help: 'lost workers have no successors: those that are left go on', negated: true },
  rehome_after_ms: {
    value: 'MS',
    help: "how long a lost worker's successor is waited for before its experts are loaded elsewhere (default: 5000)",
    read: number,
  },
  role_switch: {
    value: 'HOW',
    help: "with --no-respawn, where experts are nowhere: an attention NPU takes the lost one's role: 'auto' (default), 'foreground', 'background' or 'never'",
  },
  record: { value: 'FILE', help: 'record the run, to replay it with `minipod replay`' },
  record_routing: { value: 'FILE', help: 'record which experts each token goes to, for `minipod experts routing` and `plan`' },
  record_when_full: { value: 'HOW', help: 'where recorder or disk are too slow: wait for them, or stop recording (default: wait)' },
  record_prompts: { help: 'leave prompts out of the trace, which replays without its kernels; needs --no-prefix-caching', negated: true },
  segment_bytes: { value: 'BYTES', help: 'one segment of global memory, at most 4 GiB − 64 KiB, a multiple of 64 KiB', read: bytes },
  memory_bytes: { value: 'BYTES', help: "global memory in all, such as 8GiB (default: 3/4 of this machine's)", read: bytes },
} as const satisfies Omit<Flags<typeof podOptionsSchema>, (typeof PROGRAM_ONLY)[number]>;

export const SAMPLING_FLAGS = {
  max_tokens: { value: 'N', help: 'tokens to generate at most', read: number },
  min_tokens: { value: 'N', help: 'no stop of any kind before this many', read: number },
  temperature: { value: 'T', help: '0 takes the likeliest token always', read: number },
  top_p: { value: 'P', help: 'draw among the likeliest tokens of this total probability', read: number },
  top_k: { value: 'K', help: 'draw among the K likeliest tokens; 0: all', read: number },
  min_p: { value: 'P', help: 'only tokens at least this likely, relative to the likeliest', read: number },
  seed: { value: 'N', help: 'the same seed gives the same text (default: drawn anew)', read: number },
  stop: { value: 'TEXT', help: 'end before this text; may be given more than once', read: list },
  stop_token_ids: { value: 'IDS', help: 'end after one of these tokens, separated by commas', read: tokenIds },
  ignore_eos: { help: 'go on past end-of-sequence tokens' },
  presence_penalty: { value: 'X', help: '−2 … 2, on tokens that have appeared', read: number },
  frequency_penalty: { value: 'X', help: '−2 … 2, by how often they have', read: number },
  repetition_penalty: { value: 'X', help: '1: off', read: number },
  logit_bias: { value: 'ID=X', help: 'added to a token’s logit; may be given more than once', read: bias },
  cache_salt: { value: 'TEXT', help: 'share cached prefixes with requests of the same salt only' },
  data_parallel_rank: { value: 'N', help: 'the DP group that is to generate (default: the least loaded one)', read: number },
  priority: { value: 'N', help: 'whose turn it is: the lower the sooner', read: number },
  deadline_ms: { value: 'MS', help: 'fail if it takes longer in all', read: number },
  n: { value: 'N', help: 'choices from one prompt', read: number },
  logprobs: { value: 'N', help: 'log-probability of each token and of N alternatives; with --json', read: number },
  prompt_logprobs: { value: 'N', help: 'the same for the prompt; with --json', read: number },
  add_special_tokens: { help: 'do not put the beginning-of-sequence token before the prompt', negated: true },
  skip_special_tokens: { help: 'print special tokens as well', negated: true },
  speculative_decoding: { help: 'draft none of its tokens, in a pod that drafts', negated: true },
  // A command's pod has no contexts but those that it makes itself, and a command prints text.
} as const satisfies Omit<Flags<typeof generateOptionsSchema>, 'context_id' | 'reasoning_parser' | 'tool_call_parser'>;

export const SERVE_FLAGS = {
  host: { value: 'ADDRESS', help: 'address to bind; 0.0.0.0 opens it to the network' },
  port: { value: 'N', help: '0: any free one', read: number },
  api_key: { value: 'KEY', help: 'ask clients for it, as "Authorization: Bearer KEY"', env: 'MINIPOD_API_KEY' },
  body_limit_bytes: { value: 'BYTES', help: 'larger request bodies are refused', read: bytes },
  otlp_traces_endpoint: {
    value: 'URL',
    help: 'send spans of each request there, as OTLP over HTTP in JSON',
    env: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
  },
  concurrency: { value: 'N', help: 'completions under way at once; more are refused with 429', read: number },
  reasoning_parser: { value: 'NAME', help: "give a chat's reasoning apart: 'deepseek_r1', 'deepseek_v3', 'qwen3' or 'kimi_k2'" },
  enable_auto_tool_choice: { help: 'let the model call the tools of a chat; with --tool-call-parser' },
  expert_metrics: { value: 'DETAIL', help: "tell of experts in /metrics, by 'layer', or by 'expert' too" },
  tool_call_parser: { value: 'NAME', help: "how it writes calls: 'hermes' (Qwen), 'qwen3_coder', 'deepseek_v3', 'deepseek_v31' or 'kimi_k2'" },
} as const satisfies Flags<typeof serveOptionsSchema>;

export const FABRIC_FLAGS = {
  requests: { value: 'N', help: 'generations kept under way meanwhile; 0 shows an idle pod', read: number },
  seconds: { value: 'S', help: 'end after so long (default: 2, or Ctrl-C on a terminal)', read: number },
} as const satisfies Flags<typeof fabricOptionsSchema>;

export const SERVER_FLAGS = {
  url: { value: 'URL', help: 'the server; where a proxy has it under a path, with that' },
  api_key: { value: 'KEY', help: 'where the server asks for one', env: 'MINIPOD_API_KEY' },
} as const satisfies Flags<typeof serverSchema>;

export const TOP_FLAGS = {
  ...SERVER_FLAGS,
  interval_seconds: { value: 'S', help: 'look so often; with --once the time between its two looks', read: number },
} as const satisfies Flags<typeof topOptionsSchema>;

export const SCALE_FLAGS = {
  ...SERVER_FLAGS,
  attention: { value: 'N', help: 'so many DP groups are to serve', read: number },
  experts: { value: 'N', help: 'so many expert NPUs are to have the experts', read: number },
  executor: { value: 'NAME', help: 'of this task executor, by number or role, where there are several', read: executorName },
  deadline_ms: { value: 'MS', help: 'a change that takes longer is undone (default: 30000)', read: number },
} as const satisfies Flags<typeof scaleOptionsSchema>;

export const EXPERTS_FLAGS = {
  ...SERVER_FLAGS,
  interval_seconds: { value: 'S', help: 'look so often; elsewhere than on a terminal the time between the two looks', read: number },
  layer: { value: 'N', help: 'this one alone, with all of its experts (default: the ten hottest of all)', read: number },
} as const satisfies Flags<typeof expertsOptionsSchema>;

type FlagTable = { readonly [name: string]: Flag };
type Fields = { readonly [name: string]: z.ZodType };

/** Adds the flags to a command's help under a heading; `defaults` are what the command sets differently from the API. */
export function addFlags(command: Command, heading: string, flags: FlagTable, fields: Fields, defaults: { readonly [name: string]: unknown } = {}): void {
  for (const [name, flag] of Object.entries(flags)) {
    const field = fields[name];
    if (field === undefined) throw new Error(`the schema has no ${name}`);
    const preset = defaults[name] ?? field.safeParse(undefined).data;
    const isSaid = flag.help.includes('(default: ');
    const isWorthSaying = !isSaid && preset !== undefined && typeof preset !== 'boolean' && typeof preset !== 'object';
    const option = new Option(flagUsage(name, flag), isWorthSaying ? `${flag.help} (default: ${preset})` : flag.help).helpGroup(heading);
    // An empty variable is as good as none: `MINIPOD_API_KEY= minipod serve`.
    if (flag.env !== undefined && process.env[flag.env] !== '') option.env(flag.env);
    if (flag.value !== undefined) option.argParser((text: string, earlier: unknown) => checked(field, flag.read?.(text, earlier) ?? text));
    command.addOption(option);
  }
}

/** What was given on the command line, by the API's names. */
export function givenFlags(command: Command, flags: FlagTable): { [name: string]: unknown } {
  const given: { [name: string]: unknown } = {};
  for (const name of Object.keys(flags)) {
    const source = command.getOptionValueSource(camelCase(name));
    if (source === 'cli' || source === 'env') given[name] = command.getOptionValue(camelCase(name));
  }
  return given;
}

const kebabCase = (name: string): string => name.replaceAll('_', '-');
const camelCase = (name: string): string => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());

const flagUsage = (name: string, { value, negated }: Flag): string => `--${negated ? 'no-' : ''}${kebabCase(name)}${value === undefined ? '' : ` <${value}>`}`;

/** The value as it was read: the API parses it again. */
function checked(field: z.ZodType, value: unknown): unknown {
  const result = field.safeParse(value, inWords);
  if (result.success) return value;
  const { path, message } = firstIssue(result.error.issues);
  throw new InvalidArgumentError(`${path.length === 0 ? 'It' : `${path.join('.')}:`} ${message}.`);
}
