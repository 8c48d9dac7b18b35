/**
 * What is particular to Qwen3-MoE configs: GQA with q/k norm, rope in halves, softmax gating.
 * @module
 */
import * as z from 'zod';
import type { ArchitecturePart } from './config.ts';
import { CONFIG_LIMITS, type ConfigFields, count, dimension, positive } from './config-fields.ts';

const schema = z.object({
  hidden_size: dimension,
  moe_intermediate_size: dimension,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count,
  head_dim: dimension.nullish(),
  num_experts: count.max(CONFIG_LIMITS.experts_max),
  num_experts_per_tok: count,
  // Hugging Face's default for this architecture, which its writer leaves out of the file.
  norm_topk_prob: z.boolean().default(false),
  decoder_sparse_step: count.default(1),
  mlp_only_layers: z.array(z.int().min(0)).default([]),
  rope_theta: positive,
  rope_scaling: z.null('null: rope scaling is not supported for qwen3_moe').default(null),
  use_sliding_window: z.literal(false, 'false: sliding windows are not supported').default(false),
});

export function qwenConfig(config: unknown, fields: ConfigFields): ArchitecturePart {
  const given = fields.parse(schema, config);
  const { num_attention_heads: heads, num_key_value_heads: kvHeads } = given;
  const headDim = given.head_dim ?? given.hidden_size / heads;
  fields.multipleOf4({ head_dim: headDim });
  if (heads % kvHeads !== 0) fields.fail('num_key_value_heads', `a divisor of num_attention_heads ${heads}`, String(kvHeads));
  if (given.num_experts_per_tok > given.num_experts)
    fields.fail('num_experts_per_tok', `at most num_experts ${given.num_experts}`, String(given.num_experts_per_tok));
  const denseLayers = Array.from({ length: given.num_hidden_layers }, (_, layer) => layer).filter(
    (layer) => given.mlp_only_layers.includes(layer) || (layer + 1) % given.decoder_sparse_step !== 0,
  );
  const firstMoeLayer = Array.from({ length: given.num_hidden_layers }, (_, layer) => layer).find((layer) => !denseLayers.includes(layer));
  return {
    rope: { theta: given.rope_theta, dim: headDim, style: 'halves', yarn: null },
    attention: { kind: 'gqa', kvHeads, headDim, softmaxScale: 1 / Math.sqrt(headDim) },
    moe: {
      experts: given.num_experts,
      topK: given.num_experts_per_tok,
      intermediateSize: given.moe_intermediate_size,
      sharedExperts: 0,
      firstDenseLayers: firstMoeLayer ?? given.num_hidden_layers,
      denseLayers,
      gating: { kind: 'softmax', normalise: given.norm_topk_prob },
    },
    mtpLayers: 0,
  };
}
