/**
 * Which changes of a round bring the same weights to several NPUs: those travel once, as a broadcast from the slot that has them (DeepServe §4.5, NPU-fork).
 * @module
 */
import type { WeightBroadcast } from '../../../src/protocol/expert-maps.ts';
import { NO_EXPERT } from './expert-map.ts';
import type { SlotChange } from './map-rounds.ts';

/** Of a slot's weights, which `npus[0]` has. `changes`: by their place in the round, those that they are for. */
export type SharedWeights = { readonly layer: number; readonly source: number; readonly changes: readonly number[]; readonly broadcast: WeightBroadcast };

/** `first`: the number of the round's first change. A broadcast has that of its own first change, so no two of a group's life have the same. */
export function sharedWeights(changes: readonly SlotChange[], first: number, npuOf: (slot: number) => number): SharedWeights[] {
  const bySource = new Map<string, number[]>();
  for (const [index, { layer, slot, expert, source }] of changes.entries()) {
    if (expert === NO_EXPERT || source < 0) continue;
    const key = `${layer}.${source}`;
    const others = bySource.get(key) ?? [];
    // A second slot of the same NPU copies for itself, as does one beside the source.
    if ([source, ...others.map((other) => (changes[other] as SlotChange).slot)].some((there) => npuOf(there) === npuOf(slot))) continue;
    bySource.set(key, [...others, index]);
  }
  return [...bySource.values()]
    .filter(({ length }) => length > 1)
    .map((indices) => {
      const targets = indices.map((index) => changes[index] as SlotChange);
      const { layer, source } = targets[0] as SlotChange;
      const npus = [source, ...targets.map(({ slot }) => slot)].map(npuOf);
      return { layer, source, changes: indices, broadcast: { number: first + (indices[0] as number), npus } };
    });
}
