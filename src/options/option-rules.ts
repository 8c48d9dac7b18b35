/**
 * What options of a pod say of one another, whatever its model and its topology: what contradicts and what does nothing is refused.
 * @module
 */
import type * as z from 'zod';
import { numericsOf } from '../protocol/numerics.ts';
import type { podOptions } from './options.ts';

type Options = z.output<typeof podOptions>;
type Refuse = (param: keyof Options, message: string) => void;

const LIVE_ONLY = 'is for pods of the live clock: on a virtual one no thread hangs';
const NEVER_FULL = "is for pods of the live clock: a virtual one's recorder is a part of its run";
const NOT_RECORDED = 'needs record or record_routing: without one of them nothing is recorded';
const NOT_REPLAYED = 'must be false where prompts are left out (--no-prefix-caching): which of them begin alike would decide what is computed';
const REAL_ONLY = "is for real kernels: the hash model's are never captured";
const VIRTUAL_ONLY = "needs clock: 'virtual'";

const NO_REDUNDANT = 'needs eplb_config with num_redundant_experts, 1 or more: experts move by way of slots that are free';
const NOT_ENABLED = 'does nothing without enable_eplb';
const TWICE = 'says the same as expert_balancing: leave one of them out';

const NO_DRAM = 'needs dram_blocks: without any nothing moves between the two';
const NO_LINK = "needs prefix_sharing, scale_max or clock: 'virtual': else nothing is weighed by it, and blocks move as fast as the machine lets them";
const NO_LONG_GROUPS = 'needs long_prompt_groups: without any a long prompt goes where others go';

export function checkTogether(options: Options, context: z.RefinementCtx): void {
  const refuse: Refuse = (param, message) => context.addIssue({ code: 'custom', path: [param], message });
  checkClock(options, refuse);
  checkRecording(options, refuse);
  checkBalancing(options, refuse);
  checkLink(options, refuse);
  const { dram_blocks, dram_bytes_per_s, long_prompt_groups, long_prompt_tokens } = options;
  if (dram_blocks === 0 && dram_bytes_per_s !== undefined) refuse('dram_bytes_per_s', NO_DRAM);
  if (long_prompt_groups === 0 && long_prompt_tokens !== undefined) refuse('long_prompt_tokens', NO_LONG_GROUPS);
}

function checkLink({ clock, link_bytes_per_s, prefix_sharing, scale_max, scale_min }: Options, refuse: Refuse): void {
  if (clock === 'virtual' || link_bytes_per_s === undefined) return;
  if (!prefix_sharing && scale_max === undefined && scale_min === undefined) refuse('link_bytes_per_s', NO_LINK);
}

function checkClock(options: Options, refuse: Refuse): void {
  const { clock, seed, kernels, hash_foreseeable, spare_workers, enforce_eager } = options;
  if (clock === 'live' && seed !== undefined) refuse('seed', VIRTUAL_ONLY);
  if (clock === 'live' && kernels === 'hash') refuse('kernels', `'hash' ${VIRTUAL_ONLY}`);
  if (clock === 'virtual' && spare_workers > 0) refuse('spare_workers', LIVE_ONLY);
  if (kernels !== 'hash' && hash_foreseeable !== undefined) refuse('hash_foreseeable', "needs kernels: 'hash'");
  if (kernels !== 'hash') return;
  if (enforce_eager) refuse('enforce_eager', REAL_ONLY);
  for (const name of Object.keys(numericsOf(options)) as (keyof Options)[]) refuse(name, "is for real kernels: the hash model's rows and KV are hashes");
}

function checkRecording({ clock, record, record_routing, record_when_full, record_prompts, prefix_caching }: Options, refuse: Refuse): void {
  if (!record_prompts && prefix_caching) refuse('prefix_caching', NOT_REPLAYED);
  if (record_when_full === undefined) return;
  if (clock === 'virtual') refuse('record_when_full', NEVER_FULL);
  else if (record === undefined && record_routing === undefined) refuse('record_when_full', NOT_RECORDED);
}

function checkBalancing({ enable_eplb, eplb_config, expert_balancing }: Options, refuse: Refuse): void {
  if (enable_eplb && eplb_config === undefined) refuse('enable_eplb', NO_REDUNDANT);
  if (!enable_eplb && eplb_config !== undefined) refuse('eplb_config', NOT_ENABLED);
  if (enable_eplb && expert_balancing !== undefined) refuse('enable_eplb', TWICE);
}
