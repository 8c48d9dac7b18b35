/**
 * A model folder in the Hugging Face layout, open for reading weights.
 * @module
 */
import { closeSync, existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { assert, MinipodError } from '../protocol/errors.ts';
import { type ModelConfig, readModelConfig } from './config.ts';
import { checkInventory, type PlacedTensor } from './inventory.ts';
import { readJsonFileIfPresent } from './json-file.ts';
import { checkScales, scaleOf } from './quantization.ts';
import { openFile, readFully, readHeader, type StoredTensor } from './safetensors.ts';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';

export type Checkpoint = Disposable & {
  readonly folder: string;
  readonly config: ModelConfig;
  /** All that is stored, by name. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** The same with roles, in the order of the forward pass. */
  readonly parts: readonly PlacedTensor[];
  /** Reads `byteCount` bytes of a tensor, from its byte `fromByte`, into the start of `target`, which may lie in shared memory. Throws `invalid_checkpoint` if the file was cut. */
  readInto(tensor: StoredTensor, target: Uint8Array, fromByte?: number, byteCount?: number): void;
  /** May be called more than once. */
  close(): void;
};

/** Opens and checks config, header(s) and inventory. Throws `invalid_checkpoint` naming file, field or tensor, expected and found. */
export function openCheckpoint(folder: string): Checkpoint {
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new MinipodError('invalid_checkpoint', `${folder}: expected a folder with config.json and ${SINGLE_FILE}, found none`);
  const config = readModelConfig(folder);
  const descriptors = new Map<string, number>();
  const close = () => {
    for (const descriptor of descriptors.values()) closeSync(descriptor);
    descriptors.clear();
  };
  const openShard = (file: string) => {
    const descriptor = openFile(file);
    descriptors.set(file, descriptor);
    return readHeader(descriptor, file);
  };
  try {
    const tensors = existsSync(join(folder, SINGLE_FILE)) ? openShard(join(folder, SINGLE_FILE)) : openShards(folder, openShard);
    const parts = checkInventory(config, tensors, folder);
    const readInto: Checkpoint['readInto'] = (tensor, target, fromByte = 0, byteCount = tensor.bytes - fromByte) => {
      const descriptor = descriptors.get(tensor.file);
      if (descriptor === undefined) throw new MinipodError('closed', `${tensor.file}: this checkpoint is closed or has no such file`);
      assert(fromByte >= 0 && byteCount >= 0 && fromByte + byteCount <= tensor.bytes, `bytes ${fromByte}+${byteCount} of a tensor of ${tensor.bytes}`);
      assert(byteCount <= target.byteLength, `${byteCount} bytes into a target of ${target.byteLength}`);
      readFully(descriptor, tensor.file, target.subarray(0, byteCount), tensor.offset + fromByte);
    };
    for (const { name, scale } of parts) {
      if (scale === null) continue;
      const bytes = new Uint8Array(scale.bytes);
      readInto(scale, bytes);
      checkScales(scaleOf(name), scale, bytes);
    }
    return { folder, config, tensors, parts, readInto, close, [Symbol.dispose]: close };
  } catch (error) {
    close();
    throw error;
  }
}

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

function openShards(folder: string, openShard: (file: string) => Map<string, StoredTensor>): Map<string, StoredTensor> {
  const indexFile = join(folder, INDEX_FILE);
  const fail = (message: string): never => {
    throw new MinipodError('invalid_checkpoint', `${indexFile}: ${message}`);
  };
  const value = readJsonFileIfPresent(indexFile);
  if (value === undefined) throw new MinipodError('invalid_checkpoint', `${folder}: expected ${SINGLE_FILE} or ${INDEX_FILE}, found neither`);
  const index = indexSchema.safeParse(value);
  if (!index.success) return fail(`expected weight_map, an object from tensor name to file name, found ${JSON.stringify(value).slice(0, 200)}`);

  const weightMap = Object.entries(index.data.weight_map);
  const tensors = new Map<string, StoredTensor>();
  const shards = new Set(weightMap.map(([, file]) => file));
  // A path would let a downloaded index read files from anywhere. All names are checked before the first file is opened.
  for (const shard of shards)
    if (!/^[\w.-]+\.safetensors$/.test(shard)) fail(`weight_map: expected names of .safetensors files in the same folder, found ${JSON.stringify(shard)}`);
  for (const shard of shards) {
    for (const [name, tensor] of openShard(join(folder, shard))) {
      const listed = Object.hasOwn(index.data.weight_map, name) ? index.data.weight_map[name] : undefined;
      if (listed !== shard) fail(`tensor ${name}: lies in ${shard}, listed ${listed === undefined ? 'nowhere' : `in ${listed}`}`);
      tensors.set(name, tensor);
    }
  }
  for (const [name, shard] of weightMap) if (!tensors.has(name)) fail(`tensor ${name}: listed in ${shard}, found no such tensor there`);
  return tensors;
}

/** Weights of the model, each counted once. */
export const parametersOf = ({ parts }: Pick<Checkpoint, 'parts'>): number =>
  parts.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
