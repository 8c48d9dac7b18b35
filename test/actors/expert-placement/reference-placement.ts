/** The placement algorithms as their sources tell them, one plain step after the other: what the policies' faster ones are compared with. One layer each. */
import type { PlacementShape } from '../../../actors/policies/expert-placement/placement-shape.ts';

const indexOfMost = (values: readonly number[]): number => values.indexOf(values.reduce((a, b) => Math.max(a, b)));
const indexOfLeast = (values: readonly number[]): number => values.indexOf(values.reduce((a, b) => Math.min(a, b)));
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

/** xDeepServe §4.5. `tokens`: [window][expert]. [slot] → expert, −1 where none. */
export function placeAsPaper(tokens: readonly (readonly number[])[], shape: PlacementShape): number[] {
  const { experts, slots, ranks } = shape;
  const split = (replicas: readonly number[]): number[][] => tokens.map((row) => row.map((count, expert) => count / (replicas[expert] as number)));
  const hottest = (row: readonly number[]): number => indexOfMost(row);
  const sumOfHottest = (rows: readonly (readonly number[])[]): number => sum(rows.map((row) => row[hottest(row)] as number));

  const replicas = range(experts).map(() => 1);
  const chosen: number[] = [];
  while (chosen.length < slots - experts) {
    const candidates = [...new Set(split(replicas).map(hottest))].sort((a, b) => a - b);
    const tried = candidates.map((candidate) => sumOfHottest(split(replicas.map((count, expert) => count + (expert === candidate ? 1 : 0)))));
    const best = candidates[indexOfLeast(tried)] as number;
    replicas[best] = (replicas[best] as number) + 1;
    chosen.push(best);
  }

  const loadOf = (expert: number): number => sum(tokens.map((row) => row[expert] as number)) / (replicas[expert] as number);
  const held: number[][] = range(ranks).map((rank) => range(experts).filter((expert) => expert % ranks === rank));
  const load = held.map((own) => sum(own.map(loadOf)));
  for (const expert of chosen.sort((a, b) => loadOf(b) - loadOf(a) || a - b)) {
    const rank = indexOfLeast(load.map((value, rank) => ((held[rank] as number[]).length < slots / ranks ? value : Number.POSITIVE_INFINITY)));
    (held[rank] as number[]).push(expert);
    load[rank] = (load[rank] as number) + loadOf(expert);
  }
  return held.flatMap((own) => range(slots / ranks).map((place) => own[place] ?? -1));
}

/** `balanced_packing` of DeepSeek's EPLB: which items each pack holds, in their order. */
function pack(weights: readonly number[], packs: number): number[][] {
  const each = weights.length / packs;
  if (each === 1) return weights.map((_, item) => [item]);
  const held: number[][] = range(packs).map(() => []);
  const load = range(packs).map(() => 0);
  for (const item of range(weights.length).sort((a, b) => (weights[b] as number) - (weights[a] as number) || a - b)) {
    const least = indexOfLeast(load.map((value, at) => ((held[at] as number[]).length < each ? value : Number.POSITIVE_INFINITY)));
    (held[least] as number[]).push(item);
    load[least] = Math.fround((load[least] as number) + (weights[item] as number));
  }
  return held;
}

/** `rebalance_experts_hierarchical` of DeepSeek's EPLB; global with one group and one node. `tokens`: by expert, below 2²⁴. [slot] → expert. */
export function placeAsDeepSeek(tokens: readonly number[], { experts, slots, ranks }: PlacementShape, groups: number, nodes: number): number[] {
  const size = experts / groups;
  const groupTokens = range(groups).map((group) => sum(tokens.slice(group * size, (group + 1) * size)));
  return pack(groupTokens, nodes).flatMap((own) => {
    const members = own.flatMap((group) => range(size).map((member) => group * size + member));
    const replicas = members.map(() => 1);
    const share = (at: number): number => Math.fround((tokens[members[at] as number] as number) / (replicas[at] as number));
    const physical = range(members.length);
    while (physical.length < slots / nodes) {
      const busiest = indexOfMost(range(members.length).map(share));
      replicas[busiest] = (replicas[busiest] as number) + 1;
      physical.push(busiest);
    }
    return pack(physical.map(share), ranks / nodes).flatMap((items) => items.map((item) => members[physical[item] as number] as number));
  });
}
