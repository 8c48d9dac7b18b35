import { describe, expect, it } from 'vitest';
import { type ModelConfig, parseModelConfig } from '../../src/model/config.ts';
import { checkInventory, listInventory } from '../../src/model/inventory.ts';
import type { StoredTensor } from '../../src/model/safetensors.ts';
import { errorOf, readJson, TINY, type TinyName } from './checkpoint-folder.ts';

const configOf = (name: TinyName, changes: Record<string, unknown> = {}) => parseModelConfig({ ...readJson(TINY[name], 'config.json'), ...changes });

function stored(config: ModelConfig, { withOptional = false } = {}): Map<string, StoredTensor> {
  const entries = listInventory(config).filter(({ optional }) => withOptional || !optional);
  return new Map(entries.map(({ name, shape }) => [name, { file: 'model.safetensors', dtype: 'BF16', shape, offset: 0, bytes: 0 }]));
}

const message = (config: ModelConfig, tensors: ReadonlyMap<string, StoredTensor>) => errorOf(() => checkInventory(config, tensors, '/models/m')).message;

describe('listInventory', () => {
  it('should name each tensor once, with a role', () => {
    const entries = listInventory(configOf('tiny-deepseek-v3'));
    expect(new Set(entries.map(({ name }) => name)).size).toBe(entries.length);
    const part = (name: string) => entries.find((entry) => entry.name === name)?.part;
    expect(part('model.layers.2.mlp.experts.7.up_proj.weight')).toEqual({ kind: 'expert', layer: 2, expert: 7, weight: 'up_proj' });
    expect(part('model.layers.0.mlp.down_proj.weight')).toEqual({ kind: 'dense', layer: 0, weight: 'down_proj' });
    expect(part('model.layers.1.mlp.gate.e_score_correction_bias')).toEqual({ kind: 'router', layer: 1, weight: 'e_score_correction_bias' });
    expect(part('model.layers.1.mlp.shared_experts.gate_proj.weight')).toEqual({ kind: 'shared_expert', layer: 1, weight: 'gate_proj' });
    expect(part('model.layers.3.self_attn.q_a_layernorm.weight')).toEqual({ kind: 'attention', layer: 3, weight: 'q_a_layernorm' });
  });

  it('should mark the MTP layer as not loaded', () => {
    const config = configOf('tiny-deepseek-v3');
    const mtp = listInventory(config).filter(({ name }) => name.startsWith('model.layers.5.'));
    expect(mtp.length).toBeGreaterThan(100);
    expect(mtp.every(({ loaded }) => !loaded)).toBe(true);
    expect(listInventory(config).filter(({ name, loaded }) => loaded && name.startsWith('model.layers.')).length).toBeGreaterThan(400);
  });

  it('should take one q_proj where there is no q_lora_rank', () => {
    const names = listInventory(configOf('tiny-deepseek-v3', { q_lora_rank: null })).map(({ name }) => name);
    expect(names).toContain('model.layers.0.self_attn.q_proj.weight');
    expect(names.some((name) => name.includes('q_a_'))).toBe(false);
  });

  it('should need no head where it is tied to the embedding', () => {
    const config = configOf('tiny-qwen3-moe', { tie_word_embeddings: true });
    expect(stored(config).has('lm_head.weight')).toBe(false);
    expect(checkInventory(config, stored(config)).length).toBe(stored(config).size);
  });
});

describe('checkInventory', () => {
  it("should accept MTP layers with and without the main model's embedding and head", () => {
    const config = configOf('tiny-deepseek-v3');
    const full = stored(config, { withOptional: true });
    expect(full.has('model.layers.5.embed_tokens.weight') && full.has('model.layers.5.shared_head.head.weight')).toBe(true);
    expect(checkInventory(config, full).length).toBe(full.size);
    expect(checkInventory(config, stored(config)).length).toBe(stored(config).size);
  });

  it('should name a missing, an extra and a misshapen tensor', () => {
    const config = configOf('tiny-qwen3-moe');
    const missing = stored(config);
    missing.delete('model.layers.1.self_attn.k_norm.weight');
    expect(message(config, missing)).toBe('/models/m: tensor model.layers.1.self_attn.k_norm.weight: expected shape [32], found no such tensor');
    const tensor = { file: 'x.safetensors', dtype: 'BF16', shape: [3], offset: 0, bytes: 6 } as const;
    expect(message(config, stored(config).set('model.layers.4.input_layernorm.weight', tensor))).toBe(
      'x.safetensors: tensor model.layers.4.input_layernorm.weight: expected none of this name in a qwen3_moe checkpoint of 4 layers',
    );
    expect(message(config, stored(config).set('model.norm.weight', tensor))).toBe('x.safetensors: tensor model.norm.weight: expected shape [192], found [3]');
    expect(message(config, stored(config).set('model.norm.weight', { ...tensor, shape: [192, 1] }))).toMatch(/expected shape \[192\], found \[192,1\]/);
  });
});
