/** Expert maps: where replicas are, who computes a token, and how to get from one map to the next. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expertLoads, windowsOf } from '../../../actors/policies/expert-placement/expert-loads.ts';
import { type ExpertMap, expertMap, fillRotation, NO_EXPERT, replicasOf, slotOf } from '../../../actors/policies/expert-placement/expert-map.ts';
import { movesBetween } from '../../../actors/policies/expert-placement/map-moves.ts';
import { installablePlan, PLACE_EXPERTS, PLACEMENT_POLICIES, planFrom } from '../../../actors/policies/expert-placement/policies.ts';
import { imbalance, imbalanceByLayer } from '../../../actors/policies/expert-placement/predicted-balance.ts';
import { judgePlan } from '../../../actors/policies/expert-placement/worth-installing.ts';
import { runs } from '../../property-runs.ts';
import { OLMOE_SHAPE, olmoeLoads, SMALL } from './loads.ts';

const SHAPE = { layers: 1, experts: 3, slots: 6, ranks: 3, nodes: 1, groups: 1 };
const mapOf = (...expertOfSlot: number[]): ExpertMap => expertMap(SHAPE, Int32Array.from(expertOfSlot));

describe('an expert map', () => {
  it('should hold each expert in each layer, and know all of its slots and no other', () => {
    fc.assert(
      fc.property(SMALL, fc.constantFrom(...PLACEMENT_POLICIES), ({ shape, tokens }, policy) => {
        const map = PLACE_EXPERTS[policy](expertLoads(tokens), shape);
        for (let layer = 0; layer < shape.layers; layer++) {
          const row = [...map.expertOfSlot.subarray(layer * shape.slots, (layer + 1) * shape.slots)];
          for (let expert = 0; expert < shape.experts; expert++) {
            const slots = row.flatMap((held, slot) => (held === expert ? [slot] : []));
            expect(slots.length).toBeGreaterThan(0);
            expect([...replicasOf(map, layer, expert)]).toEqual(slots);
          }
        }
      }),
      { numRuns: runs(60) },
    );
  });

  it('should let replicas take turns by position, none with more than one token above another', () => {
    const map = mapOf(0, 1, 0, 2, 0, 1);
    expect([0, 1, 2, 3, 4].map((position) => slotOf(map, 0, 0, position))).toEqual([0, 2, 4, 0, 2]);
    expect([0, 1, 2].map((position) => slotOf(map, 0, 1, position))).toEqual([1, 5, 1]);
    const table = new Int32Array(4 * 3);
    fillRotation(map, 0, 4, table);
    expect([...table]).toEqual([0, 1, 3, 2, 5, 3, 4, 1, 3, 0, 5, 3]);
  });

  it('should be refused where an expert is nowhere, or a slot holds none that there is', () => {
    expect(() => mapOf(0, 0, 1, 1, 0, 1)).toThrow(/expert 2 of layer 0 has no slot/);
    expect(() => mapOf(0, 1, 2, 3, 0, 1)).toThrow(/slot 3 of layer 0 holds 3; experts are 0 to 2/);
    expect(() => mapOf(0, 1, 2)).toThrow(/it has 3 slots, not 1 layers × 6/);
  });
});

describe('the way from one map to another', () => {
  it('should count the slots that change, and apart from them the weights that their rank does not have', () => {
    const present = mapOf(0, 1, 2, NO_EXPERT, 1, 0);
    expect(movesBetween(present, present)).toEqual({ slots: 0, weights: 0 });
    expect(movesBetween(present, mapOf(1, 0, 2, NO_EXPERT, 1, 0))).toEqual({ slots: 2, weights: 0 });
    expect(movesBetween(present, mapOf(0, 1, 2, 0, 2, 2))).toEqual({ slots: 3, weights: 2 });
    expect(movesBetween(present, mapOf(0, 1, 2, NO_EXPERT, 1, NO_EXPERT))).toEqual({ slots: 0, weights: 0 });
  });

  it('should keep in place what can be, with the very loads that were planned, and never move more', () => {
    fc.assert(
      fc.property(SMALL, fc.constantFrom(...PLACEMENT_POLICIES), ({ shape, tokens }, policy) => {
        const loads = expertLoads(tokens);
        const present = PLACE_EXPERTS[policy](windowsOf(loads, 0, 1), shape);
        const plan = installablePlan(policy, loads, shape);
        const kept = planFrom(present, policy, loads);
        const [planned, turned] = [imbalanceByLayer(plan, loads), imbalanceByLayer(kept, loads)];
        for (const [layer, value] of planned.entries()) expect(turned[layer]).toBeCloseTo(value, 9);
        expect(movesBetween(present, kept).weights).toBeLessThanOrEqual(movesBetween(present, plan).weights);
        expect(movesBetween(kept, planFrom(kept, policy, loads))).toEqual({ slots: 0, weights: 0 });
      }),
      { numRuns: runs(60) },
    );
  });

  it('should see that two nodes have but changed places', () => {
    const shape = { layers: 1, experts: 4, slots: 4, ranks: 4, nodes: 2, groups: 4 };
    const [before, after] = [expertLoads([[[10, 1, 1, 10]]]), expertLoads([[[10, 1, 1, 11]]])];
    const present = PLACE_EXPERTS.hierarchical(before, shape);
    expect(movesBetween(present, PLACE_EXPERTS.hierarchical(after, shape)).weights).toBe(4);
    expect(planFrom(present, 'hierarchical', after)).toEqual(present);
  });

  it('should save a fourth of the weights and more on real loads', () => {
    const [before, after] = [olmoeLoads('c4'), olmoeLoads('book')];
    const present = PLACE_EXPERTS.global(before, OLMOE_SHAPE);
    const moved = movesBetween(present, PLACE_EXPERTS.global(after, OLMOE_SHAPE)).weights;
    expect(movesBetween(present, planFrom(present, 'global', after)).weights).toBeLessThan(0.75 * moved);
  });
});

describe('the decision whether to install a plan', () => {
  const native = PLACE_EXPERTS.native(olmoeLoads('c4'), OLMOE_SHAPE);

  it('should install one that is predicted better, in the layers where it is', () => {
    const loads = olmoeLoads('c4');
    const plan = PLACE_EXPERTS.global(loads, OLMOE_SHAPE);
    const verdict = judgePlan(native, plan, loads, 0);
    expect(verdict).toMatchObject({ layers: [0, 1, 2], before: imbalance(native, loads), after: imbalance(plan, loads), moves: movesBetween(native, plan) });
    expect(verdict.map).toEqual(plan);
    expect(verdict.reason).toBe('3 of 3 layers are predicted better: busiest rank over mean 2.027 → 1.024');
  });

  it('should install none that is predicted as good or worse, and say so', () => {
    const plan = PLACE_EXPERTS.global(olmoeLoads('c4'), OLMOE_SHAPE);
    expect(judgePlan(plan, plan, olmoeLoads('c4'), 0)).toMatchObject({ map: null, layers: [], moves: { slots: 0, weights: 0 } });
    const late = judgePlan(native, plan, olmoeLoads('github'), 0.5);
    expect(late.map).toBeNull();
    expect(late.reason).toBe('no layer is predicted better by 0.5 or more: busiest rank over mean now 3.279, planned 3.314');
  });

  it('should take a layer only where it gains, and never end up worse than it was', () => {
    fc.assert(
      fc.property(SMALL, ({ shape, tokens }) => {
        const loads = expertLoads(tokens);
        const present = PLACE_EXPERTS.global(windowsOf(loads, 0, 1), shape);
        const plan = PLACE_EXPERTS.fixed_primaries(loads, shape);
        const { map, layers, before, after } = judgePlan(present, plan, loads, 0);
        const [now, then] = [imbalanceByLayer(present, loads), imbalanceByLayer(plan, loads)];
        expect(layers).toEqual([...now.keys()].filter((layer) => (then[layer] ?? 0) < (now[layer] ?? 0) - 1e-9));
        expect(after).toBe(imbalance(map ?? present, loads));
        expect(map === null ? after === before : after < before).toBe(true);
      }),
      { numRuns: runs(60) },
    );
  });
});
