/**
 * Which expert lies in which slot, layer by layer, and where an expert's replicas are: the logical→physical map of xDeepServe §4.5.
 *
 *   expertOfSlot   [layer][slot] → expert, or NO_EXPERT
 *   firstReplica   [layer][expert] → where its replicas begin in `replicas`; they end where the next one's begin
 *   replicas       slots, ascending for each expert
 * @module
 */
import { MinipodError } from '../../../src/protocol/errors.ts';
import { checkShape, type PlacementShape } from './placement-shape.ts';

/** Never changed once made. */
export type ExpertMap = {
  readonly shape: PlacementShape;
  readonly expertOfSlot: Int32Array;
  readonly firstReplica: Int32Array;
  readonly replicas: Int32Array;
};

/** What an empty slot holds. */
export const NO_EXPERT = -1;

/** Takes `expertOfSlot` over. @throws `invalid_request` where a slot holds what is no expert, or an expert has no slot in some layer */
export function expertMap(shape: PlacementShape, expertOfSlot: Int32Array): ExpertMap {
  checkShape(shape);
  const { layers, experts, slots } = shape;
  if (expertOfSlot.length !== layers * slots) throw refuse(`it has ${expertOfSlot.length} slots, not ${layers} layers × ${slots}`);
  const firstReplica = new Int32Array(layers * experts + 1);
  for (let layer = 0; layer < layers; layer++) {
    for (let slot = 0; slot < slots; slot++) {
      const expert = expertOfSlot[layer * slots + slot] as number;
      if (expert === NO_EXPERT) continue;
      if (expert < 0 || expert >= experts) throw refuse(`slot ${slot} of layer ${layer} holds ${expert}; experts are 0 to ${experts - 1}`);
      const next = layer * experts + expert + 1;
      firstReplica[next] = (firstReplica[next] as number) + 1;
    }
  }
  for (let entry = 0; entry < layers * experts; entry++) {
    if (firstReplica[entry + 1] === 0) throw refuse(`expert ${entry % experts} of layer ${Math.floor(entry / experts)} has no slot; each needs one`);
    firstReplica[entry + 1] = (firstReplica[entry + 1] as number) + (firstReplica[entry] as number);
  }
  const replicas = new Int32Array(firstReplica[layers * experts] as number);
  const filled = firstReplica.slice();
  for (let layer = 0; layer < layers; layer++) {
    for (let slot = 0; slot < slots; slot++) {
      const expert = expertOfSlot[layer * slots + slot] as number;
      if (expert === NO_EXPERT) continue;
      const next = filled[layer * experts + expert] as number;
      replicas[next] = slot;
      filled[layer * experts + expert] = next + 1;
    }
  }
  return { shape, expertOfSlot, firstReplica, replicas };
}

export function replicaCount({ shape, firstReplica }: ExpertMap, layer: number, expert: number): number {
  const entry = layer * shape.experts + expert;
  return (firstReplica[entry + 1] as number) - (firstReplica[entry] as number);
}

/** The slots that hold the expert, ascending. */
export function replicasOf({ shape, firstReplica, replicas }: ExpertMap, layer: number, expert: number): Int32Array {
  const entry = layer * shape.experts + expert;
  return replicas.subarray(firstReplica[entry], firstReplica[entry + 1]);
}

/**
 * The slot that computes this token's share of the expert: replicas take turns by the token's position in the batch, so their loads differ by one token at
 * most, and nobody needs to ask anybody (§4.5, spread). A sender of small batches adds a number of its own to the position, its rank say: else all begin
 * with the first replica.
 */
export function slotOf({ shape, firstReplica, replicas }: ExpertMap, layer: number, expert: number, position: number): number {
  const entry = layer * shape.experts + expert;
  const first = firstReplica[entry] as number;
  return replicas[first + (position % ((firstReplica[entry + 1] as number) - first))] as number;
}

/** The same as a table [position in batch][expert] → slot, which a captured step gathers from. `table` has `positions` × experts entries. */
export function fillRotation(map: ExpertMap, layer: number, positions: number, table: Int32Array): void {
  const { experts } = map.shape;
  for (let position = 0; position < positions; position++)
    for (let expert = 0; expert < experts; expert++) table[position * experts + expert] = slotOf(map, layer, expert, position);
}

const refuse = (why: string): MinipodError => new MinipodError('invalid_request', `expert map: ${why}`, { param: 'map' });
