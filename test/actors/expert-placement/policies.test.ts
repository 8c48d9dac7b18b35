/** The policies place experts as their sources say, and as evenly as these do on real loads. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mapSparing } from '../../../actors/policies/expert-placement/among-ranks.ts';
import { expertLoads } from '../../../actors/policies/expert-placement/expert-loads.ts';
import { type ExpertMap, NO_EXPERT } from '../../../actors/policies/expert-placement/expert-map.ts';
import { installablePlan, PLACE_EXPERTS, PLACEMENT_POLICIES, planFrom } from '../../../actors/policies/expert-placement/policies.ts';
import { imbalance, imbalanceByLayer } from '../../../actors/policies/expert-placement/predicted-balance.ts';
import { runs } from '../../property-runs.ts';
import { OLMOE_SHAPE, olmoeLoads, SMALL, WORKED_EXAMPLE } from './loads.ts';
import { placeAsDeepSeek, placeAsPaper } from './reference-placement.ts';

const totalsOf = (tokens: readonly (readonly (readonly number[])[])[], layer: number): number[] =>
  (tokens[0]?.[layer] ?? []).map((_, expert) => tokens.reduce((sum, window) => sum + (window[layer]?.[expert] ?? 0), 0));

describe('the placement policies', () => {
  it('should give the answer of DeepSeek’s worked example, slot by slot', () => {
    const { weight, physical_to_logical } = WORKED_EXAMPLE;
    const map = PLACE_EXPERTS.hierarchical(expertLoads([weight]), { layers: 2, experts: 12, slots: 16, ranks: 8, nodes: 2, groups: 4 });
    expect([...map.expertOfSlot]).toEqual(physical_to_logical.flat());
  });

  it('should select and place as xDeepServe §4.5 tells it, over any windows', () => {
    fc.assert(
      fc.property(SMALL, ({ shape, tokens }) => {
        const { expertOfSlot } = PLACE_EXPERTS.fixed_primaries(expertLoads(tokens), shape);
        const layers = Array.from({ length: shape.layers }, (_, layer) => tokens.map((window) => window[layer] ?? []));
        expect([...expertOfSlot]).toEqual(layers.flatMap((windows) => placeAsPaper(windows, shape)));
      }),
      { numRuns: runs(200) },
    );
  });

  it('should pack as DeepSeek’s code does, hierarchically and globally, over any windows', () => {
    fc.assert(
      fc.property(SMALL, ({ shape, tokens }) => {
        const loads = expertLoads(tokens);
        const layers = Array.from({ length: shape.layers }, (_, layer) => totalsOf(tokens, layer));
        const { groups, nodes } = shape;
        expect([...PLACE_EXPERTS.hierarchical(loads, shape).expertOfSlot]).toEqual(layers.flatMap((totals) => placeAsDeepSeek(totals, shape, groups, nodes)));
        expect([...PLACE_EXPERTS.global(loads, shape).expertOfSlot]).toEqual(layers.flatMap((totals) => placeAsDeepSeek(totals, shape, 1, 1)));
      }),
      { numRuns: runs(200) },
    );
  });

  it('should give plans to install in which no rank has an expert twice, with all experts and primaries where they belong, and none worse than before on real loads', () => {
    const twinsIn = ({ shape: { layers, slots, ranks }, expertOfSlot }: ExpertMap): number => {
      const each = slots / ranks;
      let twins = 0;
      for (let first = 0; first < layers * slots; first += each) {
        const held = expertOfSlot.subarray(first, first + each).filter((expert) => expert !== NO_EXPERT);
        twins += held.length - new Set(held).size;
      }
      return twins;
    };
    let before = 0;
    fc.assert(
      fc.property(SMALL, fc.constantFrom(...PLACEMENT_POLICIES), ({ shape, tokens }, policy) => {
        const loads = expertLoads(tokens);
        before += twinsIn(PLACE_EXPERTS[policy](loads, shape));
        const plan = installablePlan(policy, loads, shape);
        expect(twinsIn(plan)).toBe(0);
        const primaries = policy === 'fixed_primaries' ? PLACE_EXPERTS.native(loads, shape).expertOfSlot : [];
        for (const [at, expert] of primaries.entries()) if (expert !== NO_EXPERT) expect(plan.expertOfSlot[at]).toBe(expert);
      }),
      { numRuns: runs(60) },
    );
    expect(before).toBeGreaterThan(0);
    for (const domain of ['c4', 'github'] as const)
      for (const policy of ['global', 'fixed_primaries'] as const) {
        const [loads, shape] = [olmoeLoads(domain), OLMOE_SHAPE];
        const plan = PLACE_EXPERTS[policy](loads, shape);
        expect(twinsIn(plan)).toBeGreaterThan(0);
        expect(imbalance(installablePlan(policy, loads, shape), loads)).toBeLessThanOrEqual(imbalance(plan, loads) + 1e-9);
      }
  });

  it('should take the lowest id of equals, whichever window they are hot in, and add up in single precision as DeepSeek does', () => {
    const paper = PLACE_EXPERTS.fixed_primaries(expertLoads([[[0, 8]], [[8, 0]]]), { layers: 1, experts: 2, slots: 3, ranks: 1, nodes: 1, groups: 1 });
    expect([...paper.expertOfSlot]).toEqual([0, 1, 0]);
    // 2²⁴ + 1 is 2²⁴ there: the first rank is the lightest twice.
    const row = [2 ** 24, 2 ** 24, 1, 1, 0, 0];
    const packed = PLACE_EXPERTS.global(expertLoads([[row]]), { layers: 1, experts: 6, slots: 6, ranks: 2, nodes: 1, groups: 1 });
    expect([...packed.expertOfSlot]).toEqual([0, 2, 3, 1, 4, 5]);
  });

  it('should mirror each expert on two ranks as far as slots go, with as many of them on any rank', () => {
    const shape = { layers: 2, experts: 6, slots: 12, ranks: 3, nodes: 1, groups: 1 };
    const { expertOfSlot } = PLACE_EXPERTS.mirrored(expertLoads([[Array(6).fill(1), Array(6).fill(1)]]), shape);
    expect([...expertOfSlot.subarray(0, 12)]).toEqual([0, 3, 2, 5, 1, 4, 0, 3, 2, 5, 1, 4]);
    const few = PLACE_EXPERTS.mirrored(expertLoads([[Array(6).fill(1), Array(6).fill(1)]]), { ...shape, slots: 9 });
    expect([...few.expertOfSlot.subarray(9)]).toEqual([0, 3, 2, 1, 4, 0, 2, 5, 1]);
    // Of what one rank has the others serve what they have too; what they have not stays.
    expect([...mapSparing(few, new Set([0])).expertOfSlot.subarray(0, 9)]).toEqual([-1, 3, -1, 1, 4, 0, 2, 5, 1]);
  });

  it('should leave primaries where they are, where they are fixed', () => {
    const loads = olmoeLoads('github');
    const native = PLACE_EXPERTS.native(loads, OLMOE_SHAPE).expertOfSlot;
    const { expertOfSlot } = PLACE_EXPERTS.fixed_primaries(loads, OLMOE_SHAPE);
    const primaries = native.filter((expert) => expert !== NO_EXPERT);
    expect(native.every((expert, slot) => expert === NO_EXPERT || expert === expertOfSlot[slot])).toBe(true);
    expect(primaries.length).toBe(64 * 3);
    expect(expertOfSlot.includes(NO_EXPERT)).toBe(false);
  });

  it('should keep the experts of a group on one node, hierarchically, also where it keeps in place what it can', () => {
    const { layers, slots, nodes, experts, groups } = OLMOE_SHAPE;
    const present = PLACE_EXPERTS.hierarchical(olmoeLoads('c4'), OLMOE_SHAPE);
    for (const { expertOfSlot } of [present, planFrom(present, 'hierarchical', olmoeLoads('github'))]) {
      const nodesOfGroup = Array.from({ length: layers * groups }, () => new Set<number>());
      for (const [at, expert] of expertOfSlot.entries()) {
        const [layer, slot] = [Math.floor(at / slots), at % slots];
        nodesOfGroup[layer * groups + Math.floor(expert / (experts / groups))]?.add(Math.floor(slot / (slots / nodes)));
      }
      expect(nodesOfGroup.map(({ size }) => size)).toEqual(nodesOfGroup.map(() => 1));
    }
  });

  it.each([
    { policy: 'global', book: 1.09, c4: 1.03, github: 1.09, tulu: 1.05 },
    { policy: 'fixed_primaries', book: 1.2, c4: 1.2, github: 1.31, tulu: 1.11 },
    { policy: 'hierarchical', book: 1.15, c4: 1.07, github: 1.21, tulu: 1.15 },
  ] as const)('should make the ranks of OLMoE even on EP32 with one redundant slot each: $policy', ({ policy, ...limits }) => {
    for (const domain of ['book', 'c4', 'github', 'tulu'] as const) {
      const loads = olmoeLoads(domain);
      const even = imbalance(PLACE_EXPERTS[policy](loads, OLMOE_SHAPE), loads);
      expect(even, domain).toBeLessThanOrEqual(limits[domain]);
      expect(even, domain).toBeLessThan(imbalance(PLACE_EXPERTS.native(loads, OLMOE_SHAPE), loads) / 1.5);
    }
  });

  it('should predict for each layer the busiest rank’s tokens over the mean rank’s, over all windows', () => {
    const shape = { layers: 1, experts: 4, slots: 6, ranks: 2, nodes: 1, groups: 1 };
    const map = PLACE_EXPERTS.native(expertLoads([[[1, 1, 1, 1]]]), shape);
    // Ranks hold 0, 2 and 1, 3: 12 of 16, and 6 of 8.
    expect([...imbalanceByLayer(map, expertLoads([[[8, 1, 4, 3]], [[1, 6, 1, 0]]]))]).toEqual([((12 + 6) * 2) / 24]);
    expect([...imbalanceByLayer(map, expertLoads([[[0, 0, 0, 0]]]))]).toEqual([1]);
  });

  it('should spread what nobody asks for and what everybody does, and give the same map each time', () => {
    for (const policy of PLACEMENT_POLICIES) {
      for (const row of [new Array(64).fill(0), [1e9, ...new Array(63).fill(0)]]) {
        const loads = expertLoads([[row, row, row]]);
        expect(PLACE_EXPERTS[policy](loads, OLMOE_SHAPE)).toEqual(PLACE_EXPERTS[policy](loads, OLMOE_SHAPE));
      }
    }
  });

  it.each([
    { wrong: { slots: 95 }, says: /95 slots cannot be spread evenly over 32 ranks/ },
    { wrong: { slots: 32 }, says: /32 slots cannot hold 64 experts/ },
    { wrong: { nodes: 5 }, says: /32 ranks cannot be spread evenly over 5 nodes/ },
    { wrong: { groups: 7 }, says: /64 experts cannot be cut evenly into 7 groups/ },
    { wrong: { groups: 2 }, says: /2 groups cannot be dealt out evenly to 4 nodes; use the global policy/ },
    { wrong: { ranks: 0 }, says: /ranks must be a whole number from 1 on/ },
    { wrong: { experts: 32 }, says: /loads of 3 layers × 64 experts do not fit 3 layers × 32 experts/ },
  ])('should refuse what cannot be placed: $says', ({ wrong, says }) => {
    expect(() => PLACE_EXPERTS.hierarchical(olmoeLoads('c4'), { ...OLMOE_SHAPE, ...wrong })).toThrow(says);
  });

  it('should refuse loads that are none', () => {
    expect(() => expertLoads([])).toThrow(/there is no count/);
    expect(() =>
      expertLoads([
        [[1, 2]],
        [
          [1, 2],
          [3, 4],
        ],
      ]),
    ).toThrow(/window 1 has 2 layers, the first one 1/);
    expect(() => expertLoads([[[1, 2], [3]]])).toThrow(/layer 1 of window 0 has 1 experts, the first layer 2/);
    expect(() => expertLoads([[[1, -2]]])).toThrow(/expert 1 of layer 0, window 0, has -2 tokens/);
    expect(() => expertLoads([[[Number.NaN]]])).toThrow(/a count is 0 or more/);
    const most = Number.MAX_SAFE_INTEGER;
    expect(() => expertLoads([[[0, 0]], [[1e38, 3e38]]])).toThrow(/layer 0 has 4e\+38 tokens from window 0 to 1; at most 9007199254740991/);
    expect(() => expertLoads([[[most]], [[1]]])).toThrow(/at most/);
    const loads = expertLoads([[[most - 3, 1, 1, 1]]]);
    const shape = { layers: 1, experts: 4, slots: 6, ranks: 2, nodes: 1, groups: 1 };
    for (const place of Object.values(PLACE_EXPERTS)) expect(new Set(place(loads, shape).expertOfSlot.filter((expert) => expert >= 0)).size).toBe(4);
  });
});
