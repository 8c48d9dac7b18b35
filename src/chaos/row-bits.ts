/** Flips a bit of rows of activations that are on their way between NPUs. @module */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import type { Block } from '../xccl/row-sums.ts';
import { flipBit } from './damage.ts';

/** So often others leave rows before the NPU does: then it may leave none at all. */
const PASSED_MAX = 64;

type Pod = Pick<VirtualControl, 'npus' | 'space' | 'directory'>;

/** Of what the NPU leaves next and nobody else has flipped a bit of, or another one, once; `onFlip` is told. Not any more when the function is called that is returned. */
export function flipNextRows({ npus, space, directory }: Pod, npu: number, bit: number, onFlip: () => void): () => void {
  let passed = 0;
  const end = npus.travel.add((die, rows) => {
    if ((die !== directory.dieOfNpu(npu) && passed++ < PASSED_MAX) || !flipRowBit(space, rows, bit)) return false;
    end();
    onFlip();
    return true;
  });
  return end;
}

/** Counted through all of them, and round. False: there are none. */
export function flipRowBit(space: AddressSpace, rows: readonly Block[], bit: number): boolean {
  let left = bit % Math.max(1, 8 * rows.reduce((sum, { bytes }) => sum + bytes, 0));
  for (const { address, bytes } of rows) {
    if (left < 8 * bytes) {
      flipBit(space, { address, bytes }, left);
      return true;
    }
    left -= 8 * bytes;
  }
  return false;
}
