/**
 * What experts are placed on: each layer has the same slots, a slot holds the weights of one expert, a rank (an NPU) has as many slots as every other, and
 * a node as many ranks.
 *
 *   slots   0 1 2 | 3 4 5 | 6 7 8 | 9 10 11      rank of a slot: ⌊slot / (slots / ranks)⌋
 *   ranks     0   |   1   |   2   |    3
 *   nodes         0       |        1
 * @module
 */
import { MinipodError } from '../../../src/protocol/errors.ts';
import type { ExpertLoads } from './expert-loads.ts';

/** `slots`, `ranks` and `nodes` are those of all together. `groups`: the expert groups that the model's gate chooses among (group-limited routing); 1 where it does not. */
export type PlacementShape = {
  readonly layers: number;
  readonly experts: number;
  readonly slots: number;
  readonly ranks: number;
  readonly nodes: number;
  readonly groups: number;
};

export const slotsOfRank = ({ slots, ranks }: PlacementShape): number => slots / ranks;

/** @throws `invalid_request` for a shape that cannot hold every expert of every layer */
export function checkShape(shape: PlacementShape): void {
  const { experts, slots, ranks, nodes, groups } = shape;
  for (const [name, value] of Object.entries(shape))
    if (!Number.isInteger(value) || value < 1) throw refuse(name, `${name} must be a whole number from 1 on, not ${value}`);
  if (slots < experts) throw refuse('slots', `${slots} slots cannot hold ${experts} experts; there must be at least as many`);
  if (slots % ranks !== 0) throw refuse('slots', `${slots} slots cannot be spread evenly over ${ranks} ranks; give a multiple of the ranks`);
  if (ranks % nodes !== 0) throw refuse('ranks', `${ranks} ranks cannot be spread evenly over ${nodes} nodes; give a multiple of the nodes`);
  if (experts % groups !== 0) throw refuse('groups', `${experts} experts cannot be cut evenly into ${groups} groups; give a divisor of the experts`);
}

/** @throws `invalid_request` where the loads are of another model than the shape */
export function checkLoads({ layers, experts }: ExpertLoads, shape: PlacementShape): void {
  if (layers === shape.layers && experts === shape.experts) return;
  throw refuse('loads', `loads of ${layers} layers × ${experts} experts do not fit ${shape.layers} layers × ${shape.experts} experts`);
}

const refuse = (param: string, why: string): MinipodError => new MinipodError('invalid_request', `expert placement: ${why}`, { param });
