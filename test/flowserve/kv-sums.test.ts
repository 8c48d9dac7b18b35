/** Sums of KV at rest: any bit of what was written that is another one is found by the next step that reads it, and named. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import { plainChecksum } from '../../src/flowserve/distflow/checksum.ts';
import { KvDamage, KvSums } from '../../src/flowserve/kv-sums.ts';
import { runs } from '../property-runs.ts';
import { allocate, openMemory, type Place, SMALL } from './distflow/rig.ts';

const BLOCK = 16;
const HEADS = 2;

/** One sequence whose cells lie as GQA's do, in a layer by KV head; the last layer is a drafter's. `cells`: one word each. */
function makeSequence() {
  const memory = openMemory(allocate(SMALL));
  const { kv: place } = memory.places[0] as Place;
  const kv = { ...place, layers: SMALL.layers - 1, run_bytes: place.layer_bytes / HEADS };
  const sums = new KvSums(0, memory.space, kv, plainChecksum(memory.space));
  const words = memory.space.wordsOf(kv.address);
  const table = [5, 2, 9, 11];
  const tables = new Map([[3, table]]);
  const at = (position: number, run: number): number =>
    (offsetOf(kv.address) + (table[Math.floor(position / BLOCK)] as number) * kv.block_bytes + run * kv.run_bytes) / 4 +
    ((position % BLOCK) * kv.run_bytes) / 4 / BLOCK;
  const write = (position: number): void => {
    for (let run = 0; run < SMALL.layers * HEADS; run++) words[at(position, run)] = Math.imul(position + 1, 0x9e37_79b1) + run;
  };
  /** As a step does; `writes` false: up to where it would write. */
  const step = (start: number, count: number): void => {
    const entries = [{ slot: 3, start, tokens: new Array<number>(count).fill(1) }];
    sums.begin(entries, tables);
    for (let position = start; position < start + count; position++) write(position);
    sums.end(entries, tables);
  };
  const flip = (position: number, run: number, bit: number): void => {
    words[at(position, run)] = (words[at(position, run)] as number) ^ (1 << bit);
  };
  return { sums, table, step, flip, kv };
}

describe('sums of KV at rest', () => {
  it('should find every bit that is another one, in whole blocks and in the one that is written on, and name its block', () => {
    fc.assert(
      fc.property(
        fc.record({
          steps: fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 3 }),
          /** Drafts of the last step that were wrong. */
          wrong: fc.integer({ min: 0, max: 5 }),
          place: fc.nat(),
          run: fc.integer({ min: 0, max: (SMALL.layers - 1) * HEADS - 1 }),
          bit: fc.integer({ min: 0, max: 31 }),
        }),
        ({ steps, wrong, place, run, bit }) => {
          const { table, step, flip } = makeSequence();
          let end = 0;
          for (const count of steps) {
            step(end, count);
            end += count;
          }
          end -= Math.min(wrong, (steps.at(-1) as number) - 1);
          const position = place % end;
          flip(position, run, bit);
          let found: unknown = null;
          try {
            step(end, 1);
          } catch (error) {
            found = error;
          }
          expect(found).toBeInstanceOf(KvDamage);
          expect((found as KvDamage).blocks).toEqual([table[Math.floor(position / BLOCK)]]);
        },
      ),
      { numRuns: runs(200) },
    );
  });

  it('should find nothing in memory that is as it was, whatever is written over or behind it', () => {
    const { step } = makeSequence();
    step(0, 20);
    // Of drafts two were wrong; then a row is computed once more, and a prefix that others have written is gone on from.
    step(18, 5);
    step(22, 3);
    step(16, 1);
    step(17, 10);
  });

  it('should find one that is another while a step reads the block for one sequence and goes on within it for another, whichever comes first', () => {
    for (const order of [1, -1]) {
      const { sums, table, step, flip } = makeSequence();
      step(0, 20);
      // The last position of a shared prefix is computed once more by whoever begins with that.
      const entries = [
        { slot: 3, start: 20, tokens: [1] },
        { slot: 4, start: BLOCK - 1, tokens: [1, 1] },
      ].toSorted((a, b) => order * (a.slot - b.slot));
      const tables = new Map([
        [3, table],
        [4, [table[0] as number, 7]],
      ]);
      sums.begin(entries, tables);
      flip(3, 0, 7);
      expect(() => sums.end(entries, tables)).toThrow(KvDamage);
    }
  });

  it("should not mind a drafter's layers, which decide no token", () => {
    const { step, flip } = makeSequence();
    step(0, 20);
    flip(3, (SMALL.layers - 1) * HEADS, 7);
    step(20, 1);
  });

  it('should guard what was brought from elsewhere, and cut the sum of its end where that is written on', () => {
    const { sums, table, step, flip } = makeSequence();
    step(0, 20);
    sums.arrived(table.slice(0, 2));
    step(20, 1);
    sums.arrived(table.slice(0, 2));
    flip(18, 0, 1);
    expect(() => step(21, 1)).toThrow(/1 KV blocks of NPU 0 do not hold what was written there: 2/);
  });
});
