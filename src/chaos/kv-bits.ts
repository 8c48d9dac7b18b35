/** Flips a bit of the KV that an NPU holds. @module */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { KvPlace } from '../flowserve/layouts/step-layout.ts';
import { onDie } from '../flowserve/pod-plan.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { flipBit, type Spot } from './damage.ts';

/** Of the NPU, or, where nobody holds anything there, of the next that there is: who lost its memory just before has none that could go bad. */
export function flipKvBit(memory: Pick<VirtualControl, 'plan' | 'space' | 'directory'>, npu: number, bit: number, which: number): boolean {
  const npus = memory.plan.layouts.length;
  return Array.from({ length: npus }, (_, index) => (npu + index) % npus).some((other) => flipBitOf(memory, other, bit, which));
}

/** `which`: of the blocks that somebody holds, counted round. False: there is none. */
function flipBitOf({ plan, space, directory }: Pick<VirtualControl, 'plan' | 'space' | 'directory'>, npu: number, bit: number, which: number): boolean {
  if (plan.layouts[npu]?.kind !== 'attention') return false;
  const held = heldKv(onDie(plan, npu, directory.dieOfNpu(npu)).kv, space, plan.options.kv_checks !== 'off');
  const spot = held[which % Math.max(1, held.length)];
  if (spot === undefined) return false;
  flipBit(space, spot, bit);
  return true;
}

/**
 * Of blocks that somebody holds, the positions that have been written for good, in their first run: what the step at hand writes has no sum before its end, and nothing
 * to be told by.
 */
export function heldKv({ address, block_bytes, block_size, run_bytes, holders, filled, blocks }: KvPlace, space: AddressSpace, hasSums: boolean): Spot[] {
  const words = space.wordsOf(holders);
  const wordOf = (table: number, block: number): number => words[offsetOf(table) / 4 + block] as number;
  return Array.from({ length: blocks }, (_, block): Spot => {
    const positions = wordOf(holders, block) <= 0 ? 0 : hasSums ? wordOf(filled, block) : block_size;
    return { address: address + block * block_bytes, bytes: (run_bytes * positions) / block_size };
  }).filter(({ bytes }) => bytes > 0);
}
