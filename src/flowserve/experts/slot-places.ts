/**
 * Where a slot of an EP group lies in global memory, on the die that its NPU has now.
 * @module
 */
import type { ExpertMap } from '../../../actors/policies/expert-placement/expert-map.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Region } from '../../fabric/memory-plan.ts';
import type { Executor, ExpertGroup } from '../../protocol/topology.ts';
import type { Directory } from '../../runtime/directory.ts';
import type { DieLayout } from '../layouts/step-layout.ts';
import type { AnyPodPlan } from '../pod-plan.ts';
import { type ExpertSlots, expertIn, placeOfSlot } from './expert-slots.ts';

/** A slot as its group counts them, and as its NPU does. */
export type SlotPlace = { readonly npu: number; readonly slot: number; readonly address: number; readonly bytes: number };

/** An NPU's slots, with its tables on the die that it has now. */
export function slotsOfDie(plan: AnyPodPlan, directory: Directory, npu: number): ExpertSlots {
  const { expertSlots, base } = plan.layouts[npu] as DieLayout;
  const die = plan.dies[directory.dieOfNpu(npu)] as Region;
  return { ...expertSlots, tables: expertSlots.tables.map((table) => (table === null ? null : table - base + die.base)) };
}

/** What an executor's slots hold now, by their tables; so `first` was the map when it began. */
export function mapInSlots(plan: AnyPodPlan, space: AddressSpace, directory: Directory, first: ExpertMap, { experts }: Pick<Executor, 'experts'>): ExpertMap {
  const expertOfSlot = first.expertOfSlot.slice();
  for (let npu = experts.first; npu < experts.first + experts.npus; npu++) {
    const slots = slotsOfDie(plan, directory, npu);
    const layers = slots.tables.flatMap((table, layer) => (table === null ? [] : [layer]));
    for (const [index, layer] of layers.entries())
      for (let slot = 0; slot < slots.each; slot++)
        expertOfSlot[index * slots.total + slots.rank * slots.each + slot] = expertIn(space.wordsOf(slots.tables[layer] as number), slots, layer, slot);
  }
  return { ...first, expertOfSlot };
}

export function slotPlace(plan: AnyPodPlan, directory: Directory, { first }: ExpertGroup, layer: number, slot: number): SlotPlace {
  const { each } = (plan.layouts[first] as DieLayout).expertSlots;
  const npu = first + Math.floor(slot / each);
  const layout = plan.layouts[npu] as DieLayout;
  const { address, bytes } = placeOfSlot(layout.expertSlots, layer, slot % each);
  const die = plan.dies[directory.dieOfNpu(npu)] as Region;
  return { npu, slot: slot % each, address: address - layout.base + die.base, bytes };
}
