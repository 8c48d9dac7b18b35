/**
 * How much of the room for a task executor's weights is in use: those who stand by hold none.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Executor } from '../../protocol/topology.ts';
import type { Directory } from '../../runtime/directory.ts';
import { expertIn } from '../experts/expert-slots.ts';
import { slotsOfDie } from '../experts/slot-places.ts';
import type { AnyPodPlan } from '../pod-plan.ts';

export type HeldWeights = { readonly held_bytes: number; readonly reserved_bytes: number };

/** `holds`: whether an NPU that runs steps has the weights for them. Shared experts on expert NPUs are left out, which stay. */
export function heldWeights(plan: AnyPodPlan, space: AddressSpace, directory: Directory, { id }: Executor, holds: (npu: number) => boolean): HeldWeights {
  let [held_bytes, reserved_bytes] = [0, 0];
  const count = (bytes: number, isHeld: boolean): void => {
    reserved_bytes += bytes;
    if (isHeld) held_bytes += bytes;
  };
  for (const { id: npu, executor } of plan.hosting.deployment.npus) {
    const layout = plan.layouts[npu];
    if (executor !== id || layout === undefined) continue;
    if (layout.kind === 'attention') for (const { bytes } of layout.replicated) count(bytes, holds(npu));
    const slots = slotsOfDie(plan, directory, npu);
    for (const [layer, weights] of slots.weights.entries()) {
      const table = slots.tables[layer] ?? null;
      if (weights === null || table === null) continue;
      for (let slot = 0; slot < slots.each; slot++) count(weights.bytes, expertIn(space.wordsOf(table), slots, layer, slot) >= 0);
    }
  }
  return { held_bytes, reserved_bytes };
}
