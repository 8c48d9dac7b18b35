/** Which changes of a round are one broadcast. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { sharedWeights } from '../../../actors/policies/expert-placement/broadcast-weights.ts';
import { NO_EXPERT } from '../../../actors/policies/expert-placement/expert-map.ts';
import { runs } from '../../property-runs.ts';

const SLOTS_EACH = 4;
const npuOf = (slot: number): number => 10 + Math.floor(slot / SLOTS_EACH);

it('those that bring what one slot has to several other NPUs, once to each; numbered as their first', () => {
  const change = (slot: number, source: number, layer = 0, expert = 5) => ({ layer, slot, expert, source });
  const changes = [
    change(4, 0),
    // Beside the source; to one NPU alone; of another layer; from the checkpoint; emptied.
    ...[change(1, 0), change(9, 5), change(8, 0, 1), change(12, -1, 0, 6), change(13, -1, 0, 6), change(14, -1, 0, NO_EXPERT)],
    change(8, 0),
    // A second slot of an NPU that has it then.
    change(9, 0),
    change(12, 0),
  ];
  expect(sharedWeights(changes, 70, npuOf)).toEqual([{ layer: 0, source: 0, changes: [0, 7, 9], broadcast: { number: 70, npus: [10, 11, 12, 13] } }]);
});

it('no change in two, no NPU twice in one, and no two of one number', () => {
  const slot = fc.nat(5 * SLOTS_EACH - 1);
  const drawn = fc.record({ layer: fc.nat(1), slot, source: slot, expert: fc.constant(3) });
  fc.assert(
    fc.property(fc.array(drawn, { maxLength: 30 }), fc.nat(99), (changes, first) => {
      const shared = sharedWeights(changes, first, npuOf);
      const all = shared.flatMap((one) => one.changes);
      expect(new Set(all).size).toBe(all.length);
      expect(new Set(shared.map(({ broadcast }) => broadcast.number)).size).toBe(shared.length);
      for (const { layer, source, changes: of, broadcast } of shared) {
        expect(of.length).toBeGreaterThan(1);
        expect(new Set(broadcast.npus).size).toBe(of.length + 1);
        expect(broadcast.npus).toEqual([npuOf(source), ...of.map((index) => npuOf(changes[index]?.slot ?? -1))]);
        for (const index of of) expect(changes[index]).toMatchObject({ layer, source });
      }
    }),
    { numRuns: runs(200) },
  );
});
