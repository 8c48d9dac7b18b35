/** Checkpoints that are made in milliseconds: small shapes of both architectures, random weights, and outlier channels where they are asked for. */
import { cpSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseModelConfig } from '../../src/model/config.ts';
import { listInventory } from '../../src/model/inventory.ts';
import { narrowed } from '../../src/quantize/matrix.ts';
import { QuantizedFile } from '../../src/quantize/quantized-file.ts';
import { readJson, TINY } from '../model/checkpoint-folder.ts';
import { noise } from '../property/kernels-arena.ts';

const MLA = {
  ...{ hidden_size: 64, num_hidden_layers: 2, intermediate_size: 96, moe_intermediate_size: 32, n_routed_experts: 8, num_experts_per_tok: 2, n_group: 2 },
  ...{ topk_group: 1, num_attention_heads: 4, num_key_value_heads: 4, kv_lora_rank: 32, q_lora_rank: 32, qk_nope_head_dim: 16, qk_rope_head_dim: 8 },
  ...{ v_head_dim: 16, num_nextn_predict_layers: 1, max_position_embeddings: 512 },
};
const GQA = {
  ...{ hidden_size: 64, num_hidden_layers: 2, intermediate_size: 96, moe_intermediate_size: 32, num_experts: 8, num_experts_per_tok: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, max_position_embeddings: 512 },
};

/** Channels that norms make so much larger than others, and the weights behind them so much smaller: the model is the same. */
export const OUTLIERS = { channels: [3, 40], factor: 64 } as const;

/** Gone with the test run: a folder of the system's for temporary files. */
export const scratchFolder = (): string => mkdtempSync(join(tmpdir(), 'minipod-quantize-'));

/** `more`: of its config. */
export function smallCheckpoint(folder: string, kind: 'mla' | 'gqa', hasOutliers = false, more: Partial<typeof MLA> = {}): string {
  const like = TINY[kind === 'mla' ? 'tiny-deepseek-v3' : 'tiny-qwen3-moe'];
  mkdirSync(folder, { recursive: true });
  for (const file of ['generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) cpSync(join(like, file), join(folder, file));
  const json = { ...readJson(like, 'config.json'), ...(kind === 'mla' ? MLA : GQA), ...more };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(json));
  const entries = listInventory(parseModelConfig(json)).filter(({ optional }) => !optional);
  using file = new QuantizedFile(
    join(folder, 'model.safetensors'),
    entries.map(({ name, shape }) => ({ name, shape, dtype: 'BF16' })),
  );
  for (const [index, { name, shape }] of entries.entries()) {
    const columns = shape.at(-1) ?? 1;
    const values = noise(index + 1)(shape.reduce((product, size) => product * size, 1));
    const isNorm = shape.length === 1;
    for (const [at, value] of values.entries()) {
      const isOutlier = hasOutliers && columns === 64 && OUTLIERS.channels.some((channel) => channel === at % 64);
      const factor = !isOutlier ? 1 : isReader(name) ? 1 / OUTLIERS.factor : isMaker(name) ? OUTLIERS.factor : 1;
      values[at] = (name.includes('bias') ? value / 16 : isNorm ? 1 + value / 8 : value / Math.sqrt(columns)) * factor;
    }
    file.write(name, narrowed(values, 'BF16'));
  }
  file.end();
  return folder;
}

const isMaker = (name: string): boolean => /(input|post_attention)_layernorm/.test(name);
const isReader = (name: string): boolean => /(q_proj|k_proj|v_proj|q_a_proj|kv_a_proj_with_mqa|gate_proj|up_proj|mlp\.gate)\.weight$/.test(name);
