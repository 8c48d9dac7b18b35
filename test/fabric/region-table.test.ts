/** Who may touch what: an access outside, in quarantine or of an epoch that is over is an error that says so, never a silent read. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addressText, offsetOf, segmentOf } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { allocateSegments, planMemory } from '../../src/fabric/memory-plan.ts';
import { epochOfRegion } from '../../src/flowserve/distflow/region-epoch.ts';
import { runs } from '../property-runs.ts';
import { SEGMENTS } from './segments.ts';

/** Regions of several sizes, spread over so many small segments. */
function makeSpace(segments: number): AddressSpace {
  const requests = Array.from({ length: segments * 3 }, (_, npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes: 19_000 + npu * 128 }));
  const plan = planMemory(requests, 3 * 65_536, 2 ** 30);
  expect(plan.segments.length).toBe(segments);
  return new AddressSpace(allocateSegments(plan), plan.regions);
}

describe.each(SEGMENTS)('the region table over %i segments', (segments) => {
  const space = makeSpace(segments);
  const { table, regions } = space;

  it('finds the one region that holds an access, and refuses every other', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: segments - 1 }),
        fc.integer({ min: 0, max: 3 * 65_536 + 100 }),
        fc.integer({ min: 1, max: 30_000 }),
        (segment, offset, bytes) => {
          const address = segment * 2 ** 32 + offset;
          const holder = regions.findIndex(
            ({ base, bytes: size }) => segmentOf(base) === segment && offsetOf(base) <= offset && offset + bytes <= offsetOf(base) + size,
          );
          expect(epochOfRegion(space, address, bytes)).toBe(holder >= 0 ? table.epochOf(holder) : -1);
          if (holder >= 0) expect(table.check(address, bytes, 'read', 'npu/9')).toBe(holder);
          else expect(() => table.check(address, bytes, 'read', 'npu/9')).toThrow(/^npu\/9 may not read/);
        },
      ),
      { numRuns: runs(300) },
    );
  });

  it('names region, owner and access', () => {
    const region = regions.find(({ owner }) => owner === 'npu/1');
    if (region === undefined) throw new Error('no region');
    const end = region.base + region.bytes;
    expect(() => table.check(end - 8, 64, 'write', 'npu/0')).toThrow(
      `npu/0 may not write 64 bytes at ${addressText(end - 8)}: 56 of them lie past the end of hbm of npu/1 (${region.bytes} bytes from ${addressText(region.base)})`,
    );
    expect(() => table.check(12, 4, 'read', 'npu/0')).toThrow(/at 0:0xc: no region is there/);
    expect(() => table.check((segments + 3) * 2 ** 32 + 70_000, 4, 'read', 'npu/0')).toThrow(/no region is there/);
  });

  it('refuses what is quarantined, free, or meant for an epoch that is over', () => {
    const index = table.indexOf('npu/2', 'hbm');
    const { base } = regions[index] as (typeof regions)[number];
    const epoch = table.epochOf(index);
    expect(table.check(base, 8, 'read', 'npu/0', epoch)).toBe(index);
    table.raiseEpoch(index);
    expect(() => table.check(base, 8, 'read', 'npu/0', epoch)).toThrow(`it means epoch ${epoch} of hbm of npu/2, which is in epoch ${epoch + 1}`);
    for (const state of ['quarantined', 'free'] as const) {
      table.setState(index, state);
      expect(() => table.check(base, 8, 'write', 'npu/0')).toThrow(`hbm of npu/2 is ${state}`);
    }
    table.setState(index, 'held');
    expect(table.check(base, 8, 'write', 'npu/0', epoch + 1)).toBe(index);
    expect(table.report()[index]).toMatchObject({ owner: 'npu/2', kind: 'hbm', state: 'held', epoch: epoch + 1 });
  });

  it('is seen by another thread’s view of the same memory, stop words and epochs in every segment', () => {
    const other = new AddressSpace(space.memories, regions);
    table.setState(3, 'quarantined');
    space.control.stop(7);
    space.control.raiseEpochOfDie(5);
    expect(other.table.stateOf(3)).toBe('quarantined');
    expect(other.control.isStopped(7)).toBe(true);
    expect(other.control.epochOfDie(5)).toBe(2);
    for (const memory of space.memories) expect(new Int32Array(memory.buffer)[space.control.stopWordOffset(7) / 4]).toBe(1);
    space.control.reset(7);
    for (const memory of space.memories) expect(new Int32Array(memory.buffer)[space.control.stopWordOffset(7) / 4]).toBe(0);
    table.setState(3, 'held');
  });
});
