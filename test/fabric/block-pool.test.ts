/** Blocks of one size: who holds which is exact, and nobody reads or frees what is not his. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { BlockPool } from '../../src/fabric/block-pool.ts';
import { allocateSegments, planMemory } from '../../src/fabric/memory-plan.ts';
import { SEGMENTS } from './segments.ts';

const BLOCKS = 12;
const BLOCK_BYTES = 256;

function makePool(segments: number): { readonly space: AddressSpace; readonly pool: BlockPool; readonly base: number } {
  const requests = Array.from({ length: segments }, (_, npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes: 40_000 }));
  const plan = planMemory(requests, 3 * 65_536, 2 ** 30);
  const space = new AddressSpace(allocateSegments(plan), plan.regions);
  const { base } = space.region(`npu/${segments - 1}`, 'hbm');
  return { space, base, pool: new BlockPool(space, { name: 'KV of npu/1', table: base, base: base + 4_096, block_bytes: BLOCK_BYTES, blocks: BLOCKS }) };
}

const step = fc.record({
  act: fc.constantFrom('hold', 'free', 'find'),
  block: fc.integer({ min: 0, max: BLOCKS - 1 }),
  holder: fc.integer({ min: 0, max: 3 }),
});

describe.each(SEGMENTS)('a pool of blocks over %i segments', (segments) => {
  it('knows exactly who holds what, the most that ever was, and refuses everything else', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const { pool, base } = makePool(segments);
        const held = new Map<number, number>();
        let most = 0;
        for (const { act, block, holder } of steps) {
          const owner = held.get(block);
          if (act === 'hold' && owner === undefined) {
            pool.hold(block, holder);
            held.set(block, holder);
          } else if (act === 'hold')
            expect(() => pool.hold(block, holder)).toThrow(`block ${block} of KV of npu/1 is held by ${owner}, and ${holder} was given it`);
          else if (act === 'free' && owner === holder) {
            pool.free(block, holder);
            held.delete(block);
          } else if (act === 'free') expect(() => pool.free(block, holder)).toThrow(`held by ${owner ?? 'nobody'}, and ${holder} frees it`);
          else if (owner === holder) expect(pool.addressOf(block, holder)).toBe(base + 4_096 + block * BLOCK_BYTES);
          else expect(() => pool.addressOf(block, holder)).toThrow(owner === undefined ? /is free, and/ : /is held by \d, and/);
          most = Math.max(most, held.size);
          expect([pool.used, pool.high_water]).toEqual([held.size, most]);
        }
        const expected = new Map<number, number[]>();
        for (const [block, holder] of [...held].sort(([a], [b]) => a - b)) expected.set(holder, [...(expected.get(holder) ?? []), block]);
        expect(new Map([...pool.holders()].sort())).toEqual(new Map([...expected].sort()));
      }),
      { numRuns: 100 },
    );
  });

  it('has no blocks beyond its last', () => {
    const { pool } = makePool(segments);
    expect(() => pool.addressOf(BLOCKS, 0)).toThrow('KV of npu/1 has 12 blocks, 0 asked for block 12');
    expect(() => pool.addressOf(-1, 0)).toThrow('asked for block -1');
  });
});
