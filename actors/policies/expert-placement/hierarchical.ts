/**
 * DeepSeek's expert load balancer (github.com/deepseek-ai/EPLB). Hierarchical: groups of experts are packed onto nodes, so that group-limited routing stays
 * within few of them; each node replicates its busiest experts; replicas are packed onto its ranks. Global: the same over one node that is everything.
 * @module
 */
import { MinipodError } from '../../../src/protocol/errors.ts';
import { BalancedPacking } from './balanced-packing.ts';
import { addWindows, type ExpertLoads } from './expert-loads.ts';
import { type ExpertMap, expertMap } from './expert-map.ts';
import { checkLoads, checkShape, type PlacementShape } from './placement-shape.ts';
import { ExpertReplication } from './replicate-experts.ts';

/** @throws `invalid_request` where groups or experts cannot be dealt out evenly to the nodes */
export function hierarchicalMap(loads: ExpertLoads, shape: PlacementShape): ExpertMap {
  checkShape(shape);
  checkLoads(loads, shape);
  const { groups, nodes } = shape;
  if (groups % nodes !== 0)
    throw new MinipodError('invalid_request', `expert placement: ${groups} groups cannot be dealt out evenly to ${nodes} nodes; use the global policy`, {
      param: 'groups',
    });
  return expertMap(shape, pack(loads, shape, groups, nodes));
}

export function globalMap(loads: ExpertLoads, shape: PlacementShape): ExpertMap {
  checkShape(shape);
  checkLoads(loads, shape);
  return expertMap(shape, pack(loads, shape, 1, 1));
}

function pack(loads: ExpertLoads, { layers, experts, slots, ranks }: PlacementShape, groups: number, nodes: number): Int32Array {
  const [groupSize, nodeExperts, nodeSlots, rankSlots] = [experts / groups, experts / nodes, slots / nodes, slots / ranks];
  const expertOfSlot = new Int32Array(layers * slots);
  const totals = new Float64Array(experts);
  const groupsToNodes = new BalancedPacking(groups, nodes);
  const replicasToRanks = new BalancedPacking(nodeSlots, ranks / nodes);
  /** Experts node by node, and their tokens. */
  const dealt = new Int32Array(experts);
  const tokens = new Float32Array(experts);
  const replication = new ExpertReplication(nodeExperts, nodeSlots);
  const { expertOfReplica, share } = replication;
  const tokensOfNode = Array.from({ length: nodes }, (_, node) => tokens.subarray(node * nodeExperts, (node + 1) * nodeExperts));

  for (let layer = 0; layer < layers; layer++) {
    addWindows(loads, layer, totals);
    dealGroups(groupsToNodes, totals, groupSize, dealt, tokens);
    for (let node = 0; node < nodes; node++) {
      replication.replicate(tokensOfNode[node] as Float32Array);
      for (let replica = 0; replica < nodeSlots; replica++) replicasToRanks.weights[replica] = share[expertOfReplica[replica] as number] as number;
      replicasToRanks.pack();
      const firstSlot = layer * slots + node * nodeSlots;
      const firstExpert = node * nodeExperts;
      for (let replica = 0; replica < nodeSlots; replica++) {
        const slot = (replicasToRanks.packOf[replica] as number) * rankSlots + (replicasToRanks.placeOf[replica] as number);
        expertOfSlot[firstSlot + slot] = dealt[firstExpert + (expertOfReplica[replica] as number)] as number;
      }
    }
  }
  return expertOfSlot;
}

/** Packs groups of experts onto nodes, and lists the experts in the order in which they then lie. */
function dealGroups(packing: BalancedPacking, totals: Float64Array, groupSize: number, dealt: Int32Array, tokens: Float32Array): void {
  const { items: groups, packs: nodes, weights, packOf, placeOf } = packing;
  for (let group = 0; group < groups; group++) {
    let sum = 0;
    for (let member = 0; member < groupSize; member++) sum += totals[group * groupSize + member] as number;
    weights[group] = sum;
  }
  packing.pack();
  for (let group = 0; group < groups; group++) {
    const first = ((packOf[group] as number) * (groups / nodes) + (placeOf[group] as number)) * groupSize;
    for (let member = 0; member < groupSize; member++) {
      const expert = group * groupSize + member;
      dealt[first + member] = expert;
      tokens[first + member] = totals[expert] as number;
    }
  }
}
