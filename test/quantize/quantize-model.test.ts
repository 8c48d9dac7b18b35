import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPod, divergenceOf, type PodOptions, type Quantized, quantizeModel } from '../../src/index.ts';
import { openCheckpoint } from '../../src/model/checkpoint.ts';
import { readSafetensorsHeader } from '../../src/model/safetensors.ts';
import { readJson } from '../model/checkpoint-folder.ts';
import { cases } from '../property-runs.ts';
import { scratchFolder, smallCheckpoint } from './small-checkpoint.ts';

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const TEXT = readFileSync(new URL('../../README.md', import.meta.url), 'utf8').slice(0, 6_000);
const SHORT = { text: TEXT, window: 96, max_tokens: 600 };

describe.each(['mla', 'gqa'] as const)('INT8 of a small %s model with outlier channels', (kind) => {
  const model = smallCheckpoint(join(folder, kind), kind, true);
  const out = join(folder, `${kind}-int8`);
  let found: Quantized;
  beforeAll(async () => {
    found = await quantizeModel({ ...SHORT, model, out });
  });

  it('should be what vLLM reads: INT8 weights with a scale an output, and what is not quantised named', () => {
    const config = readJson(out, 'config.json');
    expect(config).toMatchObject({ ...readJson(model, 'config.json') });
    const { ignore, ...scheme } = config['quantization_config'] as { ignore: string[] };
    expect(scheme).toMatchObject({
      quant_method: 'compressed-tensors',
      format: 'int-quantized',
      config_groups: {
        group_0: {
          targets: ['Linear'],
          weights: { num_bits: 8, type: 'int', symmetric: true, strategy: 'channel', dynamic: false },
          input_activations: { num_bits: 8, type: 'int', symmetric: true, strategy: 'token', dynamic: true },
        },
      },
    });
    const [before, after] = [model, out].map((at) => readSafetensorsHeader(join(at, 'model.safetensors')));
    for (const [name, { dtype, shape }] of before ?? []) {
      const now = after?.get(name);
      expect(now?.shape).toEqual(shape);
      const isQuantized = now?.dtype === 'I8';
      expect(after?.get(name.replace(/\.weight$/, '.weight_scale'))).toEqual(
        isQuantized ? expect.objectContaining({ dtype: 'F32', shape: [shape[0], 1] }) : name.endsWith('.weight') ? undefined : now,
      );
      // A router is smoothed with what it reads, and must choose as before.
      if (!isQuantized) expect(now?.dtype).toBe(/layers\.[01]\.mlp\.gate\.weight$/.test(name) ? 'F32' : dtype);
      // Whoever reads it takes each linear layer that is not named for INT8; an embedding is none.
      const isLinear = shape.length === 2 && name !== 'model.embed_tokens.weight';
      expect(isQuantized).toBe(isLinear && !ignore.includes(name.replace(/\.weight$/, '')));
    }
    const kept = ['lm_head', 'model.layers.1.mlp.gate', ...(kind === 'mla' ? ['model.layers.0.self_attn.kv_b_proj', 'model.layers.2.eh_proj'] : [])];
    expect(ignore).toEqual(expect.arrayContaining(kept));
    using checkpoint = openCheckpoint(out);
    expect(checkpoint.parts.filter(({ scale }) => scale !== null).length).toBeGreaterThan(20);
  });

  it('should take little more than half of the bytes, and be computed from every expert', () => {
    expect(found.bytes.weights / found.bytes.weights_before).toBeLessThanOrEqual(0.54);
    expect(found.coverage.map(({ least }) => least >= 4)).toEqual(found.coverage.map(() => true));
    expect(found.tokens).toBe(600);
  });

  it('should lose far less with smoothing where channels are outliers, and less still with compensation', () => {
    const behindNorms = found.products.filter(({ product }) => /^q|^gate/.test(product) && product !== 'q_b');
    for (const { plain, smoothed, compensated, alpha } of behindNorms) {
      expect(alpha).not.toBeNull();
      expect(smoothed).toBeLessThan(0.5 * plain);
      expect(compensated).toBeLessThan(1.02 * smoothed);
    }
    const mean = (of: 'plain' | 'smoothed' | 'compensated'): number => found.products.reduce((sum, product) => sum + product[of], 0) / found.products.length;
    expect(mean('compensated')).toBeLessThan(mean('smoothed'));
    expect(mean('smoothed')).toBeLessThan(0.6 * mean('plain'));
  });

  it('should compute nearly what the model computes, nearer than without smoothing and compensation', async () => {
    const plain = join(folder, `${kind}-plain`);
    await quantizeModel({ ...SHORT, model, out: plain, smoothing: false, compensation: false });
    const part = { against: model, text: TEXT, window: 96, skip_tokens: 600, max_tokens: 300, layers: true };
    const [own, rounded] = [await divergenceOf({ ...part, model: out }), await divergenceOf({ ...part, model: plain })];
    for (const [layer, { relative_error }] of (own.layers ?? []).entries()) expect(relative_error).toBeLessThan(rounded.layers?.[layer]?.relative_error ?? 0);
    expect(own.kl_mean).toBeLessThan(0.5 * rounded.kl_mean);
    expect(Math.abs(own.model.perplexity / own.against.perplexity - 1)).toBeLessThan(0.01);
  });

  const TOPOLOGIES: readonly PodOptions[] = [
    { topology: 'moe-attention:domains=2x1,experts=2', schedule: 'domains' },
    { clock: 'virtual', topology: 'pd:prefill=1xdp1tp2,decode=1' },
    { clock: 'virtual', topology: 'colocated:dp=2,oproj=2' },
    { clock: 'virtual', enforce_eager: true, max_batch_tokens: 16, prefix_caching: false },
  ];

  it('should give the same tokens and log-probabilities to the last bit in every topology, in chunks, captured or not, cold and hot', async () => {
    const options = { max_tokens: 12, seed: 7, logprobs: 2, prompt_logprobs: 1 } as const;
    const prompts = [TEXT.slice(0, 120), TEXT.slice(300, 340), TEXT.slice(0, 120)];
    const answers = async (pod: PodOptions): Promise<unknown> => {
      await using opened = await createPod({ model: out, ...pod });
      const all = await Promise.all(prompts.map((prompt) => opened.complete(prompt, options)));
      const again = await opened.complete(prompts[0] as string, { max_tokens: 12, seed: 7, logprobs: 2 });
      expect(again.choices).toEqual(all[0]?.choices);
      return all.map(({ choices, prompt }) => ({ choices, prompt }));
    };
    const expected = await answers({ clock: 'virtual' });
    for (const pod of cases(kind === 'mla' ? TOPOLOGIES : TOPOLOGIES.slice(1, 2))) expect(await answers(pod)).toEqual(expected);
  });
});

