/** Plans for some of the ranks: as if they were all there are, by the policy that is asked for wherever that can be. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mapAmong, mapSparing, mapWithOthers, mapWithout, planAmong, ranksOf } from '../../../actors/policies/expert-placement/among-ranks.ts';
import { expertLoads } from '../../../actors/policies/expert-placement/expert-loads.ts';
import { NO_EXPERT } from '../../../actors/policies/expert-placement/expert-map.ts';
import { PLACE_EXPERTS, PLACEMENT_POLICIES, planFrom } from '../../../actors/policies/expert-placement/policies.ts';
import { runs } from '../../property-runs.ts';
import { SMALL, WORKED_EXAMPLE } from './loads.ts';

const WORKED_SHAPE = { layers: 2, experts: 12, slots: 16, ranks: 8, nodes: 2, groups: 4 };

describe('a plan among some ranks', () => {
  it('should be the policy’s own where they are all', () => {
    const loads = expertLoads([WORKED_EXAMPLE.weight]);
    const present = PLACE_EXPERTS.native(loads, WORKED_SHAPE);
    const ranks = Array.from({ length: WORKED_SHAPE.ranks }, (_, rank) => rank);
    for (const policy of PLACEMENT_POLICIES) expect(planAmong(present, ranks, policy, loads)).toEqual(planFrom(present, policy, loads));
  });

  it('should know no nodes where they are not all: hierarchical then is global', () => {
    const loads = expertLoads([WORKED_EXAMPLE.weight]);
    const present = PLACE_EXPERTS.native(loads, WORKED_SHAPE);
    const ranks = [0, 1, 2, 4, 5, 7];
    expect(planAmong(present, ranks, 'hierarchical', loads)).toEqual(planAmong(present, ranks, 'global', loads));
    const all = [0, 1, 2, 3, 4, 5, 6, 7];
    expect(planAmong(present, all, 'hierarchical', loads)).not.toEqual(planAmong(present, all, 'global', loads));
  });

  it('should place every expert on these ranks alone', () => {
    fc.assert(
      fc.property(SMALL, fc.constantFrom(...PLACEMENT_POLICIES), fc.nat(), ({ shape, tokens }, policy, seed) => {
        fc.pre(shape.ranks > 1);
        const each = shape.slots / shape.ranks;
        const without = seed % shape.ranks;
        const ranks = Array.from({ length: shape.ranks }, (_, rank) => rank).filter((rank) => rank !== without);
        fc.pre(ranks.length * each >= shape.experts);
        const plan = planAmong(PLACE_EXPERTS.native(expertLoads(tokens), shape), ranks, policy, seed % 2 === 0 ? null : expertLoads(tokens));
        expect(ranksOf(plan).every((rank) => rank !== without)).toBe(true);
        for (let layer = 0; layer < shape.layers; layer++)
          expect(new Set(plan.expertOfSlot.subarray(layer * shape.slots, (layer + 1) * shape.slots).filter((expert) => expert !== NO_EXPERT)).size).toBe(
            shape.experts,
          );
        expect(mapWithOthers(mapAmong(plan, ranks), ranks, shape)).toEqual(plan);
      }),
      { numRuns: runs(60) },
    );
  });

  it('should lose nothing that is elsewhere with a rank that is away, and keep what is nowhere else', () => {
    const shape = { layers: 1, experts: 4, slots: 8, ranks: 4, nodes: 1, groups: 1 };
    const twice = PLACE_EXPERTS.mirrored(expertLoads([[[1, 1, 1, 1]]]), shape);
    expect(mapWithout(twice, new Set([1]))).toEqual(mapSparing(twice, new Set([1])));
    expect(mapWithout(twice, new Set([0, 1]))).toBeNull();
    const spared = [...mapSparing(twice, new Set([0, 1])).expertOfSlot].filter((expert) => expert !== NO_EXPERT);
    expect(new Set(spared)).toEqual(new Set([0, 1, 2, 3]));
  });
});
