/**
 * The exact list of tensors that a checkpoint of a given config holds, and each one's role.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { ModelConfig } from './config.ts';
import { isMoeLayer } from './moe-layers.ts';
import { checkQuantized, scaleOf } from './quantization.ts';
import type { StoredTensor } from './safetensors.ts';

export type MlpWeight = 'gate_proj' | 'up_proj' | 'down_proj';

/** What a tensor is for. `weight` is the name on disk without layer and suffix. */
export type TensorPart =
  | { readonly kind: 'embedding' }
  | { readonly kind: 'final_norm' }
  | { readonly kind: 'head' }
  | { readonly kind: 'norm'; readonly layer: number; readonly weight: 'input_layernorm' | 'post_attention_layernorm' }
  | { readonly kind: 'attention'; readonly layer: number; readonly weight: string }
  | { readonly kind: 'dense'; readonly layer: number; readonly weight: MlpWeight }
  | { readonly kind: 'router'; readonly layer: number; readonly weight: 'gate' | 'e_score_correction_bias' }
  | { readonly kind: 'expert'; readonly layer: number; readonly expert: number; readonly weight: MlpWeight }
  | { readonly kind: 'shared_expert'; readonly layer: number; readonly weight: MlpWeight }
  | { readonly kind: 'mtp'; readonly layer: number; readonly weight: string };

export type InventoryEntry = {
  readonly name: string;
  readonly shape: readonly number[];
  readonly part: TensorPart;
  /** False: left on disk, though checked: copies of what is stored elsewhere, and MTP layers, but for those of a pod that drafts with them. */
  readonly loaded: boolean;
  /** Published checkpoints differ in whether they store it. */
  readonly optional: boolean;
};

/** Every tensor, in the order of the forward pass. */
export function listInventory(config: ModelConfig): InventoryEntry[] {
  const { vocabSize, hiddenSize } = config;
  const entries: InventoryEntry[] = [];
  const add = (name: string, shape: readonly number[], part: TensorPart, { loaded = true, optional = false } = {}) =>
    entries.push({ name, shape, part, loaded, optional });

  add('model.embed_tokens.weight', [vocabSize, hiddenSize], { kind: 'embedding' });
  for (let layer = 0; layer < config.layers; layer++) addLayer(config, layer, add);
  add('model.norm.weight', [hiddenSize], { kind: 'final_norm' });
  // A tied head is the embedding; some writers store it all the same.
  const tied = config.tieWordEmbeddings;
  add('lm_head.weight', [vocabSize, hiddenSize], { kind: 'head' }, { loaded: !tied, optional: tied });
  for (let layer = config.layers; layer < config.layers + config.mtpLayers; layer++) addMtpLayer(config, layer, add);
  return entries;
}

/** Of an MTP layer, what the main model has as well, or computes. */
const ELSEWHERE: readonly string[] = ['embed_tokens', 'shared_head.head', 'rotary_emb.inv_freq'];

/** Whether a pod with a model of this config has it in memory. */
export const isLoaded = ({ layers, draftLayers = 0 }: ModelConfig, { loaded, part }: Pick<InventoryEntry, 'loaded' | 'part'>): boolean =>
  loaded || ('layer' in part && part.layer >= layers && part.layer < layers + draftLayers && !ELSEWHERE.includes(part.weight));

type Add = (name: string, shape: readonly number[], part: TensorPart, options?: { readonly loaded?: boolean; readonly optional?: boolean }) => void;

