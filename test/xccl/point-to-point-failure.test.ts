/** Point to point when something ends in the middle: what comes is whole, or nothing comes and the error says why; nobody waits for ever. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import { CHANNEL, FIELD_WORD, PEER_BYTES } from '../../src/xccl/areas.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { runs } from '../property-runs.ts';
import { errorOf, makePair, place, SLOT } from './pair.ts';
import { errorsOf, makeDies, randomPick, run, succeed } from './rig.ts';
import { expectDelivered, expectGuards, placeTransfers, startReceive, startSend, type Transfer, type Way } from './transfers.ts';

const WAYS: readonly Way[] = ['slots', 'dma', 'lease'];
/** Lent memory is used in place within a segment, and copied between two. */
const cases = fc.record({ seed: fc.integer(), way: fc.constantFrom(...WAYS), borrows: fc.boolean(), segments: fc.constantFrom(1, 2) });

describe('a deadline', () => {
  it.each(WAYS)('names the rank that has not received what was sent by %s, and the pair is free for the next message', (way) => {
    const pair = makePair();
    const transfer = place(pair, { way });
    const send = startSend(pair.a, pair.domain, transfer, 50);
    expect(send.poll()).toEqual({ state: 'pending', missing: [1] });
    pair.clock.advance(49);
    expect(send.poll().state).toBe('pending');
    pair.clock.advance(1);
    const end = send.poll();
    expect(errorOf(end)).toMatch(/^deadline_exceeded: .* rank 1 \(die 1\) of event 1 waited 50 ms for rank 1$/);
    expect(send.poll()).toBe(end);
    expect(pair.a.counters).toMatchObject({ expired: 1, failures: 1, sends: 0 });
    // The memory may change: what was withdrawn does not come any more.
    const receive = startReceive(pair.b, pair.domain, transfer);
    for (let round = 0; round < 10; round++) expect(receive.poll().state).toBe('pending');
    succeed([startSend(pair.a, pair.domain, transfer), receive]);
    expectDelivered(pair.space, transfer);
  });

  it('names the rank that has not sent', () => {
    const pair = makePair();
    const transfer = place(pair, { from: 0, to: 1 });
    const receive = startReceive(pair.b, pair.domain, transfer, 20);
    pair.clock.advance(21);
    expect(errorOf(receive.poll())).toBe('deadline_exceeded: receive from rank 0 (die 0) of event 1 waited 21 ms for rank 0');
  });

  it('of a receive in the middle of a message is heard by its sender', () => {
    const pair = makePair();
    const transfer = place(pair);
    const send = startSend(pair.a, pair.domain, transfer);
    const receive = startReceive(pair.b, pair.domain, transfer, 20);
    send.poll();
    receive.poll();
    pair.clock.advance(20);
    expect(errorOf(receive.poll())).toContain('deadline_exceeded');
    expect(errorOf(send.poll())).toMatch(/^cancelled: .*rank 1 gave its receive up/);
    succeed([startSend(pair.a, pair.domain, transfer), startReceive(pair.b, pair.domain, transfer)]);
    expectDelivered(pair.space, transfer);
  });

  it('of the first in line passes though nobody polls it any more', () => {
    const pair = makePair();
    const transfer = place(pair);
    startSend(pair.a, pair.domain, { ...transfer, event: 7 }, 20);
    startReceive(pair.b, pair.domain, { ...transfer, event: 9 }, 20);
    const [send, receive] = [startSend(pair.a, pair.domain, transfer), startReceive(pair.b, pair.domain, transfer)];
    pair.clock.advance(20);
    succeed([send, receive]);
    expectDelivered(pair.space, transfer);
  });

  it('at any moment leaves both ends with a message that came whole, or errors; and the next message comes', () => {
    fc.assert(
      fc.property(cases, fc.nat(40), fc.boolean(), fc.nat(40), ({ seed, way, borrows, segments }, step, sender, then) => {
        const pair = makePair(segments);
        const transfer = place(pair, { way, borrows });
        const send = startSend(pair.a, pair.domain, transfer, sender ? 10 : 1_000);
        const receive = startReceive(pair.b, pair.domain, transfer, sender ? 1_000 : 10);
        const pick = randomPick(seed);
        const both = [send, receive];
        for (let poll = 0; poll < step; poll++) both[pick(2)]?.poll();
        pair.clock.advance(10);
        for (let poll = 0; poll < then; poll++) both[pick(2)]?.poll();
        if (receive.poll().state === 'done') {
          if (receive.lease?.copied === false) expect(send.poll().state).toBe('pending');
          expectDelivered(pair.space, transfer, receive.lease?.address);
          expect(receive.lease?.release().state ?? 'done').toBe('done');
        }
        // A sender that gave up may change its memory at once.
        if (errorOf(send.poll()).startsWith('deadline')) pair.space.bytesAt(transfer.source, transfer.bytes).fill(0);
        pair.clock.advance(1_000);
        for (const end of run(both)) expect(['done', 'failed']).toContain(end.state);
        expect([pair.a.counters.leases_lent, pair.b.counters.leases_borrowed]).toEqual([0, 0]);
        const next = place(pair, { way, borrows: false });
        succeed([startSend(pair.a, pair.domain, { ...next, event: 2 }), startReceive(pair.b, pair.domain, { ...next, event: 2 })], { pick });
        expectDelivered(pair.space, next);
      }),
      { numRuns: runs(300) },
    );
  });
});

