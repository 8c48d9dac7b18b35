/** Global memory: regions lie apart, each in one segment, and bytes move between segments. */
import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GUARD_BYTES, globalAddress, offsetOf, segmentOf } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { Arena } from '../../src/fabric/arena.ts';
import { allocateSegments, planMemory, SEGMENT_HEAD_BYTES, segmentsFor } from '../../src/fabric/memory-plan.ts';
import { runs } from '../property-runs.ts';
import { SEGMENTS } from './segments.ts';
import { payloadOf } from './two-threads.ts';

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
      { numRuns: runs(100) },
    );
  });

  it('fills a segment to its last byte before it takes another', () => {
    const planOf = (spare: number) => {
      const requests = [256, 128].map((bytes, index) => ({ owner: `npu/${index}`, kind: 'hbm' as const, bytes }));
      return planMemory(requests, SEGMENT_HEAD_BYTES + 3 * 128 - spare, 2 ** 40).segments.length;
    };
    expect([planOf(0), planOf(1)]).toEqual([1, 2]);
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
    ).toThrow(/memory_bytes grants 4\.0 MiB: use fewer NPUs, .* or larger memory_bytes \(in all: weights 4\.0 MiB \+ KV blocks 1\.0 MiB \+ hbm 3\.0 MiB/);
  });
});

it('memory of a pod that is over is there for one that is planned alike, with nothing in it, and for no other', () => {
  const planOf = (bytes: number) => planMemory([{ owner: 'npu/0', kind: 'hbm', bytes }], 2 ** 24, 2 ** 30);
  const used = segmentsFor(planOf(300_000));
  const words = new Int32Array((used[0] as WebAssembly.Memory).buffer);
  const [first, last] = [0, words.length - 1];
  for (const at of [first, 20_000, last]) words[at] = at + 1;
  expect(segmentsFor(planOf(600_000), used)).not.toBe(used);
  expect([words[first], words[last]]).toEqual([first + 1, last + 1]);
  expect(segmentsFor(planOf(300_000), used)).toBe(used);
  expect(words.every((word) => word === 0)).toBe(true);
});

describe.each(SEGMENTS)('an address space of %i segments', (segments) => {
  const SEGMENT_BYTES = 4 * 65_536;
  // Two fit a segment.
  const plan = planMemory(
    Array.from({ length: 2 * segments }, (_, npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes: 60_000 })),
    SEGMENT_BYTES,
    2 ** 30,
  );
  const space = new AddressSpace(allocateSegments(plan), plan.regions);
  const bases = plan.regions.filter(({ kind }) => kind === 'hbm').map(({ base }) => base);

  it('copies from each region to each, within and between segments, and nothing beside', () => {
    expect(plan.segments.length).toBe(segments);
    const BYTES = 5_000;
    bases.forEach((base, index) => {
      space.bytesAt(base, BYTES).set(payloadOf(index, BYTES));
    });
    for (const [from, source] of bases.entries()) {
      for (const base of bases) {
        const target = base + 30_000;
        const around = space.bytesAt(target - 8, BYTES + 16).fill(0);
        space.copy(target, source, BYTES);
        expect(Buffer.compare(around.subarray(8, 8 + BYTES), payloadOf(from, BYTES))).toBe(0);
        expect([...around.subarray(0, 8), ...around.subarray(8 + BYTES)].every((byte) => byte === 0)).toBe(true);
      }
    }
    expect(() => space.copy(bases[0] as number, globalAddress(segments - 1, SEGMENT_BYTES - 10), 100)).toThrow();
  });

  it('copies rows that lie a stride apart, and nothing between them', () => {
    const [first, last] = [bases[0] as number, bases.at(-1) as number];
    const source = space.bytesAt(first, 5 * 40);
    source.set(payloadOf(7, source.length));
    const target = space.bytesAt(last + 30_000, 5 * 40).fill(0);
    space.copyRows(last + 30_000, first, 24, 4, 40);
    expect([...target]).toEqual([...source].map((byte, at) => (at < 4 * 40 && at % 40 < 24 ? byte : 0)));
    target.fill(0);
    space.copyRows(last + 30_000, first, 24, 0, 40);
    expect(target.every((byte) => byte === 0)).toBe(true);
  });

  it('knows what no region is', () => {
    expect(() => space.bytesAt(12, 4)).toThrow(/outside of their segment/);
    expect(() => space.bytesAt(globalAddress(9, 70_000), 4)).toThrow(`segment 9 of ${segments}`);
    expect(() => space.region('npu/99', 'hbm')).toThrow(/no hbm region of npu\/99/);
  });
});

it('an arena gives out what it has, on cache lines, and no more', () => {
  const arena = new Arena(globalAddress(2, 65_536), 200);
  expect([arena.allocate(3), arena.allocate(100)]).toEqual([globalAddress(2, 65_536), globalAddress(2, 65_600)]);
  expect(() => arena.allocate(100)).toThrow(/arena/);
});
