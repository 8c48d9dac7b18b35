/**
 * The weights of one slot on their way: summed as they were loaded, copied from whichever NPU has them, and summed again.
 * @module
 */
import { CHUNK_BYTES, type Checksum } from '../distflow/checksum.ts';

/** Of weights as they lie in a slot. Both ends cut alike (distflow/checksum.ts). */
export function sumOfWeights(sum: Checksum['sum'], address: number, bytes: number): number {
  let total = 0;
  for (let done = 0; done < bytes; done += CHUNK_BYTES) total = sum(total, address + done, Math.min(CHUNK_BYTES, bytes - done));
  return total;
}
