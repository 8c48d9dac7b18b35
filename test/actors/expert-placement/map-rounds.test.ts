/** Rounds from map to map: whatever the two are, each expert keeps a slot at every moment, and the last round is the plan. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ExpertMap, expertMap, NO_EXPERT, replicaCount } from '../../../actors/policies/expert-placement/expert-map.ts';
import { mapAfter, planRounds } from '../../../actors/policies/expert-placement/map-rounds.ts';
import { slotsOfRank } from '../../../actors/policies/expert-placement/placement-shape.ts';
import { runs } from '../../property-runs.ts';

const shapes = fc
  .record({
    layers: fc.integer({ min: 1, max: 3 }),
    ranks: fc.integer({ min: 1, max: 4 }),
    each: fc.integer({ min: 1, max: 4 }),
    spare: fc.integer({ min: 1, max: 4 }),
  })
  .map(({ layers, ranks, each, spare }) => ({ layers, ranks, slots: ranks * each, experts: Math.max(1, ranks * each - spare), nodes: 1, groups: 1 }));

const mapsOf = (shape: ExpertMap['shape'], draw: (below: number) => number): ExpertMap => {
  const layer = (): number[] => {
    const of = Array.from({ length: shape.slots }, (_, slot) => (slot < shape.experts ? slot : draw(shape.experts + 1) + NO_EXPERT));
    for (let slot = of.length - 1; slot > 0; slot--) {
      const other = draw(slot + 1);
      [of[slot], of[other]] = [of[other] as number, of[slot] as number];
    }
    return of;
  };
  return expertMap(shape, Int32Array.from(Array.from({ length: shape.layers }, layer).flat()));
};

describe('the rounds from one map to another', () => {
  it('should end at the plan, leave each expert a slot at every moment, and exchange one expert of a rank at once', () => {
    fc.assert(
      fc.property(shapes, fc.infiniteStream(fc.nat()), (shape, draws) => {
        fc.pre(shape.slots > shape.experts);
        const draw = (below: number): number => (draws.next().value as number) % below;
        const [present, plan] = [mapsOf(shape, draw), mapsOf(shape, draw)];
        const rounds = planRounds(present, plan);
        expect(rounds).not.toBeNull();
        let map = present;
        for (const changes of rounds ?? []) {
          // Throws where an expert would have no slot.
          const disabled = mapAfter(map, changes, true);
          for (const { layer, expert, source } of changes) {
            if (expert === NO_EXPERT) continue;
            expect(map.expertOfSlot[layer * shape.slots + source]).toBe(expert);
            expect(replicaCount(disabled, layer, expert)).toBeGreaterThan(0);
          }
          const exchanges = changes.filter(({ layer, slot, expert }) => expert !== NO_EXPERT && map.expertOfSlot[layer * shape.slots + slot] !== NO_EXPERT);
          const ranks = exchanges.map(({ slot }) => Math.floor(slot / slotsOfRank(shape)));
          const slots = changes.map(({ layer, slot }) => layer * shape.slots + slot);
          expect(new Set(slots).size).toBe(slots.length);
          expect(new Set(ranks).size).toBe(ranks.length);
          map = mapAfter(map, changes, false);
        }
        expect([...map.expertOfSlot]).toEqual([...plan.expertOfSlot]);
      }),
      { numRuns: runs(500) },
    );
  });

  it('should be none where nothing changes, and impossible where every slot is needed and two must change places', () => {
    const shape = { layers: 1, experts: 4, slots: 4, ranks: 2, nodes: 1, groups: 1 };
    const map = (...slots: number[]): ExpertMap => expertMap(shape, Int32Array.from(slots));
    expect(planRounds(map(0, 1, 2, 3), map(0, 1, 2, 3))).toEqual([]);
    expect(planRounds(map(0, 1, 2, 3), map(1, 0, 2, 3))).toBeNull();
  });

  it('should lend the free slot to experts that change places', () => {
    const shape = { layers: 1, experts: 3, slots: 4, ranks: 4, nodes: 1, groups: 1 };
    const map = (...slots: number[]): ExpertMap => expertMap(shape, Int32Array.from(slots));
    const rounds = planRounds(map(0, 1, 2, NO_EXPERT), map(1, 2, 0, NO_EXPERT));
    expect(rounds?.map((changes) => changes.map(({ slot, expert }) => `${slot}←${expert}`).join())).toEqual(['3←2', '2←0', '0←1', '1←2', '3←-1']);
  });

  it('should lend no slot of a rank that is lost, though it is free', () => {
    const shape = { layers: 1, experts: 3, slots: 5, ranks: 5, nodes: 1, groups: 1 };
    const map = (...slots: number[]): ExpertMap => expertMap(shape, Int32Array.from(slots));
    const [present, plan] = [map(NO_EXPERT, 0, 1, 2, NO_EXPERT), map(NO_EXPERT, 1, 2, 0, NO_EXPERT)];
    const slotsOf = (away: number[]): number[] => planRounds(present, plan, new Set(away))?.flatMap((changes) => changes.map(({ slot }) => slot)) ?? [];
    expect(slotsOf([])).toContain(0);
    expect(slotsOf([0])).not.toContain(0);
    expect(slotsOf([0])).toContain(4);
    expect(planRounds(present, plan, new Set([0, 4]))).toBeNull();
  });
});
