/** Flips a bit of the KV that rests in host DRAM below an NPU. @module */
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { offsetOf } from '../fabric/address.ts';
import { onDie } from '../flowserve/pod-plan.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { address } from '../protocol/address.ts';

type Memory = Pick<VirtualControl, 'plan' | 'space' | 'directory' | 'host'>;

/**
 * Of a block below the NPU that holds what lies nowhere else, or, where there is none, below the next one that has any. Null: nothing rests anywhere. What is
 * returned flips it back where it lies there still, and says whether nobody had found it.
 */
export function flipDramBit(memory: Memory, npu: number, bit: number, which: number): (() => boolean) | null {
  const npus = memory.plan.layouts.length;
  for (let index = 0; index < npus; index++) {
    const flipBack = flipBitBelow(memory, (npu + index) % npus, bit, which);
    if (flipBack !== null) return flipBack;
  }
  return null;
}

function flipBitBelow({ plan, space, directory, host }: Memory, npu: number, bit: number, which: number): (() => boolean) | null {
  const place = plan.hosting.deployment.npus[npu];
  if (place?.kind !== 'attention') return null;
  // A group's KV rests below its first NPU.
  const first = plan.hosting.deployment.groups[place.group]?.npus[0];
  const cacheOf = (): StepScheduler['cache'] | undefined =>
    (host.cast.contextOf(address('dp-group', place.group)) as { scheduler: StepScheduler } | null)?.scheduler.cache;
  const cache = cacheOf();
  const dram = first === undefined ? undefined : plan.drams[directory.dieOfNpu(first)];
  if (first === undefined || dram === undefined || cache === undefined) return null;
  const resting = cache.in_dram_alone;
  const block = resting[which % Math.max(1, resting.length)];
  if (block === undefined) return null;
  const { block_bytes, layers, layer_bytes } = onDie(plan, first, directory.dieOfNpu(first)).kv;
  const at = offsetOf(dram.base + block * block_bytes) / 4 + Math.floor((bit % (8 * layers * layer_bytes)) / 32);
  const words = space.wordsOf(dram.base);
  const whole = words[at] as number;
  const bad = whole ^ (1 << (bit % 32));
  words[at] = bad;
  return () => {
    if (words[at] === bad) words[at] = whole;
    return !(cacheOf()?.isMappedOutDram(block) ?? false);
  };
}
