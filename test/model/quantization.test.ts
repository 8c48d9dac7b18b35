import { copyFileSync, cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { quantizeModel } from '../../src/index.ts';
import { openCheckpoint } from '../../src/model/checkpoint.ts';
import { parseModelConfig } from '../../src/model/config.ts';
import { checkInventory } from '../../src/model/inventory.ts';
import { INT8_INPUTS_MAX } from '../../src/model/kernels/kernels.ts';
import { checkScales, scaleOf } from '../../src/model/quantization.ts';
import type { StoredTensor } from '../../src/model/safetensors.ts';
import { runs } from '../property-runs.ts';
import { scratchFolder, smallCheckpoint } from '../quantize/small-checkpoint.ts';
import { errorOf, readJson } from './checkpoint-folder.ts';

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const model = join(folder, 'int8');
const text = readFileSync(new URL('../../README.md', import.meta.url), 'utf8').slice(0, 4_000);
await quantizeModel({ model: smallCheckpoint(join(folder, 'bf16'), 'mla'), out: model, text, window: 96, max_tokens: 400, compensation: false });

using checkpoint = openCheckpoint(model);
const { tensors, config } = checkpoint;
const weights = [...tensors].filter(([, { dtype }]) => dtype === 'I8').map(([name]) => name);
const others = [...tensors].filter(([name, { dtype }]) => dtype === 'BF16' && name.endsWith('.weight')).map(([name]) => name);
const tensorOf = (name: string): StoredTensor => tensors.get(name) as StoredTensor;
const refusalOf = (changed: ReadonlyMap<string, StoredTensor>, of = config): string => {
  const error = errorOf(() => checkInventory(of, changed, '/models/m'));
  expect(error.code).toBe('invalid_checkpoint');
  return error.message;
};

/** What may be wrong with an INT8 weight, and what has to be said of it. */
const FAULTS: Readonly<Record<string, (all: Map<string, StoredTensor>, weight: string) => string>> = {
  'no scales': (all, weight) => {
    all.delete(scaleOf(weight));
    return `tensor ${weight}: is I8; expected its scales in ${scaleOf(weight)}, found no such tensor`;
  },
  'scales of another shape': (all, weight) => {
    const [rows = 0] = tensorOf(weight).shape;
    all.set(scaleOf(weight), { ...tensorOf(scaleOf(weight)), shape: [rows + 1, 1] });
    return `tensor ${scaleOf(weight)}: expected shape [${rows},1], found [${rows + 1},1]`;
  },
  'scales a group of inputs': (all, weight) => {
    const [rows = 0] = tensorOf(weight).shape;
    all.set(scaleOf(weight), { ...tensorOf(scaleOf(weight)), shape: [rows, 4] });
    return `tensor ${scaleOf(weight)}: expected shape [${rows},1], found [${rows},4]`;
  },
  'scales in INT8': (all, weight) => {
    all.set(scaleOf(weight), { ...tensorOf(scaleOf(weight)), dtype: 'I8' });
    return `tensor ${scaleOf(weight)}: expected dtype F32, BF16 or F16, found I8`;
  },
  'scales of a weight that is not quantised': (all, weight) => {
    all.set(weight, { ...tensorOf(weight), dtype: 'BF16' });
    // What has to be alike is looked at first: gate and up, and all experts of a layer.
    return /(gate|up)_proj|\.experts\./.test(weight) ? 'both or neither have to be I8' : `tensor ${scaleOf(weight)}: expected none of this name`;
  },
  'a weight of another shape': (all, weight) => {
    const { shape } = tensorOf(weight);
    all.set(weight, { ...tensorOf(weight), shape: shape.toReversed().concat(1) });
    return `tensor ${weight}: expected shape [${shape}], found [${shape.toReversed()},1]`;
  },
};

describe('a quantised checkpoint', () => {
  it('should be taken as it is written, with scales of one axis or two', () => {
    expect(checkInventory(config, tensors).filter(({ scale }) => scale !== null).length).toBe(weights.length);
    const flat = new Map(tensors);
    for (const weight of weights) flat.set(scaleOf(weight), { ...tensorOf(scaleOf(weight)), shape: [tensorOf(weight).shape[0] ?? 0] });
    expect(checkInventory(config, flat).length).toBe(checkInventory(config, tensors).length);
  });

  it('should be refused with file and tensor for whatever is wrong with one of its weights', () => {
    fc.assert(
      fc.property(fc.constantFrom(...weights), fc.constantFrom(...Object.keys(FAULTS)), (weight, fault) => {
        const changed = new Map(tensors);
        const said = (FAULTS[fault] as (typeof FAULTS)[string])(changed, weight);
        const message = refusalOf(changed);
        expect(message).toContain(said);
        expect(message).toContain(join(model, 'model.safetensors'));
      }),
      { numRuns: runs(300) },
    );
  });

  it('should be refused with file and tensor whatever else its header says of one of its weights or scales', () => {
    const damaged = join(folder, 'headers');
    cpSync(model, damaged, { recursive: true });
    const file = join(damaged, 'model.safetensors');
    const bytes = readFileSync(file);
    const end = 8 + Number(bytes.readBigUInt64LE(0));
    type Entry = { dtype: unknown; shape: unknown; data_offsets: unknown };
    const header = JSON.parse(bytes.toString('utf8', 8, end)) as Record<string, Entry>;
    const offset = fc.oneof(fc.nat(bytes.length), fc.constantFrom(null, -4, '8', 0.5));
    const changes: fc.Arbitrary<Partial<Entry>> = fc.oneof(
      fc.record({ dtype: fc.constantFrom('I8', 'F32', 'BF16', 'F16', 'U8', 'I32', null) }),
      fc.record({ shape: fc.oneof(fc.array(fc.integer({ min: -1, max: 100 }), { maxLength: 3 }), fc.constantFrom(null, ['a'], [1e12, 1e12])) }),
      fc.record({ data_offsets: fc.oneof(fc.tuple(offset, offset), fc.constantFrom(null, [1])) }),
    );
    fc.assert(
      fc.property(fc.constantFrom(...weights, ...weights.map(scaleOf)), changes, (name, change) => {
        const before = header[name] as Entry;
        const entry = { ...before, ...change };
        const [rows] = before.shape as number[];
        // Scales may have one axis.
        fc.pre(JSON.stringify(entry) !== JSON.stringify(before) && JSON.stringify(entry.shape) !== `[${rows}]`);
        const json = Buffer.from(JSON.stringify({ ...header, [name]: entry }));
        const padding = Buffer.alloc((8 - (json.length % 8)) % 8, ' ');
        const length = Buffer.alloc(8);
        length.writeBigUInt64LE(BigInt(json.length + padding.length));
        writeFileSync(file, Buffer.concat([length, json, padding, bytes.subarray(end)]));
        const { code, message } = errorOf(() => openCheckpoint(damaged));
        expect(code).toBe('invalid_checkpoint');
        expect(message).toContain(file);
        expect(message).toMatch(/tensor \S+/);
      }),
      { numRuns: runs(60) },
    );
  });

  it('should be refused where a weight is INT8 that must not be, naming it', () => {
    for (const name of others) {
      const message = refusalOf(new Map(tensors).set(name, { ...tensorOf(name), dtype: 'I8' }));
      expect(message).toContain(`tensor ${name}: `);
      expect(message).toMatch(/expected BF16, F16 or F32, (found I8|since quantization_config.ignore names)/);
    }
    const [weight = ''] = weights;
    for (const ignore of [weight.replace('.weight', ''), 're:.*', `re:${weight.slice(0, 8)}`]) {
      const ignoring = { ...config, quantization: { scheme: 'w8a8-int8' as const, ignore: ['re:no such layer', ignore] } };
      expect(refusalOf(tensors, ignoring)).toContain(`tensor ${weight}: is I8; expected BF16, F16 or F32, since quantization_config.ignore names ${ignore}`);
    }
    const { quantization: _quantization, ...unsaid } = config;
    expect(refusalOf(tensors, unsaid)).toContain('expected quantization_config in config.json');
  });

  it('should be refused where sums could leave 32 bits', () => {
    const json = { ...readJson(model, 'config.json'), hidden_size: INT8_INPUTS_MAX + 4 - (INT8_INPUTS_MAX % 4) };
    const wide = parseModelConfig(json);
    const name = 'model.layers.0.self_attn.q_a_proj.weight';
    const shapes = new Map([...tensors].map(([at, tensor]) => [at, { ...tensor, shape: tensor.shape.map((size) => (size === 64 ? wide.hiddenSize : size)) }]));
    shapes.set('model.layers.0.self_attn.o_proj.weight', { ...tensorOf('model.layers.0.self_attn.o_proj.weight'), shape: [wide.hiddenSize, 64] });
    expect(refusalOf(shapes, wide)).toContain(`tensor ${name}: expected at most ${INT8_INPUTS_MAX} inputs`);
  });

  it('should be refused for a scale that is zero, negative, infinite or not a number, in any of its formats', () => {
    const bits = {
      F32: (view: DataView, value: number) => view.setFloat32(4, value, true),
      F16: (view: DataView, value: number) => view.setFloat16(2, value, true),
    };
    for (const value of [0, -0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const [dtype, write] of Object.entries(bits)) {
        const bytes = new Uint8Array(8).fill(0x3c);
        write(new DataView(bytes.buffer), value);
        const refused = errorOf(() => checkScales('a.weight_scale', { ...tensorOf(weights[0] ?? ''), dtype: dtype as 'F32' }, bytes));
        expect(refused.message).toContain(`tensor a.weight_scale: expected positive, finite scales, found ${value} for output 1`);
      }
    }
    const found = checkScales('a', { ...tensorOf(weights[0] ?? ''), dtype: 'BF16' }, Uint8Array.of(0x80, 0x3f, 0x00, 0x40));
    expect([...found]).toEqual([1, 2]);
  });

  it('should be looked at when it is opened, scale by scale', () => {
    const damaged = join(folder, 'damaged');
    cpSync(model, damaged, { recursive: true });
    const file = join(damaged, 'model.safetensors');
    const bytes = readFileSync(file);
    fc.assert(
      fc.property(fc.constantFrom(...weights), fc.nat(), fc.constantFrom(0, Number.NaN, -2), (weight, at, value) => {
        const { offset, shape } = tensorOf(scaleOf(weight));
        const output = at % (shape[0] ?? 1);
        const changed = Buffer.from(bytes);
        changed.writeFloatLE(value, offset + output * 4);
        writeFileSync(file, changed);
        expect(errorOf(() => openCheckpoint(damaged)).message).toBe(
          `${file}: tensor ${scaleOf(weight)}: expected positive, finite scales, found ${value} for output ${output}`,
        );
      }),
      { numRuns: runs(20) },
    );
    copyFileSync(join(model, 'model.safetensors'), file);
    openCheckpoint(damaged).close();
  });

  it.each([
    [{ quant_method: 'gptq' }, /quantization_config.quant_method: expected "compressed-tensors"/],
    [{ format: 'pack-quantized' }, /quantization_config.format/],
    [{ ignore: ['re:(lm_head'] }, /quantization_config.ignore.*a regular expression/],
    [{ kv_cache_scheme: { num_bits: 8 } }, /quantization_config.kv_cache_scheme: .*option of the pod/],
    [{ config_groups: {} }, /quantization_config.config_groups: .*one group/],
    [{ config_groups: { a: { targets: ['Linear'], weights: { num_bits: 4 } } } }, /config_groups.a.weights.num_bits/],
  ])('should be refused where config.json says what is not computed: %j', (change, says) => {
    const json = readJson(model, 'config.json');
    const changed = { ...json, quantization_config: { ...(json['quantization_config'] as object), ...change } };
    expect(errorOf(() => parseModelConfig(changed)).message).toMatch(says);
  });
});
