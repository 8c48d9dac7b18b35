/** Broadcast: every rank ends with the root's bytes, by either form, or with an error that says who is missing. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type BroadcastForm, broadcast, childrenOf, parentOf } from '../../src/xccl/broadcast.ts';
import { createDomain, destroyDomain, recreateWithout } from '../../src/xccl/domain.ts';
import type { Operation } from '../../src/xccl/operation.ts';
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { SEGMENTS, TRIED } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import type { BroadcastsArgs, BroadcastsResult } from './broadcasts.ts';
import { errorOf } from './pair.ts';
import { type Dies, expectedBytes, fillBytes, makeDies, randomPick, run, succeed } from './rig.ts';
import { onThreads } from './rig-threads.ts';

const SLOT = 256;
const SIZES = [0, 1, SLOT - 1, SLOT, SLOT + 1, 9 * SLOT + 5, 20_000];
const FORMS: readonly BroadcastForm[] = ['tree', 'multi-reader'];
const GUARD = 0xa5;

const makeRanks = (count: number, segments = 2): Dies & { readonly ends: PointToPoint[] } => {
  const rig = makeDies(count, { segments, sizes: { slot_bytes: SLOT }, app_bytes: 32_768 });
  return { ...rig, ends: rig.endpoints.map((endpoint) => new PointToPoint(endpoint)) };
};

type Case = { readonly root: number; readonly bytes: number; readonly form: BroadcastForm; readonly event?: number; readonly timeout_ms?: number };

/** Every rank's part; the root's bytes are filled, the others' are guards. */
function start(
  { ends, apps, space, domain }: ReturnType<typeof makeRanks>,
  { root, bytes, form, event = 1, timeout_ms = 1_000 }: Case,
  of = domain,
): Operation[] {
  return of.dies.map((die, rank) => {
    const { address } = apps[die] as { address: number };
    space.bytesAt(address, bytes + 2 * 64).fill(GUARD);
    if (rank === root) fillBytes(space.bytesAt(address + 64, bytes), 7);
    return broadcast(ends[die] as PointToPoint, { domain: of, root, event, address: address + 64, bytes, form, timeout_ms });
  });
}

const hasBytes = ({ apps, space }: Dies, die: number, bytes: number): boolean => {
  const around = space.bytesAt((apps[die] as { address: number }).address, bytes + 128);
  const isGuarded = [around.subarray(0, 64), around.subarray(64 + bytes)].every((guard) => guard.every((byte) => byte === GUARD));
  return isGuarded && Buffer.compare(Buffer.from(around.subarray(64, 64 + bytes)), expectedBytes(bytes, 7)) === 0;
};

it('a tree reaches every rank once, from any root, and nobody sends more than log₂ n times', () => {
  for (let ranks = 1; ranks <= 70; ranks++) {
    for (const root of new Set([0, ranks >> 1, ranks - 1])) {
      const reached = Array.from({ length: ranks }, (_, rank) => childrenOf(rank, root, ranks)).flat();
      expect(reached.sort((a, b) => a - b)).toEqual(Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => rank !== root));
      for (let rank = 0; rank < ranks; rank++) {
        for (const child of childrenOf(rank, root, ranks)) expect(parentOf(child, root, ranks)).toBe(rank);
        expect(childrenOf(rank, root, ranks).length).toBeLessThanOrEqual(Math.ceil(Math.log2(ranks)));
      }
      expect(parentOf(root, root, ranks)).toBe(-1);
    }
  }
});

