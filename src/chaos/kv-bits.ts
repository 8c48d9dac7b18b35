/** Flips a bit of the KV that an NPU holds. @module */
import { offsetOf } from '../fabric/address.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';

/** Of the first block that somebody holds. False: nobody holds any. */
export function flipKvBit({ plan, space }: Pick<VirtualControl, 'plan' | 'space'>, npu: number, bit: number): boolean {
  const layout = plan.layouts[npu];
  if (layout?.kind !== 'attention') return false;
  const { address, holders, block_bytes, blocks } = layout.kv;
  const words = space.wordsOf(holders);
  for (let block = 0; block < blocks; block++) {
    if ((words[offsetOf(holders) / 4 + block] as number) === 0) continue;
    const at = offsetOf(address) / 4 + Math.floor(((block * block_bytes) / 4 + (bit % (block_bytes * 8)) / 32) % ((blocks * block_bytes) / 4));
    const cells = space.wordsOf(address);
    cells[at] = (cells[at] as number) ^ (1 << (bit % 32));
    return true;
  }
  return false;
}
