import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/model/checkpoint.ts';
import { readSafetensorsHeader } from '../../src/model/safetensors.ts';
import { copyWithoutWeights, errorOf, readJson, safetensors, TINY, TINY_NAMES, type TinyName, temporaryFolder, writeJson } from './checkpoint-folder.ts';

/** The tiny checkpoint in two shards with an index. */
function sharded(name: TinyName) {
  const folder = copyWithoutWeights(name);
  const source = join(TINY[name], 'model.safetensors');
  const bytes = readFileSync(source);
  const tensors = [...readSafetensorsHeader(source)];
  const weightMap: Record<string, string> = {};
  const half = tensors.length >> 1;
  for (const [shard, part] of [tensors.slice(0, half), tensors.slice(half)].entries()) {
    const file = `model-0000${shard + 1}-of-00002.safetensors`;
    const header: Record<string, unknown> = {};
    const data: Uint8Array[] = [];
    let at = 0;
    for (const [tensor, { dtype, shape, offset, bytes: length }] of part) {
      header[tensor] = { dtype, shape, data_offsets: [at, at + length] };
      data.push(bytes.subarray(offset, offset + length));
      at += length;
      weightMap[tensor] = file;
    }
    writeFileSync(join(folder, file), safetensors(header, Buffer.concat(data)));
  }
  const index = { metadata: { total_size: 0 }, weight_map: weightMap };
  writeJson(index, folder, 'model.safetensors.index.json');
  return { folder, weightMap, rewrite: (map: Record<string, unknown>) => writeJson({ weight_map: map }, folder, 'model.safetensors.index.json') };
}

describe('openCheckpoint', () => {
  it.each(TINY_NAMES)('should open %s and read its tensors straight into shared memory', (name) => {
    using checkpoint = openCheckpoint(TINY[name]);
    expect(checkpoint.parts.length).toBe(checkpoint.tensors.size);
    const file = readFileSync(join(TINY[name], 'model.safetensors'));
    for (const { tensor } of checkpoint.parts.slice(0, 20)) {
      const target = new Uint8Array(new SharedArrayBuffer(tensor.bytes + 8));
      checkpoint.readInto(tensor, target, 4, tensor.bytes - 4);
      expect(Buffer.compare(Uint8Array.from(target.subarray(0, tensor.bytes - 4)), file.subarray(tensor.offset + 4, tensor.offset + tensor.bytes))).toBe(0);
      expect(target.subarray(tensor.bytes - 4).every((byte) => byte === 0)).toBe(true);
    }
  });

  it('should refuse to read outside a tensor or the target, and once closed', () => {
    const checkpoint = openCheckpoint(TINY['tiny-kimi-k2']);
    const tensor = checkpoint.parts[0]?.tensor;
    if (tensor === undefined) throw new Error('no tensors');
    expect(errorOf(() => checkpoint.readInto(tensor, new Uint8Array(8), tensor.bytes - 4, 8)).code).toBe('internal');
    expect(errorOf(() => checkpoint.readInto(tensor, new Uint8Array(4), 0, 8)).code).toBe('internal');
    checkpoint.close();
    checkpoint.close();
    expect(errorOf(() => checkpoint.readInto(tensor, new Uint8Array(8), 0, 8)).code).toBe('closed');
  });

  it('should name the file that is cut while it is open', () => {
    const folder = copyWithoutWeights('tiny-kimi-k2');
    const file = join(folder, 'model.safetensors');
    writeFileSync(file, readFileSync(join(TINY['tiny-kimi-k2'], 'model.safetensors')));
    using checkpoint = openCheckpoint(folder);
    const last = [...checkpoint.tensors.values()].sort((a, b) => b.offset - a.offset)[0];
    if (last === undefined) throw new Error('no tensors');
    truncateSync(file, last.offset + 2);
    const error = errorOf(() => checkpoint.readInto(last, new Uint8Array(last.bytes)));
    expect(error.code).toBe('invalid_checkpoint');
    expect(error.message).toContain(`${file}: ends at byte ${last.offset + 2}`);
  });

  it('should read shards like one file', () => {
    using whole = openCheckpoint(TINY['tiny-kimi-k2']);
    using shards = openCheckpoint(sharded('tiny-kimi-k2').folder);
    expect(shards.parts.map(({ name }) => name)).toEqual(whole.parts.map(({ name }) => name));
    for (const [name, tensor] of whole.tensors) {
      const other = shards.tensors.get(name);
      if (other === undefined) throw new Error(name);
      const [a, b] = [new Uint8Array(tensor.bytes), new Uint8Array(other.bytes)];
      whole.readInto(tensor, a);
      shards.readInto(other, b);
      expect(Buffer.compare(a, b)).toBe(0);
    }
  });

  it.each(['../elsewhere.safetensors', '/etc/passwd', 'a/b.safetensors', '..', 'a\\b.safetensors'])('should refuse an index that points to %s', (path) => {
    const { folder, weightMap, rewrite } = sharded('tiny-kimi-k2');
    rewrite({ ...weightMap, 'model.norm.weight': path });
    const { code, message } = errorOf(() => openCheckpoint(folder));
    expect(code).toBe('invalid_checkpoint');
    expect(message).toMatch(/index\.json: weight_map: expected names of \.safetensors files in the same folder/);
  });

  it('should name what index and shards disagree on', () => {
    const { folder, weightMap, rewrite } = sharded('tiny-kimi-k2');
    const message = (map: Record<string, unknown>) => {
      rewrite(map);
      return errorOf(() => openCheckpoint(folder)).message;
    };
    const [first = '', second = ''] = [...new Set(Object.values(weightMap))];
    const tensor = Object.keys(weightMap).find((name) => weightMap[name] === second) ?? '';
    expect(message({ ...weightMap, extra: first })).toMatch(/tensor extra: listed in .*00001.*, found no such tensor there/);
    expect(message({ ...weightMap, [tensor]: first })).toMatch(/lies in .*00002.*, listed in .*00001/);
    expect(message(Object.fromEntries(Object.entries(weightMap).filter(([name]) => name !== tensor)))).toMatch(/listed nowhere/);
    expect(message({ ...weightMap, [tensor]: 'gone.safetensors' })).toMatch(/gone\.safetensors: cannot be opened|listed in gone/);
    expect(message({ a: 3 })).toMatch(/expected weight_map/);
  });

  it('should name a folder without weights, without config, or none at all', () => {
    expect(errorOf(() => openCheckpoint(copyWithoutWeights('tiny-kimi-k2'))).message).toMatch(/expected model\.safetensors or .*index\.json, found neither/);
    expect(errorOf(() => openCheckpoint(temporaryFolder())).message).toMatch(/config\.json: no such file/);
    expect(errorOf(() => openCheckpoint('/nowhere')).message).toMatch(/^\/nowhere: expected a folder/);
  });

  it('should hold the weights against the config', () => {
    const folder = copyWithoutWeights('tiny-kimi-k2');
    writeFileSync(join(folder, 'model.safetensors'), readFileSync(join(TINY['tiny-kimi-k2'], 'model.safetensors')));
    writeJson({ ...readJson(folder, 'config.json'), v_head_dim: 36 }, folder, 'config.json');
    expect(errorOf(() => openCheckpoint(folder)).message).toMatch(
      /model\.safetensors: tensor model\.layers\.0\.self_attn\.kv_b_proj\.weight: expected shape \[272,48\], found \[256,48\]/,
    );
  });
});
