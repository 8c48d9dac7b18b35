/**
 * What tells one model from another.
 * @module
 */
import { createHash } from 'node:crypto';
import type { Checkpoint } from './checkpoint.ts';

/** Of each tensor: all of a small one, and of a large one enough that training it further changes it. A checkpoint of 30 GB is not read whole for a name. */
const SAMPLE_BYTES = 4_096;

/** SHA-256 over the configuration, and each tensor's name, type, shape and first bytes, by name. */
export function modelDigest({ config, tensors, readInto }: Checkpoint): string {
  const hash = createHash('sha256').update(JSON.stringify({ ...config, name: '' }));
  const names = [...tensors.keys()].sort();
  for (const name of names) {
    const tensor = tensors.get(name);
    if (tensor === undefined) continue;
    const sample = new Uint8Array(Math.min(SAMPLE_BYTES, tensor.bytes));
    readInto(tensor, sample, 0, sample.length);
    hash.update(JSON.stringify([name, tensor.dtype, tensor.shape])).update(sample);
  }
  return hash.digest('hex');
}