describe('quantizing', () => {
  const model = join(folder, 'mla');

  it('should ask for more text where an expert was hardly chosen, and leave nothing behind', async () => {
    const out = join(folder, 'none');
    const refused = quantizeModel({ ...SHORT, model, out, max_tokens: 12 });
    await expect(refused).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'text',
      message: expect.stringMatching(/expert \d of layer 1 with \d.*give more text/),
    });
    expect(existsSync(out)).toBe(false);
  });

  it('should refuse a folder that holds something, and a model that is quantised already', async () => {
    const refused = { code: 'invalid_request', param: 'out' };
    await expect(quantizeModel({ ...SHORT, model, out: model })).rejects.toMatchObject(refused);
    expect(existsSync(join(model, 'model.safetensors'))).toBe(true);
    await expect(quantizeModel({ ...SHORT, model: join(folder, 'mla-int8'), out: join(folder, 'twice') })).rejects.toMatchObject({
      ...refused,
      param: 'model',
    });
  });

  it('should stop when it is told to, and leave an empty folder as it was', async () => {
    const out = join(folder, 'empty');
    mkdirSync(out);
    const abort = new AbortController();
    await expect(quantizeModel({ ...SHORT, model, out, signal: abort.signal, onProgress: () => abort.abort() })).rejects.toMatchObject({ code: 'cancelled' });
    expect(existsSync(join(out, 'model.safetensors'))).toBe(false);
    expect(existsSync(out)).toBe(true);
  });

  it('should make the same bytes of the same model and text', async () => {
    const out = join(folder, 'again');
    await quantizeModel({ ...SHORT, model, out });
    const [first, second] = [join(folder, 'mla-int8'), out].map((at) => readFileSync(join(at, 'model.safetensors')));
    expect(Buffer.compare(first as Buffer, second as Buffer)).toBe(0);
  });
});