function addLayer(config: ModelConfig, layer: number, add: Add): void {
  const { hiddenSize, moe } = config;
  const prefix = `model.layers.${layer}`;
  add(`${prefix}.input_layernorm.weight`, [hiddenSize], { kind: 'norm', layer, weight: 'input_layernorm' });
  for (const [weight, shape] of attentionShapes(config)) add(`${prefix}.self_attn.${weight}.weight`, shape, { kind: 'attention', layer, weight });
  // A table that older writers stored; rope is computed from the config.
  if (config.attention.kind === 'mla')
    add(
      `${prefix}.self_attn.rotary_emb.inv_freq`,
      [config.rope.dim / 2],
      { kind: 'attention', layer, weight: 'rotary_emb.inv_freq' },
      { loaded: false, optional: true },
    );
  add(`${prefix}.post_attention_layernorm.weight`, [hiddenSize], { kind: 'norm', layer, weight: 'post_attention_layernorm' });

  const addMlp = (at: string, intermediateSize: number, part: (weight: MlpWeight) => TensorPart) => {
    add(`${at}.gate_proj.weight`, [intermediateSize, hiddenSize], part('gate_proj'));
    add(`${at}.up_proj.weight`, [intermediateSize, hiddenSize], part('up_proj'));
    add(`${at}.down_proj.weight`, [hiddenSize, intermediateSize], part('down_proj'));
  };
  if (!isMoeLayer(config, layer)) {
    addMlp(`${prefix}.mlp`, config.mlp.intermediateSize, (weight) => ({ kind: 'dense', layer, weight }));
    return;
  }
  add(`${prefix}.mlp.gate.weight`, [moe.experts, hiddenSize], { kind: 'router', layer, weight: 'gate' });
  if (moe.gating.kind === 'sigmoid')
    add(`${prefix}.mlp.gate.e_score_correction_bias`, [moe.experts], { kind: 'router', layer, weight: 'e_score_correction_bias' });
  for (let expert = 0; expert < moe.experts; expert++)
    addMlp(`${prefix}.mlp.experts.${expert}`, moe.intermediateSize, (weight) => ({ kind: 'expert', layer, expert, weight }));
  if (moe.sharedExperts > 0)
    addMlp(`${prefix}.mlp.shared_experts`, moe.sharedExperts * moe.intermediateSize, (weight) => ({ kind: 'shared_expert', layer, weight }));
}

/** DeepSeek-V3's multi-token prediction: a whole layer with two norms and a projection before it. Its embedding and head are the main model's. */
function addMtpLayer(config: ModelConfig, layer: number, add: Add): void {
  const { hiddenSize, vocabSize } = config;
  const prefix = `model.layers.${layer}`;
  const unloaded: Add = (name, shape, part, options) => add(name, shape, part, { ...options, loaded: false });
  const mtp = (weight: string, shape: readonly number[], optional = false) =>
    unloaded(`${prefix}.${weight}.weight`, shape, { kind: 'mtp', layer, weight }, { optional });
  mtp('embed_tokens', [vocabSize, hiddenSize], true);
  mtp('enorm', [hiddenSize]);
  mtp('hnorm', [hiddenSize]);
  mtp('eh_proj', [hiddenSize, 2 * hiddenSize]);
  addLayer(config, layer, unloaded);
  mtp('shared_head.norm', [hiddenSize]);
  mtp('shared_head.head', [vocabSize, hiddenSize], true);
}

function attentionShapes({ attention, heads, hiddenSize }: ModelConfig): [weight: string, shape: number[]][] {
  if (attention.kind === 'gqa') {
    const { headDim, kvHeads } = attention;
    return [
      ['q_proj', [heads * headDim, hiddenSize]],
      ['k_proj', [kvHeads * headDim, hiddenSize]],
      ['v_proj', [kvHeads * headDim, hiddenSize]],
      ['o_proj', [hiddenSize, heads * headDim]],
      ['q_norm', [headDim]],
      ['k_norm', [headDim]],
    ];
  }
  const { qLoraRank, kvLoraRank, nopeDim, ropeDim, vDim } = attention;
  const queryDim = heads * (nopeDim + ropeDim);
  const query: [string, number[]][] =
    qLoraRank === null
      ? [['q_proj', [queryDim, hiddenSize]]]
      : [
          ['q_a_proj', [qLoraRank, hiddenSize]],
          ['q_a_layernorm', [qLoraRank]],
          ['q_b_proj', [queryDim, qLoraRank]],
        ];
  return [
    ...query,
    ['kv_a_proj_with_mqa', [kvLoraRank + ropeDim, hiddenSize]],
    ['kv_a_layernorm', [kvLoraRank]],
    ['kv_b_proj', [heads * (nopeDim + vDim), kvLoraRank]],
    ['o_proj', [hiddenSize, heads * vDim]],
  ];
}

