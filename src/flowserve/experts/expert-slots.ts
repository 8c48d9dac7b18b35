/**
 * Where an NPU keeps the weights of experts, and how it knows which expert a slot holds (xDeepServe §4.5: redundant slots in each MoE layer). Each NPU of an
 * EP group has as many slots a layer as every other; all slots of a layer have equal bytes, so that any expert of the layer fits into any of them.
 *
 *   weights  by layer   | slot 0 | slot 1 | …     `stride` bytes apart
 *   table    by layer   u32 [slots][4]: expert + 1, or 0: none │ map epoch from which on │ sum of the weights │ –
 *   map      by layer   u32 [experts + 1] where an expert's replicas begin │ u32 [slots of the group] replicas │ i32 [slots of the group] expert of each slot
 *   staging             room for the weights of one slot, where slots may change
 *
 * The table is what a dispatch is held against: only this NPU's own thread changes it, between two dispatches that it serves. The map is what this NPU's own
 * tokens are sorted by; kernels read it too, so that captured steps follow it.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { Arena } from '../../fabric/arena.ts';
import { layersInMemory, moeLayersOf } from '../../model/moe-layers.ts';
import { assert } from '../../protocol/errors.ts';
import { type Executor, type ExpertGroup, executorOfNpu } from '../../protocol/topology.ts';
import type { LayoutOptions, ModelShape } from '../layouts/step-layout.ts';

export const SLOT = { expert: 0, since: 1, sum: 2 } as const;
export const SLOT_WORDS = 4;

/** The weights of a layer's slots; `bytes` of each are its own, up to the next there may be some left. */
export type SlotWeights = { readonly first: number; readonly stride: number; readonly bytes: number };

/** By layer: null where it has no experts. An NPU that runs no steps has no maps, one that has no experts neither tables nor weights. */
export type ExpertSlots = {
  readonly group: ExpertGroup;
  /** Which of the group's NPUs this one is; −1: none of them, its experts are elsewhere. */
  readonly rank: number;
  /** What the position of its tokens counts from where replicas take turns, so that NPUs of few rows do not all begin with the first (xDeepServe §4.5, spread). */
  readonly spread: number;
  /** Slots of each NPU, and of all of the group, in each layer. */
  readonly each: number;
  readonly total: number;
  readonly tables: readonly (number | null)[];
  readonly maps: readonly (number | null)[];
  readonly weights: readonly (SlotWeights | null)[];
  /** 0: no slot changes. */
  readonly staging: number;
};

/** A slot and its expert in one word of a dispatch's table. */
export const SLOT_SHIFT = 16;
export const EXPERT_MASK = (1 << SLOT_SHIFT) - 1;

const slotsEach = (experts: number, redundant: number, npus: number): number => Math.ceil((experts + redundant) / npus);

/** Of each NPU of the group, in one layer: as many as it takes when the fewest of them serve. */
export const slotsOfNpu = (
  { moe }: ModelShape,
  { redundant_experts = 0 }: Pick<LayoutOptions, 'redundant_experts'>,
  { npus, fewest = npus }: ExpertGroup,
): number => slotsEach(moe.experts, redundant_experts, fewest);

/** Of all NPUs of the group, in one layer. */
export const slotsOfGroup = (model: ModelShape, options: Pick<LayoutOptions, 'redundant_experts'>, group: ExpertGroup): number =>
  slotsOfNpu(model, options, group) * group.npus;

/** Of the pod's largest group. */
export const slotsMax = (model: ModelShape, options: LayoutOptions): number =>
  Math.max(...options.deployment.executors.map(({ experts }: Executor) => slotsOfGroup(model, options, experts)));

export const layersWithExperts = (model: ModelShape): number[] => moeLayersOf(model);

