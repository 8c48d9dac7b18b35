/** Flips a bit of rows of activations that are on their way between NPUs. @module */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import type { Block } from '../xccl/row-sums.ts';

/** So many others have rows on their way before the NPU has: then it may have none at all. */
const PASSED_MAX = 64;

/** Of what is on its way next in the NPU's memory, or in another's, once; `onFlip` is told. Not any more when the function is called that is returned. */
export function flipNextRows({ npus, space }: Pick<VirtualControl, 'npus' | 'space'>, npu: number, bit: number, onFlip: () => void): () => void {
  const before = npus.onTravel;
  let passed = 0;
  let isOver = false;
  npus.onTravel = (of, rows) => {
    before?.(of, rows);
    if (isOver || (of !== npu && passed++ < PASSED_MAX) || !flipBitOf(space, [...rows], bit)) return;
    isOver = true;
    onFlip();
  };
  return () => {
    isOver = true;
  };
}

/** Counted through all of them, and round. False: there are none. */
function flipBitOf(space: AddressSpace, rows: readonly Block[], bit: number): boolean {
  let left = bit % Math.max(1, 8 * rows.reduce((sum, { bytes }) => sum + bytes, 0));
  for (const { address, bytes } of rows) {
    if (left < 8 * bytes) {
      const words = space.wordsOf(address);
      const at = offsetOf(address) / 4 + (left >>> 5);
      words[at] = (words[at] as number) ^ (1 << (left % 32));
      return true;
    }
    left -= 8 * bytes;
  }
  return false;
}
