/** Blocks of one size: who holds which is exact, and nobody reads or frees what is not his. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { BlockPool, type BlockPoolPlace } from '../../src/fabric/block-pool.ts';
import { allocateSegments, planMemory } from '../../src/fabric/memory-plan.ts';
import { runs } from '../property-runs.ts';
import { SEGMENTS } from './segments.ts';

const BLOCKS = 12;
const BLOCK_BYTES = 256;

type Made = { readonly space: AddressSpace; readonly pool: BlockPool; readonly place: BlockPoolPlace; readonly base: number };
function makePool(segments: number): Made {
  const requests = Array.from({ length: segments }, (_, npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes: 40_000 }));
  const plan = planMemory(requests, 3 * 65_536, 2 ** 30);
  const space = new AddressSpace(allocateSegments(plan), plan.regions);
  const { base } = space.region(`npu/${segments - 1}`, 'hbm');
  const place = { name: 'KV of npu/1', table: base, generations: base + 2_048, base: base + 4_096, block_bytes: BLOCK_BYTES, blocks: BLOCKS };
  return { space, base, place, pool: new BlockPool(space, place) };
}

const step = fc.record({ act: fc.constantFrom('hold', 'share', 'free', 'find'), block: fc.integer({ min: 0, max: BLOCKS - 1 }) });

describe.each(SEGMENTS)('a pool of blocks over %i segments', (segments) => {
  it('knows exactly how many hold what, the most that ever were, and gives nobody to write what others hold', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const { pool, base } = makePool(segments);
        const held = new Map<number, number>();
        const generations = Array.from({ length: BLOCKS }, () => 1);
        let most = 0;
        for (const { act, block } of steps) {
          const holders = held.get(block) ?? 0;
          if (act === 'share') {
            pool.share(block);
            held.set(block, holders + 1);
          } else if (act === 'hold' && holders === 0) {
            pool.hold(block);
            held.set(block, 1);
            generations[block] = (generations[block] as number) + 1;
          } else if (act === 'hold')
            expect(() => pool.hold(block)).toThrow(`block ${block} of KV of npu/1 is held by ${holders}, and was given out to be written`);
          else if (act === 'free' && holders === 0) expect(() => pool.free(block)).toThrow(`block ${block} of KV of npu/1 is freed, and nobody holds it`);
          else if (act === 'free') {
            pool.free(block);
            if (holders === 1) held.delete(block);
            else held.set(block, holders - 1);
          } else if (holders > 0) expect(pool.addressOf(block)).toBe(base + 4_096 + block * BLOCK_BYTES);
          else expect(() => pool.addressOf(block)).toThrow(/is asked for, and nobody holds it/);
          most = Math.max(most, held.size);
          expect([pool.used, pool.high_water]).toEqual([held.size, most]);
          expect(Array.from({ length: BLOCKS }, (_, at) => pool.generationOf(at))).toEqual(generations);
        }
        expect(new Map([...pool.holders()].sort())).toEqual(new Map([...held].sort()));
      }),
      { numRuns: runs(100) },
    );
  });

  it('gives no generation a second time, whoever has the region next', () => {
    const { space, pool, place } = makePool(segments);
    pool.hold(3);
    const before = [3, 4].map((block) => pool.generationOf(block));
    const next = new BlockPool(space, place);
    expect([3, 4].map((block) => next.generationOf(block))).toEqual(before.map((generation) => generation + 1));
  });

  it('has no blocks beyond its last', () => {
    const { pool } = makePool(segments);
    expect(() => pool.addressOf(BLOCKS)).toThrow('KV of npu/1 has 12 blocks, and block 12 was asked for');
    expect(() => pool.hold(-1)).toThrow('and block -1 was asked for');
  });
});
