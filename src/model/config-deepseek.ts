/**
 * What is particular to DeepSeek-V3 and Kimi-K2 configs: MLA, YaRN, sigmoid gating with group limit, MTP.
 * @module
 */
import * as z from 'zod';
import type { ArchitecturePart, Yarn } from './config.ts';
import { CONFIG_LIMITS, type ConfigFields, count, dimension, positive } from './config-fields.ts';
import { log } from './kernels/float64.ts';

const yarnSchema = z.object({
  type: z.literal('yarn'),
  factor: z.number().min(1),
  beta_fast: positive.default(32),
  beta_slow: positive.default(1),
  mscale: z.number().min(0).default(1),
  mscale_all_dim: z.number().min(0).default(0),
  original_max_position_embeddings: count.max(CONFIG_LIMITS.positions_max),
});

const schema = z.object({
  num_hidden_layers: count,
  kv_lora_rank: dimension,
  q_lora_rank: dimension.nullable(),
  qk_nope_head_dim: dimension,
  qk_rope_head_dim: dimension,
  v_head_dim: dimension,
  n_routed_experts: count.max(CONFIG_LIMITS.experts_max),
  n_shared_experts: z.int().min(0).max(CONFIG_LIMITS.experts_max).nullish(),
  num_experts_per_tok: count,
  n_group: count.default(1),
  topk_group: count.default(1),
  norm_topk_prob: z.boolean().default(true),
  routed_scaling_factor: positive.default(1),
  scoring_func: z.literal('sigmoid').default('sigmoid'),
  topk_method: z.literal('noaux_tc').default('noaux_tc'),
  first_k_dense_replace: z.int().min(0).default(0),
  moe_layer_freq: count.default(1),
  num_nextn_predict_layers: z.int().min(0).max(CONFIG_LIMITS.layers_max).default(0),
  rope_theta: positive,
  rope_interleave: z.literal(true, 'true: the published checkpoints interleave').default(true),
  rope_scaling: z
    .preprocess((scaling) => (isRecord(scaling) && 'rope_type' in scaling ? { type: scaling['rope_type'], ...scaling } : scaling), yarnSchema.nullable())
    .default(null),
});

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

export function deepseekConfig(config: unknown, fields: ConfigFields): ArchitecturePart {
  const given = fields.parse(schema, config);
  fields.multipleOf4({
    kv_lora_rank: given.kv_lora_rank,
    q_lora_rank: given.q_lora_rank ?? 4,
    qk_nope_head_dim: given.qk_nope_head_dim,
    qk_rope_head_dim: given.qk_rope_head_dim,
    v_head_dim: given.v_head_dim,
  });
  const { n_routed_experts: experts, n_group: groups, topk_group: topkGroups, num_experts_per_tok: topK } = given;
  const groupSize = experts / groups;
  // A group's score is the sum of its best two.
  if (!Number.isInteger(groupSize) || (groups > 1 && groupSize < 2))
    fields.fail('n_group', `groups of equal size, at least 2, of n_routed_experts ${experts}`, String(groups));
  if (topkGroups > groups) fields.fail('topk_group', `at most n_group ${groups}`, String(topkGroups));
  if (topK > topkGroups * groupSize) fields.fail('num_experts_per_tok', `at most the ${topkGroups * groupSize} experts of topk_group groups`, String(topK));

  const scaling = given.rope_scaling;
  const yarn: Yarn | null = scaling && {
    factor: scaling.factor,
    betaFast: scaling.beta_fast,
    betaSlow: scaling.beta_slow,
    mscale: scaling.mscale,
    mscaleAllDim: scaling.mscale_all_dim,
    originalMaxPositions: scaling.original_max_position_embeddings,
  };
  const mscale = yarn === null ? 1 : 0.1 * yarn.mscaleAllDim * log(yarn.factor) + 1;
  const lastLayer = given.num_hidden_layers + given.num_nextn_predict_layers;
  return {
    rope: { theta: given.rope_theta, dim: given.qk_rope_head_dim, style: 'interleaved', yarn },
    attention: {
      kind: 'mla',
      qLoraRank: given.q_lora_rank,
      kvLoraRank: given.kv_lora_rank,
      nopeDim: given.qk_nope_head_dim,
      ropeDim: given.qk_rope_head_dim,
      vDim: given.v_head_dim,
      softmaxScale: (mscale * mscale) / Math.sqrt(given.qk_nope_head_dim + given.qk_rope_head_dim),
    },
    moe: {
      experts,
      topK,
      intermediateSize: fields.parse(z.object({ moe_intermediate_size: dimension }), config).moe_intermediate_size,
      sharedExperts: given.n_shared_experts ?? 0,
      firstDenseLayers: given.first_k_dense_replace,
      denseLayers: Array.from({ length: lastLayer }, (_, layer) => layer).filter(
        (layer) => layer < given.first_k_dense_replace || layer % given.moe_layer_freq !== 0,
      ),
      gating: { kind: 'sigmoid', groups, topkGroups, normalise: given.norm_topk_prob, scalingFactor: given.routed_scaling_factor },
    },
    mtpLayers: given.num_nextn_predict_layers,
  };
}
