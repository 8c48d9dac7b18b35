import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseModelConfig, readModelConfig } from '../../src/model/config.ts';
import { isMoeLayer } from '../../src/model/moe-layers.ts';
import { copyWithoutWeights, errorOf, readJson, TINY, TINY_NAMES, type TinyName, writeJson } from './checkpoint-folder.ts';

const changed = (name: TinyName, changes: Record<string, unknown>) => () => parseModelConfig({ ...readJson(TINY[name], 'config.json'), ...changes });

describe('readModelConfig', () => {
  it('should read DeepSeek-V3 with generation_config.json taking precedence', () => {
    const config = readModelConfig(TINY['tiny-deepseek-v3']);
    expect(config).toMatchObject({
      architecture: 'deepseek_v3',
      name: 'tiny-deepseek-v3',
      layers: 5,
      mtpLayers: 1,
      bosTokenId: 1,
      eosTokenIds: [6, 2],
      rope: { theta: 10000, dim: 16, style: 'interleaved', yarn: null },
      attention: { kind: 'mla', qLoraRank: 96, kvLoraRank: 64, nopeDim: 32, ropeDim: 16, vDim: 32, softmaxScale: 1 / Math.sqrt(48) },
      moe: { experts: 32, topK: 4, sharedExperts: 1, firstDenseLayers: 1, gating: { kind: 'sigmoid', groups: 4, topkGroups: 2, scalingFactor: 2.5 } },
    });
    expect([0, 1, 4, 5].map((layer) => isMoeLayer(config, layer))).toEqual([false, true, true, true]);
  });

  it('should read Qwen3-MoE', () => {
    expect(readModelConfig(TINY['tiny-qwen3-moe'])).toMatchObject({
      architecture: 'qwen3_moe',
      rope: { theta: 1e6, dim: 32, style: 'halves', yarn: null },
      attention: { kind: 'gqa', kvHeads: 2, headDim: 32, softmaxScale: 1 / Math.sqrt(32) },
      moe: { sharedExperts: 0, firstDenseLayers: 0, denseLayers: [], gating: { kind: 'softmax', normalise: true } },
      mtpLayers: 0,
    });
  });

  it('should read Kimi-K2, its softmax scale times mscale² with the same bits on every engine', () => {
    const { attention, rope } = readModelConfig(TINY['tiny-kimi-k2']);
    expect(rope.yarn).toEqual({ factor: 8, betaFast: 1, betaSlow: 1, mscale: 1, mscaleAllDim: 1, originalMaxPositions: 256 });
    expect(attention.softmaxScale).toBe(0.21060714172072306);
  });

  it('should do without generation_config.json', () => {
    expect(parseModelConfig(readJson(TINY['tiny-qwen3-moe'], 'config.json'))).toMatchObject({ bosTokenId: 1, eosTokenIds: [6] });
  });

  it('should honour moe_layer_freq, decoder_sparse_step and mlp_only_layers', () => {
    expect(changed('tiny-deepseek-v3', { moe_layer_freq: 2 })().moe.denseLayers).toEqual([0, 1, 3, 5]);
    expect(changed('tiny-qwen3-moe', { decoder_sparse_step: 2 })().moe.denseLayers).toEqual([0, 2]);
    const config = changed('tiny-qwen3-moe', { mlp_only_layers: [0, 3] })();
    expect(config.moe).toMatchObject({ denseLayers: [0, 3], firstDenseLayers: 1 });
    expect(isMoeLayer(config, 3)).toBe(false);
  });

  it.each<[TinyName, Record<string, unknown>, RegExp]>([
    ['tiny-deepseek-v3', { model_type: 'llama' }, /model_type: expected one of deepseek_v3, kimi_k2, qwen3_moe, found "llama"/],
    ['tiny-deepseek-v3', { quantization_config: { quant_method: 'fp8' } }, /quantization_config.quant_method: .*compressed-tensors.*fp8/],
    ['tiny-deepseek-v3', { attention_bias: true }, /attention_bias: .*not supported.*found true/],
    ['tiny-deepseek-v3', { hidden_size: 190 }, /hidden_size: expected a multiple of 4, found 190/],
    ['tiny-deepseek-v3', { kv_lora_rank: 66 }, /kv_lora_rank: expected a multiple of 4, found 66/],
    ['tiny-deepseek-v3', { qk_rope_head_dim: 14 }, /qk_rope_head_dim: expected a multiple of 4/],
    ['tiny-deepseek-v3', { hidden_size: -1 }, /hidden_size: expected a number >= 1, found -1$/],
    ['tiny-deepseek-v3', { hidden_size: 1e9 }, /hidden_size: expected a number <= 16777216, found 1000000000$/],
    ['tiny-deepseek-v3', { hidden_size: 1.5 }, /hidden_size: expected int, found 1.5$/],
    ['tiny-deepseek-v3', { rope_theta: 0 }, /rope_theta: expected a number > 0, found 0$/],
    ['tiny-deepseek-v3', { eos_token_id: 'x' }, /eos_token_id: expected a token id or a list of them, found "x"$/],
    ['tiny-deepseek-v3', { hidden_size: '192' }, /hidden_size: expected number, found "192"/],
    ['tiny-deepseek-v3', { kv_lora_rank: undefined }, /kv_lora_rank: expected number, found nothing/],
    ['tiny-deepseek-v3', { n_group: 5 }, /n_group: expected groups of equal size/],
    ['tiny-deepseek-v3', { topk_group: 9 }, /topk_group: expected at most n_group 4, found 9/],
    ['tiny-deepseek-v3', { num_experts_per_tok: 20 }, /num_experts_per_tok: expected at most the 16 experts/],
    ['tiny-deepseek-v3', { scoring_func: 'softmax' }, /scoring_func: .*sigmoid.*found "softmax"/],
    ['tiny-deepseek-v3', { num_hidden_layers: 1e9 }, /num_hidden_layers/],
    ['tiny-deepseek-v3', { eos_token_id: 5000 }, /eos_token_id: expected below vocab_size 2048, found 5000/],
    ['tiny-kimi-k2', { rope_scaling: { type: 'linear', factor: 8 } }, /rope_scaling.type: expected "yarn", found "linear"/],
    ['tiny-qwen3-moe', { rope_scaling: { type: 'yarn', factor: 4 } }, /rope_scaling: .*not supported for qwen3_moe/],
    ['tiny-qwen3-moe', { use_sliding_window: true }, /use_sliding_window: .*not supported/],
    ['tiny-qwen3-moe', { num_key_value_heads: 4 }, /num_key_value_heads: expected a divisor of num_attention_heads 6, found 4/],
    ['tiny-qwen3-moe', { head_dim: 30 }, /head_dim: expected a multiple of 4, found 30/],
  ])('should name file, field, expected and found: %s %j', (name, changes, message) => {
    const error = errorOf(changed(name, changes));
    expect(error.code).toBe('invalid_checkpoint');
    expect(error.message).toMatch(/^config\.json: /);
    expect(error.message).toMatch(message);
  });

  it('should name a missing or malformed file', () => {
    const folder = copyWithoutWeights('tiny-qwen3-moe');
    writeJson([], folder, 'generation_config.json');
    expect(errorOf(() => readModelConfig(folder)).message).toMatch(/generation_config\.json: the whole file: expected object/);
    expect(errorOf(() => readModelConfig(`${folder}/none`)).message).toMatch(/none\/config\.json: no such file/);
  });

  it('should answer any value in any field with a config or an error of its own', () => {
    const base = readJson(TINY['tiny-deepseek-v3'], 'config.json');
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(base)), fc.jsonValue(), (field, value) => {
        try {
          parseModelConfig({ ...base, [field]: value });
        } catch (error) {
          expect(error).toMatchObject({ name: 'MinipodError', code: 'invalid_checkpoint' });
        }
      }),
    );
  });

  it('should read every tiny checkpoint', () => {
    for (const name of TINY_NAMES) expect(readModelConfig(TINY[name]).name).toBe(name);
  });
});
