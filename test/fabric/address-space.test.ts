/** Global memory: regions lie apart, each in one segment, and bytes move between segments. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GUARD_BYTES, globalAddress, offsetOf, segmentOf } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { Arena } from '../../src/fabric/arena.ts';
import { allocateSegments, planMemory, SEGMENT_HEAD_BYTES } from '../../src/fabric/memory-plan.ts';

describe('planning memory', () => {
  it('keeps regions apart, inside of one segment, aligned, off the guard page, in the order asked for', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 400_000 }), { minLength: 1, maxLength: 30 }), (sizes) => {
        const plan = planMemory(
          sizes.map((bytes, index) => ({ owner: `npu/${index}`, kind: 'hbm', bytes })),
          9 * 65_536,
          2 ** 40,
        );
        const spans = plan.regions.map(({ base, bytes }) => ({ segment: segmentOf(base), from: offsetOf(base), to: offsetOf(base) + bytes }));
        for (const [index, { segment, from, to }] of spans.entries()) {
          expect(from % 128).toBe(0);
          expect(from).toBeGreaterThanOrEqual(plan.regions[index]?.kind === 'control' ? GUARD_BYTES : SEGMENT_HEAD_BYTES);
          expect(to).toBeLessThanOrEqual(plan.segments[segment]?.bytes ?? 0);
          expect(to - from).toBeGreaterThanOrEqual(sizes[index - plan.segments.length] ?? 0);
          for (const other of spans.slice(0, index)) expect(other.segment !== segment || other.to <= from || to <= other.from).toBe(true);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('refuses what does not fit, with the sum', () => {
    const request = { owner: 'npu/0', kind: 'hbm', bytes: 3 * 2 ** 20 } as const;
    expect(() => planMemory([request], 2 ** 21, 2 ** 30)).toThrow(/needs 3\.0 MiB, a segment holds 1\.9 MiB/);
    expect(() =>
      planMemory(
        [
          { ...request, parts: { weights: 2 ** 22, 'KV blocks': 2 ** 20 } },
          { ...request, owner: 'npu/1' },
        ],
        2 ** 24,
        2 ** 22,
      ),
    ).toThrow(/memory_bytes grants 4\.0 MiB: weights 4\.0 MiB \+ KV blocks 1\.0 MiB \+ hbm 3\.0 MiB/);
  });
});

describe('an address space', () => {
  const plan = planMemory(
    [1, 2, 3].map((npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes: 70_000 })),
    4 * 65_536,
    2 ** 30,
  );
  const space = new AddressSpace(allocateSegments(plan), plan.regions);

  it('copies within and between segments', () => {
    expect(plan.segments.length).toBe(3);
    const [first, second, third] = plan.regions.filter(({ kind }) => kind === 'hbm').map(({ base }) => base) as [number, number, number];
    space.bytesAt(first, 5_000).forEach((_, index, bytes) => {
      bytes[index] = (index * 13) & 0xff;
    });
    space.copy(second + 8, first, 5_000);
    space.copy(third, second + 8, 5_000);
    space.copy(first + 10_000, third, 5_000);
    expect([...space.bytesAt(first + 10_000, 5_000)]).toEqual([...space.bytesAt(first, 5_000)]);
    expect(space.bytesAt(second, 8).every((byte) => byte === 0)).toBe(true);
    expect(() => space.copy(first, globalAddress(1, 4 * 65_536 - 10), 100)).toThrow();
  });

  it('knows what no region is', () => {
    expect(() => space.bytesAt(12, 4)).toThrow(/outside of their segment/);
    expect(() => space.bytesAt(globalAddress(9, 70_000), 4)).toThrow(/segment 9 of 3/);
    expect(() => space.region('npu/9', 'hbm')).toThrow(/no hbm region of npu\/9/);
    const arena = new Arena(globalAddress(2, 65_536), 200);
    expect([arena.allocate(3), arena.allocate(100)]).toEqual([globalAddress(2, 65_536), globalAddress(2, 65_600)]);
    expect(() => arena.allocate(100)).toThrow(/arena/);
  });
});