/** Of attention, those that are quantised: kv_b stays as it is, since MLA multiplies W_UK and W_UV apart. */
const QUANTIZED_ATTENTION: ReadonlySet<string> = new Set(['q_proj', 'q_a_proj', 'q_b_proj', 'kv_a_proj_with_mqa', 'k_proj', 'v_proj', 'o_proj']);

/** Whether a weight may be INT8 (xDeepServe §4.7): attention's projections but kv_b, and all MLPs, with gate and up alike, as they are one product. */
export const isQuantizable = (part: TensorPart): boolean =>
  part.kind === 'attention' ? QUANTIZED_ATTENTION.has(part.weight) : part.kind === 'dense' || part.kind === 'expert' || part.kind === 'shared_expert';

/** `scale`: of an INT8 weight, one for each of its outputs. */
export type PlacedTensor = InventoryEntry & { readonly tensor: StoredTensor; readonly scale: StoredTensor | null };

/**
 * Holds what is stored against the list: the entries with their tensors, optional absent ones left out.
 * Throws `invalid_checkpoint` for the first missing, extra or misshapen tensor, scales among them. (Unsupported dtypes do not pass the safetensors header.)
 */
export function checkInventory(config: ModelConfig, tensors: ReadonlyMap<string, StoredTensor>, where = config.name): PlacedTensor[] {
  const placed: PlacedTensor[] = [];
  const known = new Set<string>();
  for (const entry of listInventory(config)) {
    const { name, shape, part } = entry;
    const tensor = tensors.get(name);
    if (tensor === undefined) {
      if (entry.optional) continue;
      throw new MinipodError('invalid_checkpoint', `${where}: tensor ${name}: expected shape [${shape}], found no such tensor`);
    }
    if (tensor.shape.length !== shape.length || shape.some((size, axis) => size !== tensor.shape[axis]))
      throw new MinipodError('invalid_checkpoint', `${tensor.file}: tensor ${name}: expected shape [${shape}], found [${tensor.shape}]`);
    const scale = tensor.dtype === 'I8' ? checkQuantized(name, tensor, tensors, config.quantization, isQuantizable(part)) : null;
    placed.push({ ...entry, tensor, scale });
    known.add(name);
    if (scale !== null) known.add(scaleOf(name));
  }
  for (const { name, tensor, part } of placed) {
    // Gate and up are one product; any routed expert of a layer fits where another one lay.
    if (name.endsWith('.gate_proj.weight')) checkAlike(name, tensor, name.replace('.gate_proj.', '.up_proj.'), tensors);
    if (part.kind === 'expert') checkAlike(name, tensor, name.replace(/\.experts\.\d+\./, '.experts.0.'), tensors);
  }
  if (known.size === tensors.size) return placed;
  for (const [name, { file }] of tensors)
    if (!known.has(name))
      throw new MinipodError(
        'invalid_checkpoint',
        `${file}: tensor ${name}: expected none of this name in a ${config.architecture} checkpoint of ${config.layers} layers`,
      );
  return placed;
}

function checkAlike(name: string, { file, dtype }: StoredTensor, otherName: string, tensors: ReadonlyMap<string, StoredTensor>): void {
  const other = tensors.get(otherName)?.dtype;
  if ((dtype === 'I8') === (other === 'I8')) return;
  throw new MinipodError('invalid_checkpoint', `${file}: tensor ${name}: is ${dtype}, and ${otherName} is ${other}; both or neither have to be I8`);
}