describe('a sender that is given up', () => {
  it('at any step leaves the receiver with the whole message or an error that names it, never with a part', () => {
    const bytes = [0, SLOT, 5 * SLOT + 7, 2 * 2 ** 20 + 3];
    fc.assert(
      fc.property(cases, fc.constantFrom(...bytes), fc.nat(30), ({ seed, way, borrows, segments }, length, step) => {
        const pair = makePair(segments);
        const transfer = place(pair, { way, borrows, bytes: length });
        const both = [startSend(pair.a, pair.domain, transfer), startReceive(pair.b, pair.domain, transfer)] as const;
        const pick = randomPick(seed);
        for (let poll = 0; poll < step; poll++) both[pick(2) as 0 | 1].poll();
        const [send, receive] = both;
        const before = receive.poll();
        pair.space.control.raiseEpochOfDie(0);
        // A thread that was given up may still run, and write what it likes to where it may.
        pair.space.bytesAt(transfer.source, length).fill(0xee);
        if (before.state === 'done') {
          if (receive.lease?.copied !== false) expectDelivered(pair.space, transfer);
          else expect(errorOf(receive.lease.release())).toMatch(/worker_failed: .*rank 0 was given up, the epoch of die 0 rose from 1 to 2/);
        } else {
          const end = receive.poll();
          expect(errorOf(end)).toMatch(/^worker_failed: .*rank 0 was given up, the epoch of die 0 rose from 1 to 2/);
        }
        expectGuards(pair.space, transfer);
        const writes = pair.a.endpoint.counters.writes;
        const sent = send.poll();
        if (sent.state === 'failed') expect(sent.error.message).toContain('its own die was given up');
        expect(pair.a.endpoint.counters.writes).toBe(writes);
      }),
      { numRuns: runs(200) },
    );
  });

  it('while its bytes are being copied is not believed: nothing is delivered', () => {
    for (const way of WAYS) {
      const pair = makePair();
      const transfer = place(pair, { way });
      const send = startSend(pair.a, pair.domain, transfer);
      const receive = startReceive(pair.b, pair.domain, transfer);
      // Its epoch rises inside the copy, as it does when another thread raises it.
      const { space } = pair;
      const copy = space.copy.bind(space);
      let copies = 0;
      for (let round = 0; round < 20 && receive.poll().state === 'pending'; round++) {
        send.poll();
        space.copy = (to, from, bytes) => {
          copy(to, from, bytes);
          if (++copies === 1) space.control.raiseEpochOfDie(0);
        };
      }
      expect(copies).toBeGreaterThan(0);
      expect(errorOf(receive.poll())).toContain('worker_failed');
      expect(pair.b.counters).toMatchObject({ receives: 0, failures: 1 });
    }
  });

  it('and writes on is not heard by anybody, and its writes are counted as stale', () => {
    const pair = makePair();
    const transfer = place(pair);
    pair.space.control.raiseEpochOfDie(0);
    pair.a.endpoint.write(1, CHANNEL.data, transfer.event, 0, 1, 0, 5);
    const receive = startReceive(pair.b, pair.domain, { ...transfer, bytes: SLOT }, 30);
    receive.poll();
    pair.clock.advance(30);
    expect(errorOf(receive.poll())).toContain('deadline_exceeded');
    expect(pair.b.endpoint.counters.stale).toBe(1);
  });

  it('has a successor that is met with the next operation, and hears nothing of what was meant for its predecessor', () => {
    for (const way of WAYS) {
      const pair = makePair();
      const transfer = place(pair, { way });
      const old = [startSend(pair.a, pair.domain, transfer), startReceive(pair.b, pair.domain, transfer)] as const;
      old[0].poll();
      pair.space.control.raiseEpochOfDie(1);
      const successor = new PointToPoint(new Endpoint(1, pair.surroundings));
      const early = startReceive(successor, pair.domain, { ...transfer, event: 2 });
      for (let round = 0; round < 5; round++) expect(early.poll().state).toBe('pending');
      const next = startSend(pair.a, pair.domain, { ...transfer, event: 2 });
      next.poll();
      // What ends the old message must not touch the new one.
      expect(old[0].poll().state).toBe('failed');
      succeed([next, early]);
      expectDelivered(pair.space, transfer);
      expect(errorsOf(run(old))).toEqual([
        expect.stringContaining('rank 1 was given up, the epoch of die 1 rose from 1 to 2'),
        expect.stringContaining('its own die was given up'),
      ]);
      // The other way round, more than once, since both begin to count anew.
      for (const event of [3, 4, 5]) {
        const back = { ...transfer, event, source: transfer.target, target: transfer.source };
        succeed([startSend(successor, pair.domain, { ...back, to: 0 }), startReceive(pair.a, pair.domain, { ...back, from: 1 })]);
        succeed([startSend(pair.a, pair.domain, { ...transfer, event }), startReceive(successor, pair.domain, { ...transfer, event })]);
      }
    }
  });
});

