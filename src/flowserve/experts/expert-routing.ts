/**
 * The expert map as one NPU sorts its tokens by: a copy of its own, in its own memory, which changes only between two kernel calls.
 * @module
 */
import { type ExpertMap, expertMap } from '../../../actors/policies/expert-placement/expert-map.ts';
import { mirroredMap } from '../../../actors/policies/expert-placement/mirrored.ts';
import { nativeMap } from '../../../actors/policies/expert-placement/native.ts';
import type { PlacementShape } from '../../../actors/policies/expert-placement/placement-shape.ts';
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import { assert } from '../../protocol/errors.ts';
import type { Executor, ExpertGroup } from '../../protocol/topology.ts';
import type { LayoutOptions, ModelShape, StepLayout } from '../layouts/step-layout.ts';
import { layersWithExperts, slotsOfGroup } from './expert-slots.ts';

/** Maps have layers with experts only, in order. */
export function placementShape(model: ModelShape, options: LayoutOptions, group: ExpertGroup): PlacementShape {
  const { nodes = 1, groups = 1 } = options.expert_nodes ?? {};
  return { layers: layersWithExperts(model).length, experts: model.moe.experts, slots: slotsOfGroup(model, options, group), ranks: group.npus, nodes, groups };
}

/** What an executor's slots hold at first: as the options say, else each expert in its own and the redundant ones empty, or with what is mirrored. */
export function firstMap(model: ModelShape, options: LayoutOptions, { id, experts }: Pick<Executor, 'id' | 'experts'>): ExpertMap {
  const shape = placementShape(model, options, experts);
  if (options.mirrors_experts === true && experts.serving === undefined) return mirroredMap(shape);
  const given = options.expert_maps?.[id];
  if (given !== undefined) return expertMap(shape, Int32Array.from(given.flat()));
  return nativeMap(shape, experts.serving);
}

/** Of a group none of whose slots is redundant, or filled. */
export const nativeMapOf = (model: ModelShape, { group, total }: StepLayout['expertSlots']): ExpertMap =>
  nativeMap({ layers: Math.max(1, layersWithExperts(model).length), experts: model.moe.experts, slots: total, ranks: group.npus, nodes: 1, groups: 1 });

/** Epochs travel in 21 bits of a dispatch. */
const EPOCH_MAX = 2 ** 21 - 1;

export class ExpertRouting {
  readonly #layout: StepLayout;
  readonly #words: Int32Array;
  readonly #layers: readonly number[];
  #map: ExpertMap;
  #epoch = 0;

  constructor(model: ModelShape, layout: StepLayout, space: AddressSpace, map: ExpertMap = nativeMapOf(model, layout.expertSlots)) {
    this.#layout = layout;
    this.#words = space.wordsOf(layout.base);
    this.#layers = layersWithExperts(model);
    this.#map = map;
    this.#write();
  }

  /** Rises with each map. */
  get epoch(): number {
    return this.#epoch;
  }

  get map(): ExpertMap {
    return this.#map;
  }

  /** False: a map of that epoch or a later one is here already, so this one is somebody's who does not own it any more. */
  install(map: ExpertMap, epoch: number): boolean {
    assert(epoch <= EPOCH_MAX, `map epoch ${epoch} of at most ${EPOCH_MAX}`);
    if (epoch <= this.#epoch) return false;
    this.#map = map;
    this.#epoch = epoch;
    this.#write();
    return true;
  }

  #write(): void {
    const { shape, firstReplica, replicas, expertOfSlot } = this.#map;
    const { experts, slots } = shape;
    const words = this.#words;
    for (const [index, layer] of this.#layers.entries()) {
      const at = offsetOf(this.#layout.expertSlots.maps[layer] ?? 0) >>> 2;
      const first = firstReplica[index * experts] as number;
      for (let expert = 0; expert <= experts; expert++) words[at + expert] = (firstReplica[index * experts + expert] as number) - first;
      const end = firstReplica[(index + 1) * experts] as number;
      words.set(replicas.subarray(first, end), at + experts + 1);
      words.set(expertOfSlot.subarray(index * slots, (index + 1) * slots), at + experts + 1 + slots);
    }
  }
}