describe.each(FORMS)('%s', (form) => {
  it.each(SEGMENTS)('brings the root’s bytes to all ranks, whatever the size, the root and the order, in %i segments', (segments) => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), fc.nat(11), fc.constantFrom(...SIZES), fc.integer(), (count, root, bytes, seed) => {
        const ranks = makeRanks(count, segments);
        // More than one in a row, from different roots.
        for (const event of [1, 2]) {
          const operations = start(ranks, { root: (root + event) % count, bytes, form, event });
          succeed(operations, { pick: randomPick(seed + event) });
          for (let die = 0; die < count; die++) expect(hasBytes(ranks, die, bytes), `die ${die}`).toBe(true);
        }
      }),
      { numRuns: runs(40) },
    );
  });

  it('serves 64 ranks', () => {
    const ranks = makeRanks(64, 5);
    succeed(start(ranks, { root: 17, bytes: 20_000, form }), { pick: randomPick(5) });
    for (let die = 0; die < 64; die++) expect(hasBytes(ranks, die, 20_000)).toBe(true);
    // The root's memory is read by all, or by those that it sends to.
    expect(ranks.ends[17]?.counters.sends).toBe(form === 'tree' ? 6 : 63);
  });

  it('names the rank that is silent, at every rank that waits for it in the end', () => {
    for (const silent of [0, 1, 2, 4, 7]) {
      const ranks = makeRanks(8);
      const operations = start(ranks, { root: 0, bytes: 600, form, timeout_ms: 50 });
      const others = operations.filter((_, rank) => rank !== silent);
      for (let round = 0; round < 200; round++) for (const operation of others) operation.poll();
      ranks.clock.advance(50);
      const ends = run(others);
      const errors = ends.map(errorOf).filter((message) => message !== 'done');
      expect(errors.length).toBeGreaterThan(0);
      for (const message of errors) expect(message).toMatch(new RegExp(`^deadline_exceeded: .* for rank ${silent}$`));
    }
  });

  it('whose rank is given up ends at every rank, with the bytes or with an error', () => {
    fc.assert(
      fc.property(fc.integer(), fc.nat(7), fc.nat(7), fc.nat(60), (seed, root, lost, step) => {
        const ranks = makeRanks(8);
        const operations = start(ranks, { root, bytes: 3_000, form, timeout_ms: 50 });
        const pick = randomPick(seed);
        for (let poll = 0; poll < step; poll++) operations[pick(8)]?.poll();
        ranks.space.control.raiseEpochOfDie(lost);
        ranks.space.bytesAt((ranks.apps[lost] as { address: number }).address + 64, 3_000).fill(0xee);
        for (let poll = 0; poll < 400; poll++) operations[pick(8)]?.poll();
        ranks.clock.advance(50);
        for (const [rank, end] of run(operations, { pick }).entries()) {
          if (end.state === 'done' && rank !== lost) expect(hasBytes(ranks, rank, 3_000)).toBe(true);
          else if (rank !== lost) expect(errorOf(end)).toMatch(/^(worker_failed|deadline_exceeded|cancelled)/);
        }
      }),
      { numRuns: runs(60) },
    );
  });

  it('in a domain that is destroyed ends everywhere, and comes through in the next, without a rank', () => {
    fc.assert(
      fc.property(fc.integer(), fc.nat(40), fc.nat(5), fc.constantFrom(...SEGMENTS), (seed, step, lost, segments) => {
        const ranks = makeRanks(6, segments);
        const operations = start(ranks, { root: 2, bytes: 3_000, form });
        const pick = randomPick(seed);
        for (let poll = 0; poll < step; poll++) operations[pick(6)]?.poll();
        const next = recreateWithout(ranks.space.control, ranks.domain, lost);
        for (const operation of operations) expect(errorOf(operation.poll())).toMatch(/^(done|closed: .*domain 0 was destroyed while it was under way)$/);
        succeed(start(ranks, { root: 4, bytes: 3_000, form }, next), { pick });
        for (const die of next.dies) expect(hasBytes(ranks, die, 3_000)).toBe(true);
        destroyDomain(ranks.space.control, next);
      }),
      { numRuns: runs(40) },
    );
  });

  it.each(TRIED)('comes through across real threads, in %i segments', async (segments) => {
    const results = await onThreads<BroadcastsArgs, BroadcastsResult>(
      7,
      { threads: 3, segments, app_bytes: 400_000 },
      new URL('broadcasts.ts', import.meta.url),
      () => ({ form, sizes: [0, 1, 1_024, 1_025, 100_000, 300_000], timeout_ms: 20_000 }),
    );
    expect(results).toEqual(results.map(() => ({ errors: [], torn: 0 })));
  });
});

it('names the ranks that are missing while it waits', () => {
  const ranks = makeRanks(4);
  const [root, first] = start(ranks, { root: 0, bytes: 100, form: 'tree' });
  expect(root?.poll()).toEqual({ state: 'pending', missing: [2, 1] });
  expect(first?.poll()).toEqual({ state: 'done' });
  expect(root?.poll()).toEqual({ state: 'pending', missing: [2] });
});

it('needs a root that is in the domain', () => {
  const ranks = makeRanks(3);
  const domain = createDomain(ranks.space.control, 1, [0, 1]);
  expect(() => start(ranks, { root: 2, bytes: 1, form: 'tree' }, domain)).toThrow('broadcast from rank 2 of domain 1, which has 2 ranks');
});