describe('a loan that is cancelled', () => {
  it('after it was taken, though its lender did not know, lasts until it is released; before, it is not taken any more', () => {
    const pair = makePair(1);
    const transfer = place(pair, { way: 'lease', borrows: true });
    const [send, borrow] = [startSend(pair.a, pair.domain, transfer), startReceive(pair.b, pair.domain, transfer)];
    send.poll();
    expect(borrow.poll().state).toBe('done');
    expect(send.cancel()).toEqual({ state: 'pending', missing: [1] });
    expect(pair.a.counters.leases_lent).toBe(1);
    expect(borrow.lease?.release().state).toBe('done');
    succeed([send]);
    const [late, other] = [startSend(pair.a, pair.domain, transfer), startReceive(pair.b, pair.domain, transfer)];
    late.poll();
    expect(errorOf(late.cancel())).toBe('cancelled: loan to rank 1 (die 1) of event 1 was cancelled');
    expect(other.poll().state).toBe('pending');
  });
});

describe('a receiver that is given up', () => {
  it('frees the memory that it was lent', () => {
    const pair = makePair(1);
    const transfer = place(pair, { way: 'lease', borrows: true });
    const send = startSend(pair.a, pair.domain, transfer);
    const borrow = startReceive(pair.b, pair.domain, transfer);
    for (let round = 0; round < 5; round++) {
      send.poll();
      borrow.poll();
    }
    expect(pair.a.counters.leases_lent).toBe(1);
    pair.space.control.raiseEpochOfDie(1);
    expect(errorOf(send.poll())).toContain('rank 1 was given up');
    expect(pair.a.counters.leases_lent).toBe(0);
    const writes = pair.b.endpoint.counters.writes;
    expect(errorOf(borrow.lease?.release())).toContain('its own die was given up');
    expect(pair.b.endpoint.counters.writes).toBe(writes);
  });
});

describe('a region that changes hands', () => {
  it.each(['dma', 'lease'] as const)('while it is copied from by %s delivers nothing, though no die was given up', (way) => {
    const pair = makePair();
    const { space } = pair;
    const transfer = place(pair, { way });
    const send = startSend(pair.a, pair.domain, transfer);
    send.poll();
    const copy = space.copy.bind(space);
    space.copy = (to, from, bytes) => {
      copy(to, from, bytes);
      space.table.raiseEpoch(space.table.indexOf('npu/0', 'hbm'));
    };
    const ends = run([startReceive(pair.b, pair.domain, transfer), send]);
    expect(ends.map(errorOf)).toEqual([
      expect.stringMatching(/^memory_fault: .*it means epoch 1 of hbm of npu\/0, which is in epoch 2$/),
      expect.stringMatching(/^memory_fault: .*rank 1 refused its descriptor$/),
    ]);
  });
});

describe('a message that was refused', () => {
  it('while its sender is still writing it does not spoil the next receive', () => {
    const rig = makeDies(2, { segments: 2, sizes: { slot_bytes: SLOT } });
    const [wrong, right] = placeTransfers(
      rig.space,
      rig.apps,
      [4 * SLOT, 3 * SLOT].map((bytes) => ({ from: 0, to: 1, bytes, way: 'slots' as const, borrows: false })),
    ) as [Transfer, Transfer];
    const b = new PointToPoint(new Endpoint(1, rig.surroundings));
    const receives = [startReceive(b, rig.domain, { ...wrong, event: 99 }), startReceive(b, rig.domain, right)];
    // Between the first field and the second, the receiver looks, and refuses.
    let arrivals = 0;
    const arrive = (): void => {
      if (arrivals++ === 0) expect(receives[0]?.poll().state).toBe('failed');
      else receives[1]?.poll();
    };
    const a = new PointToPoint(new Endpoint(0, { ...rig.surroundings, arrive }));
    const sends = [startSend(a, rig.domain, wrong), startSend(a, rig.domain, right)];
    expect(errorsOf(run([...sends, ...receives]))).toEqual([expect.stringContaining('expects event 99'), null, expect.stringContaining('event 1 came'), null]);
    expectDelivered(rig.space, right);
  });
});

describe('a field that is torn', () => {
  it('counts only when its event is there again: words of two events are never mixed', () => {
    const pair = makePair();
    const transfer = place(pair, { bytes: SLOT });
    const send = startSend(pair.a, pair.domain, transfer);
    send.poll();
    const { metadata } = pair.b.endpoint.areas;
    const words = pair.space.wordsOf(metadata);
    const event = (offsetOf(metadata) + 0 * PEER_BYTES) / 4 + FIELD_WORD.event;
    const shown = words[event] as number;
    const receive = startReceive(pair.b, pair.domain, transfer);
    words[event] = 0;
    for (let round = 0; round < 3; round++) expect(receive.poll().state).toBe('pending');
    words[event] = shown;
    succeed([send, receive]);
  });
});