/** Tables and maps; the weights are laid out by whoever knows what they are. */
export function layoutSlotTables(model: ModelShape, options: LayoutOptions, npu: number, arena: Arena): Omit<ExpertSlots, 'weights' | 'staging'> {
  const { experts: group, attention } = executorOfNpu(options.deployment, npu);
  const isHolder = npu >= group.first && npu < group.first + group.npus;
  const isAsker = npu >= attention.first && npu < attention.first + attention.npus;
  const total = slotsOfGroup(model, options, group);
  const each = total / group.npus;
  const withExperts = new Set(layersWithExperts(model));
  const byLayer = (isThere: boolean, words: number): (number | null)[] =>
    Array.from({ length: layersInMemory(model) }, (_, layer) => (isThere && withExperts.has(layer) ? arena.allocate(words * 4) : null));
  const [tables, maps] = [byLayer(isHolder, each * SLOT_WORDS), byLayer(isAsker, model.moe.experts + 1 + 2 * total)];
  return { group, rank: isHolder ? npu - group.first : -1, spread: isAsker ? npu - attention.first : 0, each, total, tables, maps };
}

/** Room for one slot's weights, where slots may change. */
export const layoutStaging = ({ redundant_experts = 0, deployment }: LayoutOptions, weights: readonly (SlotWeights | null)[], arena: Arena): number => {
  const bytes = Math.max(...weights.map((of) => of?.bytes ?? 0));
  const mayChange = redundant_experts > 0 || deployment.executors.some(({ experts }) => experts.serving !== undefined);
  return mayChange && bytes > 0 ? arena.allocate(bytes) : 0;
};

/** The slot of the group that computes an expert for the row at `position`: its replicas take turns. `map`: index of a layer's map. */
export function slotByMap(words: Int32Array, map: number, experts: number, expert: number, position: number): number {
  const from = words[map + expert] as number;
  return words[map + experts + 1 + from + (position % ((words[map + expert + 1] as number) - from))] as number;
}

/** The same among slots of which `isThere`; −1: none of the expert's is. */
export function slotThere(words: Int32Array, map: number, experts: number, expert: number, position: number, isThere: (slot: number) => boolean): number {
  const from = words[map + expert] as number;
  const replicas = (words[map + expert + 1] as number) - from;
  for (let look = 0; look < replicas; look++) {
    const slot = words[map + experts + 1 + from + ((position + look) % replicas)] as number;
    if (isThere(slot)) return slot;
  }
  return -1;
}

/** All of the group that hold the expert. */
export function replicasByMap(words: Int32Array, map: number, experts: number, expert: number): number[] {
  const first = map + experts + 1;
  return [...words.subarray(first + (words[map + expert] as number), first + (words[map + expert + 1] as number))];
}

/** What a slot holds; −1: nothing. */
export function expertIn(words: Int32Array, { tables, each }: ExpertSlots, layer: number, slot: number): number {
  const table = tables[layer];
  return table == null || slot >= each ? -1 : (words[(offsetOf(table) >>> 2) + slot * SLOT_WORDS + SLOT.expert] as number) - 1;
}

/** The slot holds the expert, and did so under the map of this epoch. */
export function holdsExpert(words: Int32Array, { tables, each }: ExpertSlots, layer: number, slot: number, expert: number, epoch: number): boolean {
  const table = tables[layer];
  if (table == null || slot >= each) return false;
  const at = (offsetOf(table) >>> 2) + slot * SLOT_WORDS;
  return words[at + SLOT.expert] === expert + 1 && (words[at + SLOT.since] as number) <= epoch;
}

/** From now on the slot holds the expert, for dispatches of this epoch or later; −1: nothing. `sum`: of its weights. */
export function writeSlot(words: Int32Array, { tables }: ExpertSlots, layer: number, slot: number, expert: number, epoch: number, sum: number): void {
  const table = tables[layer];
  assert(table != null, `layer ${layer} has no experts`);
  const at = (offsetOf(table) >>> 2) + slot * SLOT_WORDS;
  words[at + SLOT.expert] = expert + 1;
  words[at + SLOT.since] = epoch;
  words[at + SLOT.sum] = sum;
}

export const sumOfSlot = (words: Int32Array, { tables }: ExpertSlots, layer: number, slot: number): number =>
  words[(offsetOf(tables[layer] ?? 0) >>> 2) + slot * SLOT_WORDS + SLOT.sum] as number;

/** Where the weights of a slot lie. */
export function placeOfSlot({ weights, each }: ExpertSlots, layer: number, slot: number): { readonly address: number; readonly bytes: number } {
  const of = weights[layer];
  assert(of != null && slot >= 0 && slot < each, `there is no slot ${slot} in layer ${layer}`);
  return { address: of.first + slot * of.stride, bytes: of.bytes };
}
