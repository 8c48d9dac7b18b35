/**
 * A checkpoint's config.json and generation_config.json, checked and brought into one plain form for all architectures.
 * Field names on disk are Hugging Face's.
 * @module
 */
import { basename, join } from 'node:path';
import * as z from 'zod';
import { deepseekConfig } from './config-deepseek.ts';
import { CONFIG_LIMITS, ConfigFields, count, dimension, positive } from './config-fields.ts';
import { qwenConfig } from './config-qwen.ts';
import { readJsonFile, readJsonFileIfPresent } from './json-file.ts';
import { type Quantization, quantizationOf } from './quantization.ts';

export type Architecture = 'deepseek_v3' | 'kimi_k2' | 'qwen3_moe';

/** YaRN, arXiv 2309.00071, with DeepSeek's two mscale fields. */
export type Yarn = {
  readonly factor: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  readonly mscale: number;
  readonly mscaleAllDim: number;
  readonly originalMaxPositions: number;
};

export type Rope = {
  readonly theta: number;
  /** Elements of a head that are rotated. */
  readonly dim: number;
  /** Pairs (2i, 2i+1), or (i, i + dim/2). */
  readonly style: 'interleaved' | 'halves';
  readonly yarn: Yarn | null;
};

export type MlaConfig = {
  readonly kind: 'mla';
  /** null: one q_proj instead of q_a_proj, norm, q_b_proj. */
  readonly qLoraRank: number | null;
  readonly kvLoraRank: number;
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly vDim: number;
  /** (nope + rope)^-½, times mscale² under YaRN. float64; the same bits on every engine. */
  readonly softmaxScale: number;
};

export type GqaConfig = { readonly kind: 'gqa'; readonly kvHeads: number; readonly headDim: number; readonly softmaxScale: number };

export type Gating =
  | { readonly kind: 'sigmoid'; readonly groups: number; readonly topkGroups: number; readonly normalise: boolean; readonly scalingFactor: number }
  | { readonly kind: 'softmax'; readonly normalise: boolean };

export type MoeConfig = {
  readonly experts: number;
  readonly topK: number;
  readonly intermediateSize: number;
  /** Their weights are stored as one MLP of `sharedExperts × intermediateSize`. */
  readonly sharedExperts: number;
  readonly firstDenseLayers: number;
  /** Every layer with a dense MLP, ascending; MTP layers are numbered on from `layers`. */
  readonly denseLayers: readonly number[];
  readonly gating: Gating;
};

export type ModelConfig = {
  readonly architecture: Architecture;
  readonly name: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly maxPositions: number;
  readonly rmsNormEps: number;
  readonly tieWordEmbeddings: boolean;
  readonly rope: Rope;
  readonly attention: MlaConfig | GqaConfig;
  /** The dense MLP's. */
  readonly mlp: { readonly intermediateSize: number };
  readonly moe: MoeConfig;
  readonly mtpLayers: number;
  /** Of a pod that drafts by multi-token prediction: so many MTP layers, the first ones, are loaded; missing: none is. */
  readonly draftLayers?: number;
  /** Missing: no weights are quantised. */
  readonly quantization?: Quantization;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
};

/** What an architecture's file fills in; the rest is common. */
export type ArchitecturePart = Pick<ModelConfig, 'rope' | 'attention' | 'moe' | 'mtpLayers'>;

const ARCHITECTURES: { readonly [name in Architecture]: (config: unknown, fields: ConfigFields) => ArchitecturePart } = {
  deepseek_v3: deepseekConfig,
  kimi_k2: deepseekConfig,
  qwen3_moe: qwenConfig,
};

const tokenIds = z.union([z.int().min(0), z.array(z.int().min(0))], 'a token id or a list of them').nullish();

const commonSchema = z.object({
  vocab_size: dimension,
  hidden_size: dimension,
  num_hidden_layers: count.max(CONFIG_LIMITS.layers_max),
  num_attention_heads: dimension,
  max_position_embeddings: count.max(CONFIG_LIMITS.positions_max),
  intermediate_size: dimension,
  moe_intermediate_size: dimension,
  rms_norm_eps: positive.default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.literal(false, 'false: attention bias is not supported').default(false),
  hidden_act: z.literal('silu').default('silu'),
  bos_token_id: z.int().min(0).nullish(),
  eos_token_id: tokenIds,
});

const generationSchema = z.object({ bos_token_id: z.int().min(0).nullish(), eos_token_id: tokenIds });

/** Reads and checks both files of a folder. Throws `invalid_checkpoint`. */
export function readModelConfig(folder: string): ModelConfig {
  const file = join(folder, 'config.json');
  const generationFile = join(folder, 'generation_config.json');
  return parseModelConfig(readJsonFile(file), readJsonFileIfPresent(generationFile), { file, generationFile, name: basename(folder) });
}

/** The same from parsed JSON. The files are named in errors only. Throws `invalid_checkpoint` naming file, field, expected and found. */
export function parseModelConfig(
  config: unknown,
  generation: unknown = undefined,
  { file = 'config.json', generationFile = 'generation_config.json', name = 'model' } = {},
): ModelConfig {
  const fields = new ConfigFields(file);
  const head = fields.parse(z.object({ model_type: z.string(), quantization_config: z.unknown().optional() }), config);
  const architecture = head.model_type as Architecture;
  if (!Object.hasOwn(ARCHITECTURES, architecture))
    fields.fail('model_type', `one of ${Object.keys(ARCHITECTURES).join(', ')}`, JSON.stringify(head.model_type));
  const quantization = head.quantization_config == null ? null : quantizationOf(head.quantization_config, fields);

  const common = fields.parse(commonSchema, config);
  fields.multipleOf4({ hidden_size: common.hidden_size, intermediate_size: common.intermediate_size, moe_intermediate_size: common.moe_intermediate_size });
  const part = ARCHITECTURES[architecture](config, fields);
  const ending = generation === undefined ? {} : new ConfigFields(generationFile).parse(generationSchema, generation);
  const model: ModelConfig = {
    architecture,
    name,
    vocabSize: common.vocab_size,
    hiddenSize: common.hidden_size,
    layers: common.num_hidden_layers,
    heads: common.num_attention_heads,
    maxPositions: common.max_position_embeddings,
    rmsNormEps: common.rms_norm_eps,
    tieWordEmbeddings: common.tie_word_embeddings,
    ...part,
    mlp: { intermediateSize: common.intermediate_size },
    ...(quantization !== null && { quantization }),
    bosTokenId: ending.bos_token_id ?? common.bos_token_id ?? null,
    eosTokenIds: [ending.eos_token_id ?? common.eos_token_id ?? []].flat(),
  };
  for (const id of [model.bosTokenId ?? 0, ...model.eosTokenIds])
    if (id >= model.vocabSize) fields.fail('bos_token_id / eos_token_id', `below vocab_size ${model.vocabSize}`, String(id));
  return model;
}
