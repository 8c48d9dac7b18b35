/** Point to point: whatever the size, the path, the pair and the order of polls, the bytes that were sent are the bytes that come. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MinipodError } from '../../src/protocol/errors.ts';
import { Completions } from '../../src/xccl/completions.ts';
import { DMA_FROM_BYTES, PointToPoint } from '../../src/xccl/point-to-point.ts';
import type { Receive } from '../../src/xccl/receive.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { makePair, place, SLOT } from './pair.ts';
import { errorsOf, makeDies, randomPick, run, succeed } from './rig.ts';
import { expectDelivered, expectGuards, NEVER_MS, placeTransfers, startReceive, startSend, type TransferShape, taker, type Way } from './transfers.ts';

const SIZES = [0, 1, 63, SLOT - 1, SLOT, SLOT + 1, 2 * SLOT, 5 * SLOT + 7, 3_000];
const MEBIBYTE = 2 ** 20;
const WAYS: readonly Way[] = ['slots', 'dma', 'lease'];

const shapes = (dies: number): fc.Arbitrary<TransferShape[]> =>
  fc.array(
    fc.record({
      from: fc.nat(dies - 1),
      to: fc.nat(dies - 1),
      bytes: fc.constantFrom(...SIZES),
      way: fc.constantFrom(...WAYS),
      borrows: fc.boolean(),
    }),
    { minLength: 1, maxLength: 40 },
  );

describe('bytes', () => {
  it.each(SEGMENTS)('come whole between all pairs at once, by every path, in %i segments', (segments) => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 6 }), fc.constantFrom(2, 4), fc.integer(), fc.context(), (count, slots, seed, context) => {
        const rig = makeDies(count, { segments, sizes: { slot_bytes: SLOT, slots }, app_bytes: 262_144 });
        const { space, domain } = rig;
        const dies = rig.endpoints.map((endpoint) => new PointToPoint(endpoint));
        const transfers = placeTransfers(space, rig.apps, fc.sample(shapes(count), { numRuns: 1, seed })[0] as TransferShape[]);
        context.log(JSON.stringify(transfers));
        const sends = transfers.map((transfer) => startSend(dies[transfer.from] as PointToPoint, domain, transfer));
        const receives = transfers.map((transfer) => startReceive(dies[transfer.to] as PointToPoint, domain, transfer));
        const takers = receives.map((receive, index) =>
          taker(receive, () => {
            const transfer = transfers[index] as (typeof transfers)[number];
            expectDelivered(space, transfer, receive.lease?.address);
            expect(receive.bytes).toBe(transfer.bytes);
          }),
        );
        succeed([...sends, ...takers], { pick: randomPick(seed) });
        for (const [index, transfer] of transfers.entries()) expectGuards(space, { ...transfer, event: index });
        const total = (name: 'sends' | 'receives' | 'leases_lent' | 'leases_borrowed') => dies.reduce((sum, { counters }) => sum + counters[name], 0);
        expect([total('sends'), total('receives'), total('leases_lent'), total('leases_borrowed')]).toEqual([transfers.length, transfers.length, 0, 0]);
        const bytes = transfers.reduce((sum, transfer) => sum + transfer.bytes, 0);
        expect(dies.reduce((sum, { counters }) => sum + counters.slots_bytes + counters.dma_bytes + counters.zero_copy_bytes, 0)).toBe(bytes);
      }),
      { numRuns: runs(60) },
    );
  });

  it('of 0 B to 64 MiB come whole by every path, within a segment and between two', () => {
    const most = 64 * MEBIBYTE;
    const scenario = fc.record({
      // Each power of two as likely as the next.
      bytes: fc.double({ min: 0, max: 26, noNaN: true }).map((power) => Math.floor(2 ** power) - 1),
      way: fc.constantFrom(...WAYS),
      borrows: fc.boolean(),
      segments: fc.constantFrom(1, 2),
    });
    fc.assert(
      fc.property(scenario, ({ bytes, way, borrows, segments }) => {
        const rig = makeDies(2, { segments, sizes: { slot_bytes: 16_384 }, app_bytes: bytes + 256 });
        const [a, b] = rig.endpoints.map((endpoint) => new PointToPoint(endpoint)) as [PointToPoint, PointToPoint];
        const transfer = place(rig, { bytes, way, borrows });
        const [send, receive] = [startSend(a, rig.domain, transfer), startReceive(b, rig.domain, transfer)];
        const look = (): void => expectDelivered(rig.space, transfer, receive.lease?.address);
        succeed([taker(receive, look), send]);
        expect(receive.bytes).toBe(bytes);
      }),
      { numRuns: runs(20), examples: WAYS.map((way, index) => [{ bytes: most, way, borrows: index === 2, segments: 1 + (index % 2) }]) },
    );
  });

  it.each(['slots', 'dma'] as const)('of 3 MiB come whole through %s, no poll copying more than a piece', (way) => {
    const bytes = 3 * MEBIBYTE + 5;
    const { a, b, space, apps, domain } = makePair();
    const [transfer] = placeTransfers(space, apps, [{ from: 0, to: 1, bytes, way, borrows: false }]);
    if (transfer === undefined) return;
    const send = startSend(a, domain, transfer);
    const receive = startReceive(b, domain, transfer);
    let polls = 0;
    while (receive.poll().state === 'pending') {
      send.poll();
      polls++;
    }
    succeed([send]);
    expectDelivered(space, transfer);
    expect(polls).toBeGreaterThanOrEqual(way === 'dma' ? 3 : Math.floor(bytes / (2 * SLOT)));
    expect(b.counters).toMatchObject(way === 'dma' ? { dma_bytes: bytes, slots_bytes: 0 } : { dma_bytes: 0, slots_bytes: bytes });
  });

  it('take the slots when they are few, and go straight from memory to memory when they are many', () => {
    const { a, b, apps, domain } = makePair();
    for (const [event, bytes] of [DMA_FROM_BYTES - 1, DMA_FROM_BYTES].entries()) {
      const message = { domain, event, bytes, timeout_ms: NEVER_MS };
      succeed([a.send({ ...message, to: 1, address: apps[0]?.address ?? 0 }), b.receive({ ...message, from: 0, address: apps[1]?.address ?? 0 })]);
    }
    expect(b.counters).toMatchObject({ slots_bytes: DMA_FROM_BYTES - 1, dma_bytes: DMA_FROM_BYTES });
  });

  it('are copied in while the ones before are copied out: two slots are never both full and untouched for a round', () => {
    const { a, b, apps, domain } = makePair();
    const message = { domain, event: 1, bytes: 8 * SLOT, timeout_ms: NEVER_MS };
    const send = a.send({ ...message, to: 1, address: apps[0]?.address ?? 0 }, 'slots');
    const receive = b.receive({ ...message, from: 0, address: apps[1]?.address ?? 0 });
    send.poll();
    const before = a.endpoint.counters.writes;
    // Two chunks lie there; the receiver takes both, and the sender's next poll fills both again.
    expect(before).toBe(2);
    receive.poll();
    send.poll();
    expect(a.endpoint.counters.writes).toBe(4);
    succeed([send, receive]);
  });
});

describe('messages of a pair', () => {
  it('come in the order in which they were sent, though the later ones are polled first', () => {
    const { a, b, space, apps, domain } = makePair();
    const shape = { from: 0, to: 1, borrows: false } as const;
    const transfers = placeTransfers(
      space,
      apps,
      Array.from({ length: 12 }, (_, index) => ({ ...shape, bytes: 100 * index, way: WAYS[index % 3] as Way })),
    );
    const sends = transfers.map((transfer) => startSend(a, domain, transfer));
    const receives = transfers.map((transfer) => startReceive(b, domain, transfer));
    succeed([...sends.reverse(), ...receives.reverse()]);
    for (const transfer of transfers) expectDelivered(space, transfer);
  });

  it('to oneself come as from anybody', () => {
    const { a, space, apps, domain } = makePair();
    const transfers = placeTransfers(
      space,
      apps,
      WAYS.map((way) => ({ from: 0, to: 0, bytes: 700, way, borrows: false })),
    );
    succeed(transfers.flatMap((transfer) => [startSend(a, domain, transfer), startReceive(a, domain, transfer)]));
    for (const transfer of transfers) expectDelivered(space, transfer);
  });

  it('with another event than the expected one fail on both sides, which name both, and the next one comes', () => {
    const { a, b, space, apps, domain } = makePair();
    for (const way of WAYS) {
      const [wrong, right] = placeTransfers(
        space,
        apps,
        [7, 8].map(() => ({ from: 0, to: 1, bytes: 600, way, borrows: false })),
      );
      if (wrong === undefined || right === undefined) return;
      const sends = [startSend(a, domain, { ...wrong, event: 41 }), startSend(a, domain, { ...right, event: 43 })];
      const receives = [startReceive(b, domain, { ...wrong, event: 42 }), startReceive(b, domain, { ...right, event: 43 })];
      const errors = errorsOf(run([...sends, ...receives]));
      expect(errors).toEqual([
        'send to rank 1 (die 1) of event 41 failed: rank 1 expects event 42'.replace('send', way === 'lease' ? 'loan' : 'send'),
        null,
        'receive from rank 0 (die 0) of event 42 failed: event 41 came',
        null,
      ]);
      expectDelivered(space, right);
    }
    expect(b.counters.mismatches).toBe(3);
    expect(a.counters).toMatchObject({ failures: 3, leases_lent: 0 });
  });

  it('longer than the room for them fail on both sides and touch nothing', () => {
    const { a, b, space, apps, domain } = makePair();
    const [transfer] = placeTransfers(space, apps, [{ from: 0, to: 1, bytes: 600, way: 'slots', borrows: false }]);
    if (transfer === undefined) return;
    const errors = errorsOf(run([startSend(a, domain, transfer), startReceive(b, domain, { ...transfer, bytes: 599 })]));
    expect(errors[0]).toContain('600 bytes, rank 1 has room for 599');
    expect(errors[1]).toContain('600 bytes came, there is room for 599');
    expectGuards(space, { ...transfer, bytes: 0 });
  });
});

describe('addresses', () => {
  const fault = (start: () => unknown): string => {
    try {
      start();
    } catch (error) {
      expect(error).toBeInstanceOf(MinipodError);
      expect((error as MinipodError).code).toBe('memory_fault');
      return (error as MinipodError).message;
    }
    throw new Error('no fault');
  };

  it('that are not one’s own are refused at the start, naming region, owner and access', () => {
    const { a, b, apps, domain } = makePair();
    const message = { domain, event: 1, bytes: 128, timeout_ms: NEVER_MS };
    const [own, other] = [apps[0]?.address ?? 0, apps[1]?.address ?? 0];
    expect(fault(() => a.send({ ...message, to: 1, address: other }))).toMatch(/may not read 128 bytes at .* as memory of npu\/0: they lie in hbm of npu\/1/);
    expect(fault(() => b.receive({ ...message, from: 0, address: own }))).toMatch(/may not write 128 bytes .* hbm of npu\/0/);
    expect(fault(() => a.lend({ ...message, to: 1, address: own + (apps[0]?.bytes ?? 0) - 127 }))).toMatch(/may not read .*past the end of hbm of npu\/0/);
  });

  it('in a descriptor that are not the sender’s are refused by the receiver, and the sender hears of it', () => {
    const { a, b, space, apps, domain } = makePair(5);
    const [transfer] = placeTransfers(space, apps, [{ from: 0, to: 1, bytes: 600, way: 'dma', borrows: false }]);
    if (transfer === undefined) return;
    for (const [event, source] of [apps[1]?.address ?? 0, (apps[0]?.address ?? 0) + (apps[0]?.bytes ?? 0) - 100].entries()) {
      const send = startSend(a, domain, { ...transfer, event });
      send.poll();
      // A sender with a defect: the descriptor lies in its slot of the receiver's managed area.
      const { managed, slots, slot_bytes } = b.endpoint.areas;
      for (let slot = 0; slot < slots; slot++) {
        const words = space.wordsOf(managed);
        words[(managed % 2 ** 32) / 4 + (slot * slot_bytes) / 4] = Math.floor(source / 2 ** 32);
        words[(managed % 2 ** 32) / 4 + (slot * slot_bytes) / 4 + 1] = source % 2 ** 32;
      }
      const errors = errorsOf(run([send, startReceive(b, domain, { ...transfer, event })]));
      expect(errors[0]).toContain('rank 1 refused its descriptor');
      expect(errors[1]).toMatch(/may not read 600 bytes at .*hbm of npu/);
      expectGuards(space, { ...transfer, bytes: 0 });
    }
    expect(b.counters.refusals).toBe(2);
  });

  it('in quarantine are refused', () => {
    const { a, b, space, apps, domain } = makePair();
    const [transfer] = placeTransfers(space, apps, [{ from: 0, to: 1, bytes: 600, way: 'dma', borrows: false }]);
    if (transfer === undefined) return;
    const send = startSend(a, domain, transfer);
    send.poll();
    space.table.setState(space.table.indexOf('npu/0', 'hbm'), 'quarantined');
    const errors = errorsOf(run([send, startReceive(b, domain, transfer)]));
    expect(errors[1]).toContain('hbm of npu/0 is quarantined');
  });
});

describe('completions', () => {
  it('queue up with their tokens while nobody waits, each once', () => {
    const { a, b, space, apps, domain } = makePair();
    const transfers = placeTransfers(
      space,
      apps,
      Array.from({ length: 20 }, (_, index) => ({ from: index % 2, to: 1 - (index % 2), bytes: 97 * index, way: WAYS[index % 3] as Way, borrows: false })),
    );
    const completions = new Completions<string>();
    for (const [index, transfer] of transfers.entries()) {
      completions.watch(startSend(transfer.from === 0 ? a : b, domain, transfer), `send ${index}`);
      completions.watch(startReceive(transfer.from === 0 ? b : a, domain, transfer), `receive ${index}`);
    }
    const tokens: string[] = [];
    for (let round = 0; completions.pending > 0 && round < 1_000; round++) {
      completions.poll();
      for (const { token, end } of completions.drain()) {
        expect(end.state).toBe('done');
        tokens.push(token);
      }
    }
    expect(tokens.sort()).toEqual(transfers.flatMap((_, index) => [`send ${index}`, `receive ${index}`]).sort());
    expect(completions.ready).toBe(0);
    for (const transfer of transfers) expectDelivered(space, transfer);
  });
});

describe('leases', () => {
  it('in one segment are used in place, and end when they are released', () => {
    const rig = makeDies(2, { segments: 1, sizes: { slot_bytes: SLOT } });
    const [a, b] = rig.endpoints.map((endpoint) => new PointToPoint(endpoint)) as [PointToPoint, PointToPoint];
    const [transfer] = placeTransfers(rig.space, rig.apps, [{ from: 0, to: 1, bytes: 5_000, way: 'lease', borrows: true }]);
    if (transfer === undefined) return;
    const send = startSend(a, rig.domain, transfer, 1_000);
    const borrow = startReceive(b, rig.domain, transfer);
    for (let round = 0; round < 10 && borrow.poll().state === 'pending'; round++) send.poll();
    expect(borrow.lease).toMatchObject({ address: transfer.source, bytes: 5_000, copied: false });
    // Not released: nothing ends the loan, no deadline and no cancel, and the counters show it.
    rig.clock.advance(10_000);
    expect(send.poll()).toEqual({ state: 'pending', missing: [1] });
    expect(send.cancel().state).toBe('pending');
    expect([a.counters.leases_lent, b.counters.leases_borrowed]).toEqual([1, 1]);
    // The pair is free for others meanwhile.
    succeed([startSend(a, rig.domain, { ...transfer, way: 'slots' }), startReceive(b, rig.domain, { ...transfer, borrows: false })]);
    expect(borrow.lease?.release().state).toBe('done');
    expect(borrow.lease?.release().state).toBe('done');
    succeed([send]);
    expect([a.counters.leases_lent, b.counters.leases_borrowed, b.counters.zero_copy_bytes, b.counters.lease_copies]).toEqual([0, 0, 5_000, 0]);
  });

  it('across segments are copies, which say so and are counted, and the lender has its memory back', () => {
    const { a, b, space, apps, domain } = makePair();
    const [transfer] = placeTransfers(space, apps, [{ from: 0, to: 1, bytes: 5_000, way: 'lease', borrows: true }]);
    if (transfer === undefined) return;
    const send = startSend(a, domain, transfer);
    const borrow = startReceive(b, domain, transfer);
    succeed([send, borrow]);
    expect(borrow.lease).toMatchObject({ address: transfer.target, bytes: 5_000, copied: true });
    expectDelivered(space, transfer);
    expect(b.counters).toMatchObject({ lease_copies: 1, leases_borrowed: 0, zero_copy_bytes: 0, dma_bytes: 5_000 });
  });

  it('are released in any order, many at once, more than the pair has lanes for', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 40 }), (seed, count) => {
        const rig = makeDies(2, { segments: 1, sizes: { slot_bytes: SLOT } });
        const [a, b] = rig.endpoints.map((endpoint) => new PointToPoint(endpoint)) as [PointToPoint, PointToPoint];
        const transfers = placeTransfers(
          rig.space,
          rig.apps,
          Array.from({ length: count }, () => ({ from: 0, to: 1, bytes: 40, way: 'lease' as const, borrows: true })),
        );
        const pick = randomPick(seed);
        const sends = transfers.map((transfer) => startSend(a, rig.domain, transfer));
        const borrows: Receive[] = transfers.map((transfer) => startReceive(b, rig.domain, transfer));
        const held: number[] = [];
        const isOver = (index: number): boolean => sends[index]?.poll().state === 'done';
        for (let round = 0; round < 20_000; round++) {
          const at = pick(count);
          const borrow = borrows[at] as Receive;
          if (pick(3) === 0) {
            // Released by chance, others in front of it still held.
            if (borrow.lease !== null && !borrow.lease.isReleased) {
              held.splice(held.indexOf(at), 1);
              expect(isOver(at)).toBe(false);
              expect(borrow.lease.release().state).toBe('done');
            }
          } else if (pick(2) === 0) isOver(at);
          else if (borrow.lease === null && borrow.poll().state === 'done') held.push(at);
          for (const index of held) expect(isOver(index)).toBe(false);
          if (transfers.every((_, index) => isOver(index))) return;
        }
        expect.fail(
          `not over: ${transfers.flatMap((_, index) => (isOver(index) ? [] : [`${index} ${borrows[index]?.lease === null} ${borrows[index]?.lease?.isReleased}`])).join(', ')}`,
        );
      }),
      { numRuns: runs(25) },
    );
  });
});
