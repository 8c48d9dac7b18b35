/**
 * What a trace says of its run before the first record: all that is needed to run it again. No path, no host name, no wall time of a virtual run.
 * @module
 */
import * as z from 'zod';
import { speculativeConfigSchema } from '../flowserve/drafters/speculative-config.ts';
import { MinipodError } from '../protocol/errors.ts';
import { KV_CACHE_DTYPES, WIRE_DTYPES } from '../protocol/numerics.ts';
import { RECOVERIES } from '../protocol/recovery.ts';
import { ROLE_SWITCHES } from '../protocol/role-switch.ts';
import { firstIssue, inWords } from '../protocol/value-words.ts';
import { VERSION } from '../protocol/version.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import type { Prompts } from './redaction.ts';

const count = z.int().min(0);

const runHeaderSchema = z.object({
  /** Of minipod, as package.json says it, and of the messages' shapes. */
  code_version: z.string(),
  protocol: count,
  clock: z.enum(['live', 'virtual']),
  /** Null: chance came from outside, and is recorded where it was drawn. */
  seed: z.int().nullable(),
  kernels: z.enum(['real', 'hash']),
  model: z.object({ name: z.string(), digest: z.string() }),
  /** Prompts were left out (redaction.ts): kernels cannot be computed again. Missing: they are there. */
  prompts: z.literal('redacted').optional(),
  topology: z.string(),
  npus: count,
  workers: count,
  /** All that changes what a run does, by the names of `PodOptions`. Missing: it was the machine's to say, or the trace is older than what it says. */
  options: z.object({
    kv_blocks: count,
    /** Missing: none. */
    dram_blocks: count.default(0),
    kv_block_size: count,
    max_batch_tokens: count,
    max_batch_requests: count,
    max_queued: count,
    job_executors: count,
    /**
     * Of a pod that scales, whose topology is its largest: the task executor whose shape changes, DP groups that serve at first, and where the number of its expert NPUs
     * changes how many do, and how few there may come to be.
     */
    scaled: z.object({ executor: count, groups: count, experts: z.object({ serving: count, fewest: count }).nullable() }).optional(),
    npu_workers: z.array(count).optional(),
    spare_workers: count.optional(),
    /** Missing: who is lost begins anew alone. */
    recovery: z.enum(RECOVERIES).optional(),
    /** Missing: who is lost has a successor. */
    respawn: z.literal(false).optional(),
    /** Missing: it serves nobody without all experts. */
    degraded: z.literal(true).optional(),
    rehome_after_ms: count.optional(),
    role_switch: z.enum(ROLE_SWITCHES).optional(),
    dram_bytes_per_s: z.number().optional(),
    link_bytes_per_s: z.number().optional(),
    prefix_caching: z.boolean().optional(),
    prefix_sharing: z.boolean().optional(),
    async_scheduling: z.boolean().optional(),
    enforce_eager: z.boolean().optional(),
    scheduling_policy: z.string().optional(),
    load_balancing: z.string().optional(),
    long_prompt_groups: count.optional(),
    long_prompt_tokens: count.optional(),
    schedule: z.string().optional(),
    micro_batches: count.optional(),
    /** Missing: false. */
    average_routing: z.literal(true).optional(),
    /** Missing: as it is computed. */
    kv_cache_dtype: z.enum(KV_CACHE_DTYPES).optional(),
    dispatch_dtype: z.enum(WIRE_DTYPES).optional(),
    combine_dtype: z.enum(WIRE_DTYPES).optional(),
    expert_balancing: z
      .object({ policy: z.string(), redundant_slots: count, period_ms: count, windows: count, threshold: z.number(), nodes: count })
      .optional(),
    /** Missing: nothing was drafted. */
    speculative_config: speculativeConfigSchema.optional(),
    /** Missing: no token of the hash model can be foreseen. */
    hash_foreseeable: z.number().optional(),
    kv_lease_ms: count.optional(),
    kv_fabric: z.string().optional(),
    kv_transfer: z.string().optional(),
  }),
});

export type RunHeader = z.output<typeof runHeaderSchema>;

export const promptsOf = ({ prompts }: { readonly prompts?: 'redacted' | undefined }): Prompts => prompts ?? 'recorded';

export const runHeader = (run: Omit<RunHeader, 'code_version' | 'protocol'>): RunHeader => ({ code_version: VERSION, protocol: PROTOCOL_HASH, ...run });

/** @throws `invalid_trace` naming the first field at fault */
export function parseRunHeader(header: unknown, path: string): RunHeader {
  const result = runHeaderSchema.safeParse(header, inWords);
  if (result.success) return result.data;
  const issue = firstIssue(result.error.issues);
  throw new MinipodError('invalid_trace', `${path}: is no run of a pod: ${['header', ...issue.path].join('.')}: ${issue.message}`);
}
