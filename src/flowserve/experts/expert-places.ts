/**
 * Where experts are, for whoever looks on: read from the tables in which the NPUs keep what their slots hold (expert-slots.ts).
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Executor } from '../../protocol/topology.ts';
import type { Directory } from '../../runtime/directory.ts';
import type { AnyPodPlan } from '../pod-plan.ts';
import { expertIn, layersWithExperts, SLOT, SLOT_WORDS } from './expert-slots.ts';
import { slotsOfDie } from './slot-places.ts';

/** `npus`: by expert id those that hold it, ascending. `map_epoch`: of the map by which a slot of the layer changed last. */
export type ExpertPlaces = { readonly npus: readonly (readonly number[])[]; readonly map_epoch: number };
export type LayerPlaces = { readonly layer: number; readonly by_executor: readonly ExpertPlaces[] };

/** Of each layer that has experts. */
export function expertPlaces(plan: AnyPodPlan, space: AddressSpace, directory: Directory): LayerPlaces[] {
  const { executors } = plan.hosting.deployment;
  const placesIn = ({ experts: { first, npus } }: Executor, layer: number): ExpertPlaces => {
    const holders = Array.from({ length: plan.config.moe.experts }, (): number[] => []);
    let map_epoch = 0;
    for (let npu = first; npu < first + npus; npu++) {
      const slots = slotsOfDie(plan, directory, npu);
      const table = slots.tables[layer] ?? null;
      if (table === null) continue;
      const words = space.wordsOf(table);
      for (let slot = 0; slot < slots.each; slot++) {
        const expert = expertIn(words, slots, layer, slot);
        map_epoch = Math.max(map_epoch, words[(offsetOf(table) >>> 2) + slot * SLOT_WORDS + SLOT.since] as number);
        if (expert >= 0 && holders[expert]?.at(-1) !== npu) holders[expert]?.push(npu);
      }
    }
    return { npus: holders, map_epoch };
  };
  return layersWithExperts(plan.config).map((layer) => ({ layer, by_executor: executors.map((executor) => placesIn(executor, layer)) }));
}
