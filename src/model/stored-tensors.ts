/**
 * A checkpoint that was checked when its pod started, opened again by a thread that needs some of its tensors: without what checks it, which takes longer to start than
 * who waits for the thread has time.
 * @module
 */
import { closeSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Checkpoint } from './checkpoint.ts';
import { openFile, readFully, readHeader, type StoredTensor } from './safetensors.ts';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';

/** A tensor with what loading goes by; its place in the forward pass is nobody's question here. */
export type LoadedPart = Pick<Checkpoint['parts'][number], 'name' | 'shape' | 'tensor' | 'scale'>;
export type StoredTensors = Pick<Checkpoint, 'readInto' | 'close'> & { readonly parts: readonly LoadedPart[] };

/** @throws `invalid_checkpoint` where the folder is not what it was */
export function openTensors(folder: string): StoredTensors {
  const descriptors = new Map<string, number>();
  const tensors = new Map<string, StoredTensor>();
  for (const file of filesOf(folder)) {
    const descriptor = openFile(file);
    descriptors.set(file, descriptor);
    for (const [name, tensor] of readHeader(descriptor, file)) tensors.set(name, tensor);
  }
  return {
    parts: [...tensors].map(([name, tensor]) => ({
      name,
      shape: tensor.shape,
      tensor,
      scale: tensors.get(name.replace(/\.weight$/, '.weight_scale')) ?? null,
    })),
    readInto: (tensor, target, fromByte = 0, byteCount = tensor.bytes - fromByte) =>
      readFully(descriptors.get(tensor.file) as number, tensor.file, target.subarray(0, byteCount), tensor.offset + fromByte),
    close: () => {
      for (const descriptor of descriptors.values()) closeSync(descriptor);
      descriptors.clear();
    },
  };
}

function filesOf(folder: string): string[] {
  if (existsSync(join(folder, SINGLE_FILE))) return [join(folder, SINGLE_FILE)];
  const { weight_map } = JSON.parse(readFileSync(join(folder, INDEX_FILE), 'utf8')) as { readonly weight_map: Readonly<Record<string, string>> };
  return [...new Set(Object.values(weight_map))].map((file) => join(folder, file));
}
