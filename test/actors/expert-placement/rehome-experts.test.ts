/** Experts whose NPUs are lost for good: where they come to lie, what stays, and what has no room. */
import { describe, expect, it } from 'vitest';
import { type ExpertMap, expertMap } from '../../../actors/policies/expert-placement/expert-map.ts';
import { planRounds } from '../../../actors/policies/expert-placement/map-rounds.ts';
import { type Rehomed, rehomeExperts, slotsOf, withReturned } from '../../../actors/policies/expert-placement/rehome-experts.ts';
import { SeededRandom } from '../../../src/runtime/seeded-random.ts';

const LETTERS = 'ABCDEFGHIJ';
/** A layer, as in the header of rehome-experts.ts. */
function mapOf(text: string): ExpertMap {
  const ranks = text.split('|').map((rank) => rank.trim().split(' '));
  const slots = ranks.flat().map((letter) => LETTERS.indexOf(letter));
  return expertMap(
    { layers: 1, experts: Math.max(...slots) + 1, slots: slots.length, ranks: ranks.length, nodes: 1, groups: 1 },
    Int32Array.from(slots, (expert) => Math.max(-1, expert)),
  );
}
function textOf({ shape, expertOfSlot }: ExpertMap): string {
  const each = shape.slots / shape.ranks;
  const letters = [...expertOfSlot].map((expert) => LETTERS[expert] ?? '·');
  return Array.from({ length: shape.ranks }, (_, rank) => letters.slice(rank * each, (rank + 1) * each).join(' ')).join(' | ');
}
/** All ranks that live have room. */
const rehomed = (map: ExpertMap, gone: readonly number[], waiting: readonly number[] = []): Rehomed => {
  const away = new Set([...gone, ...waiting]);
  return rehomeExperts(map, new Set(gone), away, [Array.from({ length: map.shape.ranks }, (_, rank) => rank).filter((rank) => !away.has(rank))]);
};

describe('experts of a rank that is gone', () => {
  it('should go into free slots of those that have most, and what others have stays', () => {
    const { there, wanted, loaded, lost } = rehomed(mapOf('A B · | C A · | D B ·'), [2]);
    expect([textOf(there), textOf(wanted)]).toEqual(['A B · | C A · | D · ·', 'A B D | C A · | · · ·']);
    expect([loaded, lost]).toEqual([[{ layer: 0, expert: 3 }], []]);
    expect(textOf(rehomed(mapOf('A · · | B C · | D E ·'), [2]).wanted)).toBe('A D E | B C · | · · ·');
  });

  it('should take slots of experts that keep another replica, where none is free', () => {
    const { wanted, loaded } = rehomed(mapOf('A B | C B | D E'), [2]);
    expect(textOf(wanted)).toBe('A D | C B | · E');
    expect(loaded).toHaveLength(1);
  });

  it('should stay, and be named, where there is no room', () => {
    const { there, wanted, lost } = rehomed(mapOf('A B | C D'), [1]);
    expect([textOf(there), textOf(wanted)]).toEqual(['A B | C D', 'A B | C D']);
    expect(lost).toEqual([
      { layer: 0, expert: 2 },
      { layer: 0, expert: 3 },
    ]);
  });

  it('should be waited for where a successor is to bring them back', () => {
    const { wanted, loaded, lost } = rehomed(mapOf('A · | B C | C ·'), [1], [2]);
    // B is nowhere else; C is on rank 2, which comes back.
    expect(textOf(wanted)).toBe('A B | · · | C ·');
    expect([loaded.length, lost.length]).toEqual([1, 0]);
  });

  it('should have it again when it is back, as far as nobody else has put something there', () => {
    const before = mapOf('A B · | C A · | D B ·');
    expect(textOf(withReturned(rehomed(before, [2]).wanted, 2, slotsOf(before, 2)))).toBe('A B D | C A · | D B ·');
  });

  it('should never be nowhere on the way, nor lie twice on one rank, whatever the map: 500 of them', () => {
    const random = new SeededRandom(7);
    const below = (count: number): number => random.uint32() % count;
    for (let run = 0; run < 500; run++) {
      const [layers, ranks, experts] = [1 + below(3), 2 + below(4), 2 + below(8)];
      const each = Math.ceil(experts / ranks) + below(3);
      const shape = { layers, experts, slots: each * ranks, ranks, nodes: 1, groups: 1 };
      const slots = Int32Array.from({ length: layers * shape.slots }, () => -1);
      for (let layer = 0; layer < layers; layer++) {
        const free = Array.from({ length: shape.slots }, (_, slot) => slot).sort(() => below(3) - 1);
        for (let expert = 0; expert < experts; expert++) slots[layer * shape.slots + (free.pop() as number)] = expert;
        for (let extra = below(free.length + 1); extra > 0; extra--) {
          const slot = free.pop() as number;
          const first = layer * shape.slots + slot - (slot % each);
          const expert = below(experts);
          if (!slots.subarray(first, first + each).includes(expert)) slots[layer * shape.slots + slot] = expert;
        }
      }
      const map = expertMap(shape, slots);
      const gone = [below(ranks)];
      const { there, wanted, loaded, lost } = rehomed(map, gone);
      const goneOf = ({ expertOfSlot }: ExpertMap): number =>
        [...expertOfSlot].filter((expert, at) => expert >= 0 && gone.includes(Math.floor((at % shape.slots) / each))).length;
      expect(goneOf(there)).toBe(loaded.length + lost.length);
      expect(goneOf(wanted)).toBe(lost.length);
      expect(planRounds(there, wanted)).not.toBe(null);
      for (let layer = 0; layer < layers; layer++)
        for (let rank = 0; rank < ranks; rank++) {
          const held = [...wanted.expertOfSlot.subarray(layer * shape.slots + rank * each, layer * shape.slots + (rank + 1) * each)].filter(
            (expert) => expert >= 0,
          );
          const before = [...map.expertOfSlot.subarray(layer * shape.slots + rank * each, layer * shape.slots + (rank + 1) * each)].filter(
            (expert) => expert >= 0,
          );
          if (new Set(before).size === before.length) expect(new Set(held).size).toBe(held.length);
        }
    }
  });
});
