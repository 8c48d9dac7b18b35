/** Loads to place experts by: real ones, with DeepSeek's worked example, and made ones. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { type ExpertLoads, expertLoads } from '../../../actors/policies/expert-placement/expert-loads.ts';
import type { PlacementShape } from '../../../actors/policies/expert-placement/placement-shape.ts';

type Table = readonly (readonly number[])[];
type LoadsFile = {
  readonly 'olmoe-1b-7b (64 experts, top-8)': Readonly<Record<'book' | 'c4' | 'github' | 'tulu', Table>>;
  readonly eplb_worked_example: { readonly weight: Table; readonly physical_to_logical: Table };
};

/** Of allenai/OLMoE (Apache-2.0) and deepseek-ai/EPLB (MIT), as the file says. */
export const LOADS_FILE = new URL('../../golden/expert-loads.json', import.meta.url);
const file = JSON.parse(readFileSync(LOADS_FILE, 'utf8')) as LoadsFile;

export const { eplb_worked_example: WORKED_EXAMPLE, 'olmoe-1b-7b (64 experts, top-8)': OLMOE } = file;
/** EP32, one redundant slot a rank. */
export const OLMOE_SHAPE: PlacementShape = { layers: 3, experts: 64, slots: 96, ranks: 32, nodes: 4, groups: 8 };
export const olmoeLoads = (domain: keyof typeof OLMOE): ExpertLoads => expertLoads([OLMOE[domain]]);

/** Small shapes that every policy can fill, with loads of them; ties are frequent, and so are experts that nobody asks for. */
export const SMALL = fc
  .record({
    nodes: fc.integer({ min: 1, max: 3 }),
    nodeRanks: fc.integer({ min: 1, max: 3 }),
    nodeGroups: fc.integer({ min: 1, max: 3 }),
    groupSize: fc.integer({ min: 1, max: 3 }),
    spare: fc.nat(3),
    layers: fc.integer({ min: 1, max: 2 }),
    windows: fc.integer({ min: 1, max: 4 }),
  })
  .chain(({ nodes, nodeRanks, nodeGroups, groupSize, spare, layers, windows }) => {
    const [ranks, groups] = [nodes * nodeRanks, nodes * nodeGroups];
    const experts = groups * groupSize;
    const slots = ranks * (Math.ceil(experts / ranks) + spare);
    const count = fc.oneof(fc.constant(0), fc.nat(4), fc.nat(100_000));
    const array = <Item>(item: fc.Arbitrary<Item>, length: number) => fc.array(item, { minLength: length, maxLength: length });
    return fc.record({
      shape: fc.constant<PlacementShape>({ layers, experts, slots, ranks, nodes, groups }),
      tokens: array(array(array(count, experts), layers), windows),
    });
  });
