/** Flips a bit of the KV that an NPU holds. @module */
import { offsetOf } from '../fabric/address.ts';
import { onDie } from '../flowserve/pod-plan.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';

/** Of the NPU, or, where nobody holds anything there, of the next that there is: who lost its memory just before has none that could go bad. */
export function flipKvBit(memory: Pick<VirtualControl, 'plan' | 'space' | 'directory'>, npu: number, bit: number, which: number): boolean {
  const npus = memory.plan.layouts.length;
  return Array.from({ length: npus }, (_, index) => (npu + index) % npus).some((other) => flipBitOf(memory, other, bit, which));
}

/**
 * Of a block that somebody holds, in a position that has been written for good: what the step at hand writes has no sum before its end, and nothing to be told by.
 * `which`: of those blocks, counted round. False: there is none.
 */
function flipBitOf({ plan, space, directory }: Pick<VirtualControl, 'plan' | 'space' | 'directory'>, npu: number, bit: number, which: number): boolean {
  const layout = plan.layouts[npu];
  if (layout?.kind !== 'attention') return false;
  const { kv } = onDie(plan, npu, directory.dieOfNpu(npu));
  const { address, block_bytes, block_size, run_bytes, holders, filled, blocks } = kv;
  const words = space.wordsOf(holders);
  const wordOf = (table: number, block: number): number => words[offsetOf(table) / 4 + block] as number;
  const filledOf = (block: number): number => (plan.options.kv_checks === 'off' ? block_size : wordOf(filled, block));
  const held = Array.from({ length: blocks }, (_, block) => block).filter((block) => wordOf(holders, block) > 0 && filledOf(block) > 0);
  const block = held[which % Math.max(1, held.length)];
  if (block === undefined) return false;
  const bits = (8 * run_bytes * filledOf(block)) / block_size;
  const at = offsetOf(address + block * block_bytes) / 4 + Math.floor((bit % bits) / 32);
  const cells = space.wordsOf(address);
  cells[at] = (cells[at] as number) ^ (1 << (bit % 32));
  return true;
}
