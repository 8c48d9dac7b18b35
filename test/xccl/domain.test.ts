/** Domains: who is in them, and how everything under way in one ends when it ends. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createDomain, type Domain, destroyDomain, isAlive, rankOf, recreateWithout } from '../../src/xccl/domain.ts';
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { errorOf, makePair, place, SLOT } from './pair.ts';
import { errorsOf, makeDies, randomPick, run, succeed } from './rig.ts';
import { expectDelivered, placeTransfers, startReceive, startSend, type Transfer, type Way } from './transfers.ts';

const WAYS: readonly Way[] = ['slots', 'dma', 'lease'];

describe('a domain', () => {
  it('made anew without a rank has the dies above it one rank lower, and another generation', () => {
    const { space, domain } = makeDies(5);
    const { control } = space;
    expect(domain.dies.map((die) => rankOf(domain, die))).toEqual([0, 1, 2, 3, 4]);
    const next = recreateWithout(control, domain, 2);
    expect(next.dies).toEqual([0, 1, 3, 4]);
    expect(next.dies.map((die) => rankOf(next, die))).toEqual([0, 1, 2, 3]);
    expect([isAlive(control, domain), isAlive(control, next)]).toEqual([false, true]);
    expect(next.generation).not.toBe(domain.generation);
    expect(() => rankOf(next, 2)).toThrow('die 2 is not in domain 0');
    expect(() => recreateWithout(control, next, 4)).toThrow('domain 0 has 4 ranks, not 4');
  });

  it('is created once, of dies that are each there once, and destroyed once', () => {
    const { space, domain } = makeDies(3);
    const { control } = space;
    expect(() => createDomain(control, domain.id, [0, 1])).toThrow('domain 0 is alive already');
    expect(() => createDomain(control, 1, [0, 1, 0])).toThrow('each once');
    expect(() => createDomain(control, 1, [])).toThrow('one at least');
    destroyDomain(control, domain);
    expect(() => destroyDomain(control, domain)).toThrow('domain 0 was destroyed before');
  });

  it('has no rank that it was not created with', () => {
    const { a, domain, apps } = makePair();
    const message = { domain, event: 1, address: apps[0]?.address ?? 0, bytes: 0, timeout_ms: 1 };
    expect(() => a.send({ ...message, to: 2 })).toThrow('send to rank 2 of domain 0, which has 2 ranks');
    expect(() => a.receive({ ...message, from: -1 })).toThrow('receive from rank -1 of domain 0, which has 2 ranks');
  });
});

describe('a domain that is destroyed', () => {
  it('ends everything that is under way in it with an error that says so, on every rank, whatever the step', () => {
    fc.assert(
      fc.property(fc.integer(), fc.nat(60), fc.boolean(), fc.constantFrom(...SEGMENTS), (seed, step, isRecreated, segments) => {
        const rig = makeDies(5, { segments, sizes: { slot_bytes: SLOT }, app_bytes: 65_536 });
        const dies = rig.endpoints.map((endpoint) => new PointToPoint(endpoint));
        const shapes = fc.sample(
          fc.record({
            from: fc.nat(4),
            to: fc.nat(4),
            bytes: fc.constantFrom(0, SLOT, 2_000),
            way: fc.constantFrom(...WAYS),
            borrows: fc.boolean(),
          }),
          { numRuns: runs(12), seed },
        );
        const transfers = placeTransfers(rig.space, rig.apps, shapes);
        const operations = transfers.flatMap((transfer) => [
          startSend(dies[transfer.from] as PointToPoint, rig.domain, transfer),
          startReceive(dies[transfer.to] as PointToPoint, rig.domain, transfer),
        ]);
        const pick = randomPick(seed);
        for (let poll = 0; poll < step; poll++) operations[pick(operations.length)]?.poll();
        const next = isRecreated ? recreateWithout(rig.space.control, rig.domain, 1) : null;
        if (next === null) destroyDomain(rig.space.control, rig.domain);
        for (const operation of operations) {
          const end = operation.poll();
          if (end.state !== 'done') expect(errorOf(end)).toMatch(/^closed: .* ended: domain 0 was destroyed while it was under way$/);
          const lease = 'lease' in operation ? operation.lease : null;
          if (lease?.copied === false) expect(lease.release().state).toBe('failed');
        }
        expect(dies.reduce((sum, { counters }) => sum + counters.leases_lent + counters.leases_borrowed, 0)).toBe(0);
        if (next === null) return;
        // Ranks above the one that left have moved down; what the old domain left in slots and fields is not heard.
        expect(next.dies).toEqual([0, 2, 3, 4]);
        const again = placeTransfers(rig.space, rig.apps, [
          { from: 0, to: 2, bytes: 2_000, way: 'slots', borrows: false },
          { from: 3, to: 2, bytes: 2_000, way: 'dma', borrows: false },
          { from: 2, to: 3, bytes: 2_000, way: 'lease', borrows: false },
        ]);
        const rank = (die: number) => next.dies.indexOf(die);
        succeed(
          again.flatMap((transfer) => [
            startSend(dies[transfer.from] as PointToPoint, next, { ...transfer, to: rank(transfer.to) }),
            startReceive(dies[transfer.to] as PointToPoint, next, { ...transfer, from: rank(transfer.from) }),
          ]),
          { pick },
        );
        for (const transfer of again) expectDelivered(rig.space, transfer);
      }),
      { numRuns: runs(100) },
    );
  });

  it('is not heard in the next: a message that a rank had left is counted as stale', () => {
    const pair = makePair();
    const transfer = place(pair);
    startSend(pair.a, pair.domain, transfer).poll();
    destroyDomain(pair.space.control, pair.domain);
    const next = createDomain(pair.space.control, pair.domain.id, [0, 1]);
    const receive = startReceive(pair.b, next, transfer, 10);
    for (let round = 0; round < 3; round++) expect(receive.poll().state).toBe('pending');
    expect(pair.b.counters.stale).toBe(1);
    pair.clock.advance(10);
    expect(errorOf(receive.poll())).toContain('deadline_exceeded');
  });

  it.each([false, true])('does not mix up a lease that outlives it with the leases of the next, whether its lender knew of it (%s) or not', (knew) => {
    const pair = makePair(1);
    const transfer = place(pair, { way: 'lease', borrows: true, bytes: 64 });
    const take = (domain: Domain, event: number) => {
      const send = startSend(pair.a, domain, { ...transfer, event });
      const borrow = startReceive(pair.b, domain, { ...transfer, event });
      while (borrow.poll().state === 'pending') send.poll();
      return { send, borrow };
    };
    const old = take(pair.domain, 1);
    if (knew) old.send.poll();
    destroyDomain(pair.space.control, pair.domain);
    expect(errorOf(old.send.poll())).toMatch(/^closed: /);
    const domain = createDomain(pair.space.control, pair.domain.id, pair.domain.dies);
    const next = take(domain, 2);
    expect(next.borrow.lease?.release().state).toBe('done');
    expect(errorOf(old.borrow.lease?.release())).toMatch(/^closed: /);
    succeed([next.send]);
    // All lanes are free again.
    for (let event = 3; event < 3 + 2 * 8; event++) {
      const { send, borrow } = take(domain, event);
      borrow.lease?.release();
      succeed([send]);
    }
  });

  it('leaves a receive that is cancelled late without a say in the messages of another domain', () => {
    const pair = makePair();
    const other = createDomain(pair.space.control, 5, [0, 1]);
    const transfer = place(pair);
    const send = startSend(pair.a, pair.domain, transfer, 10);
    const receive = startReceive(pair.b, pair.domain, transfer);
    send.poll();
    receive.poll();
    pair.clock.advance(10);
    const next = [startSend(pair.a, other, { ...transfer, event: 2 }), startReceive(pair.b, other, { ...transfer, event: 2 })] as const;
    for (const operation of [send, ...next]) operation.poll();
    expect(receive.cancel().state).toBe('failed');
    succeed(next);
    expectDelivered(pair.space, transfer);
  });

  it('leaves other domains of the same dies alone, whose messages are told apart', () => {
    const pair = makePair();
    const other = createDomain(pair.space.control, 5, [1, 0]);
    const [first, second] = placeTransfers(
      pair.space,
      pair.apps,
      [900, 901].map((bytes) => ({ from: 0, to: 1, bytes, way: 'slots' as const, borrows: false })),
    ) as [Transfer, Transfer];
    const sends = [startSend(pair.a, pair.domain, first), startSend(pair.a, other, { ...second, to: 0 })];
    const receives = [startReceive(pair.b, other, { ...second, from: 1 }), startReceive(pair.b, pair.domain, first)];
    for (let round = 0; round < 3; round++) for (const operation of [...sends, ...receives]) operation.poll();
    destroyDomain(pair.space.control, pair.domain);
    expect(errorsOf(run([...sends, ...receives])).filter((message) => message?.includes('domain 0'))).toHaveLength(
      [...sends, ...receives].filter((operation) => operation.poll().state === 'failed').length,
    );
    expectDelivered(pair.space, second);
  });
});
