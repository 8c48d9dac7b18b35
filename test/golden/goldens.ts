/** The goldens of ../shared/models, typed, and the folders of their checkpoints. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const MODELS = ['tiny-deepseek-v3', 'tiny-qwen3-moe', 'tiny-kimi-k2'] as const;
export type ModelName = (typeof MODELS)[number];

export type GoldenCase = {
  readonly text?: string;
  readonly user?: string;
  readonly token_ids: readonly number[];
  readonly last_logits_f32_b64: string;
  readonly argmax_per_position: readonly number[];
  /** By MoE layer, then position: ids sorted. */
  readonly routed_experts: Readonly<Record<string, readonly (readonly number[])[]>>;
  readonly greedy_ids: readonly number[];
  readonly greedy_logprobs: readonly number[];
  readonly top1_top2_gap: readonly number[];
  /** Of tiny-deepseek-v3: what its MTP layer drafts for `greedy_ids` from the second on, and how many of those it drafts right. */
  readonly mtp_draft_ids?: readonly number[];
  readonly mtp_accepted?: number;
};

/** Two reference implementations may differ by this much; below a logit distance of `GAP_MIN` either token is right. */
export const TOLERANCE = 1e-3;
export const GAP_MIN = 2e-3;

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url));

export const folderOf = (model: ModelName): string => path(model === 'tiny-deepseek-v3' ? `../../models/${model}` : `../models/${model}`);

const goldens = JSON.parse(readFileSync(path('goldens.open.json'), 'utf8')) as Record<ModelName, { readonly cases: readonly GoldenCase[] }>;

export const casesOf = (model: ModelName): readonly GoldenCase[] => goldens[model].cases;

export const nameOf = ({ text, user }: GoldenCase): string => (text ?? user ?? '').slice(0, 40);

export function lastLogitsOf({ last_logits_f32_b64 }: GoldenCase): Float32Array {
  const bytes = Uint8Array.from(Buffer.from(last_logits_f32_b64, 'base64'));
  return new Float32Array(bytes.buffer);
}

/** How many greedy tokens must agree: all, unless the first that does not is one where the reference itself could not decide. */
export function agreedTokens(golden: GoldenCase, ids: readonly number[]): number {
  const differs = golden.greedy_ids.findIndex((id, index) => ids[index] !== id);
  if (differs < 0) return golden.greedy_ids.length;
  return (golden.top1_top2_gap[differs] ?? 1) < GAP_MIN ? differs : -1;
}
