/** Links between threads: back-pressure is a value and a queue at the sender, never a block, and never a lost or doubled frame. */
import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FRAMES_PER_TURN, type Links } from '../../src/fabric/links.ts';
import { PAYLOAD_BYTES_MAX } from '../../src/fabric/ring-layout.ts';
import type { Address } from '../../src/protocol/address.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { MessagePort } from '../../src/runtime/message-port.ts';
import { runs } from '../property-runs.ts';
import { SEGMENTS } from './segments.ts';
import { frame, longPayloadOf, payloadOf, twoThreads } from './two-threads.ts';

const MEBIBYTE = 2 ** 20;
const dataOf = (links: Links) => links.counters().find(({ lane }) => lane === 'data');
/** Ids of the frames that one turn delivers. */
function takeTurn(links: Links): number[] {
  const got: number[] = [];
  links.receive((_, ring) => got.push(ring.header.source));
  return got;
}
function thrownBy(act: () => unknown): MinipodError {
  try {
    act();
  } catch (error) {
    if (error instanceof MinipodError) return error;
  }
  throw new Error('it did not throw');
}

describe.each(SEGMENTS)('links over %i segments', (segments) => {
  it('keep frames in order when the peer does not read for long, and say how much waits', () => {
    const { linksOf } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    const got: number[] = [];
    const taken = Array.from({ length: 500 }, (_, id) => a.send(1, 'data', frame(id), payloadOf(id, id % 200)));
    expect(taken.indexOf(false)).toBeGreaterThan(2);
    expect(taken.lastIndexOf(true)).toBeLessThan(taken.indexOf(false));
    const waiting = taken.filter((isTaken) => !isTaken).length;
    expect(a.flush()).toBe(true);
    expect(a.waiting(1, 'data')).toBe(waiting);
    expect(dataOf(a)).toMatchObject({ peer: 1, frames: 500 - waiting, full: waiting, waiting });
    for (let round = 0; round < 1_000 && got.length < 500; round++) {
      b.receive((_, ring) => {
        expect(ring.payload()).toEqual(payloadOf(ring.header.source, ring.header.source % 200));
        got.push(ring.header.source);
      });
      a.flush();
    }
    expect(got).toEqual(Array.from({ length: 500 }, (_, id) => id));
    expect(a.flush()).toBe(false);
    const bytes = got.reduce((sum, id) => sum + (id % 200), 0);
    expect(dataOf(a)).toMatchObject({ frames: 500, bytes, waiting: 0, waiting_bytes: 0, ring_free_bytes: 1_024, slab_bytes: 0, slab_free_bytes: 1_024 });
    expect(dataOf(b)).toMatchObject({ peer: 0, frames: 0, received_frames: 500, received_bytes: bytes, stale: 0 });
  });

  it('carry payloads of 0 B to 64 MiB over a small slab, in order, and account for every byte of it', () => {
    const slab_bytes = 64 * 1_024;
    const { linksOf } = twoThreads(4_096, { slab_bytes, segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    const sizes = [0, 1, 1_000, 1_025, 4_000, 32_768, 32_769, 7, 65_536, 1_000_003, 0, 64 * MEBIBYTE, 5];
    const payloads = sizes.map((bytes, id) => longPayloadOf(id, bytes));
    payloads.forEach((payload, id) => {
      a.send(1, 'data', frame(id), payload);
    });
    const got: number[] = [];
    for (let round = 0; round < 100_000 && got.length < sizes.length; round++) {
      a.flush();
      b.receive((_, ring) => {
        const id = ring.header.source;
        expect(Buffer.compare(ring.payload(), payloads[id] as Uint8Array)).toBe(0);
        got.push(id);
      });
    }
    expect(got).toEqual(sizes.map((_, id) => id));
    expect(dataOf(a)).toMatchObject({ waiting: 0, waiting_bytes: 0, slab_bytes: 0, slab_free_bytes: slab_bytes, ring_free_bytes: 4_096 });
    expect(dataOf(a)?.slab_bytes_max).toBe(slab_bytes);
    expect(dataOf(b)?.received_bytes).toBe(sizes.reduce((sum, bytes) => sum + bytes, 0));
  });

  it('carry payloads of any size up to 64 MiB, small ones among large ones, whatever the slab', () => {
    // Each power of two as likely as the next.
    const upTo = (power_max: number) => fc.double({ min: 0, max: power_max, noNaN: true }).map((power) => Math.floor(2 ** power));
    const size = fc.oneof({ weight: 2, arbitrary: fc.integer({ min: 0, max: 3_000 }) }, { weight: 1, arbitrary: upTo(21) });
    const scenario = fc.record({
      before: fc.array(size, { maxLength: 10 }),
      large: fc.array(upTo(26), { maxLength: 2 }),
      after: fc.array(size, { maxLength: 10 }),
      slab_bytes: fc.constantFrom(0, 4_096, 65_536),
      eager: fc.integer({ min: 1, max: 4 }),
    });
    fc.assert(
      fc.property(scenario, ({ before, large, after, slab_bytes, eager }) => {
        const sizes = [...before, ...large, ...after];
        const { linksOf } = twoThreads(8_192, { slab_bytes, segments });
        const [a, b] = [linksOf(0), linksOf(1)];
        const got: number[] = [];
        const takeTurns = (): void => {
          a.flush();
          b.receive((_, ring) => {
            const id = ring.header.source;
            expect(Buffer.compare(ring.payload(), longPayloadOf(id, sizes[id] as number))).toBe(0);
            got.push(id);
          });
        };
        sizes.forEach((bytes, id) => {
          a.send(1, 'data', frame(id), longPayloadOf(id, bytes));
          if (id % eager === 0) takeTurns();
        });
        while (got.length < sizes.length) takeTurns();
        expect(got).toEqual(sizes.map((_, id) => id));
        a.flush();
        expect(dataOf(a)).toMatchObject({ waiting: 0, waiting_bytes: 0, slab_bytes: 0, ring_free_bytes: 8_192 });
      }),
      { numRuns: runs(12) },
    );
  });

  it('are queues for any interleaving of sending, flushing and receiving, both ways and on both lanes', () => {
    const size = fc.oneof(
      { weight: 8, arbitrary: fc.integer({ min: 0, max: 100 }) },
      { weight: 3, arbitrary: fc.integer({ min: 0, max: 2_000 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 60_000 }) },
    );
    const act = fc.record({
      who: fc.constantFrom(0 as const, 1 as const),
      lane: fc.constantFrom('control' as const, 'data' as const),
      what: fc.constantFrom('send' as const, 'send' as const, 'flush' as const, 'receive' as const),
      bytes: size,
    });
    fc.assert(
      fc.property(fc.array(act, { maxLength: 150 }), fc.constantFrom(0, 512, 4_096), (acts, slab_bytes) => {
        const { linksOf } = twoThreads(512, { slab_bytes, segments });
        const both = [linksOf(0), linksOf(1)] as const;
        const expected = new Map<string, number[]>();
        const sizes: number[] = [];
        const queueOf = (from: number, lane: string): number[] =>
          expected.get(`${from} ${lane}`) ?? expected.set(`${from} ${lane}`, []).get(`${from} ${lane}`) ?? [];
        const receive = (who: 0 | 1): boolean =>
          both[who].receive((peer, ring) => {
            const id = ring.header.source;
            expect(queueOf(peer, ring.header.destination === 1 ? 'control' : 'data').shift()).toBe(id);
            expect(Buffer.compare(ring.payload(), payloadOf(id, sizes[id] as number))).toBe(0);
          });
        for (const { who, lane, what, bytes } of acts) {
          if (what === 'send') {
            const id = sizes.push(bytes) - 1;
            queueOf(who, lane).push(id);
            both[who].send(1 - who, lane, { ...frame(id), destination: lane === 'control' ? 1 : 0 }, payloadOf(id, bytes));
          } else if (what === 'flush') both[who].flush();
          else receive(who);
        }
        // Whatever is left comes, and leaves nothing behind.
        for (let busy = true; busy; ) {
          const waits = [both[0].flush(), both[1].flush()];
          busy = [receive(0), receive(1), ...waits].includes(true);
        }
        expect([...expected.values()].flat()).toEqual([]);
        for (const links of both) for (const { waiting, slab_bytes } of links.counters()) expect([waiting, slab_bytes]).toEqual([0, 0]);
      }),
      { numRuns: runs(200) },
    );
  });

  it('refuse a payload that no ring takes, and go on with the others', () => {
    const { linksOf } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    const { code, message } = thrownBy(() => a.sendWords(1, 'data', frame(0), new Int32Array(0), 0, PAYLOAD_BYTES_MAX + 1));
    expect(code).toBe('invalid_request');
    expect(message).toBe(`a payload of ${PAYLOAD_BYTES_MAX + 1} bytes for the data ring of thread 1: at most ${PAYLOAD_BYTES_MAX} travel`);
    expect(a.waiting(1, 'data')).toBe(0);
    a.send(1, 'data', frame(1), payloadOf(1, 5_000));
    const got: number[] = [];
    for (let turn = 0; turn < 20; turn++) {
      a.flush();
      got.push(...takeTurn(b));
    }
    expect(got).toEqual([1]);
  });

  it('give each ring a bounded turn, and control the first', () => {
    const { linksOf } = twoThreads(65_536, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    for (let id = 0; id < 3 * FRAMES_PER_TURN; id++) a.send(1, 'data', frame(id), null);
    a.send(1, 'control', frame(1_000), null);
    a.flush();
    const turn = takeTurn(b);
    expect(turn[0]).toBe(1_000);
    expect(turn.length).toBe(1 + FRAMES_PER_TURN);
    a.send(1, 'control', frame(1_001), null);
    a.flush();
    expect(takeTurn(b)[0]).toBe(1_001);
    expect(takeTurn(b).length).toBe(FRAMES_PER_TURN);
    expect(takeTurn(b)).toEqual([]);
  });

  it('hand out control before all data that was published later, however much there is of it and whenever the reader looks', () => {
    const { linksOf } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    // As many as the ring takes, and more that wait for room.
    const [SENT, ROOM] = [1_000, 16_384 / 32];
    const got: number[] = [];
    // While the reader is at the first frame, there come one of control and, behind it, one of data.
    a.send(1, 'data', frame(1), null);
    a.flush();
    b.receive((_, ring) => {
      got.push(ring.header.source);
      if (ring.header.source !== 1) return;
      a.send(1, 'control', frame(2), null);
      a.send(1, 'data', frame(3), null);
      a.flush();
    });
    expect(got).toEqual([1, 2, 3]);
    // The same while it has seen more control than it takes in a turn.
    const SEEN = FRAMES_PER_TURN + 2;
    for (let id = 0; id < SEEN; id++) a.send(1, 'control', frame(id), null);
    a.flush();
    got.splice(0);
    b.receive((_, ring) => {
      if (got.push(ring.header.source) !== FRAMES_PER_TURN) return;
      a.send(1, 'control', frame(SEEN), null);
      a.send(1, 'data', frame(SEEN + 1), null);
      a.flush();
    });
    expect(got).toEqual(Array.from({ length: SEEN + 2 }, (_, id) => id));
    for (let id = 0; id < SENT; id++) a.send(1, 'control', frame(id), null);
    expect(a.waiting(1, 'control')).toBe(SENT - ROOM);
    a.send(1, 'data', frame(SENT), null);
    got.splice(0);
    while (got.at(-1) !== SENT) {
      a.flush();
      got.push(...takeTurn(b));
    }
    expect(got).toEqual(Array.from({ length: SENT + 1 }, (_, id) => id));
  });

  it('deliver nothing of a peer that the handler has just detached, and leave its ring as it is', () => {
    const { linksOf, resetAll } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    for (let id = 0; id < 3; id++) a.send(1, 'control', frame(id), null);
    a.send(1, 'data', frame(9), null);
    a.flush();
    const got: number[] = [];
    b.receive((peer, ring) => {
      got.push(ring.header.source);
      b.detach(peer);
      // Its successor may own the rings from here on.
      resetAll();
      b.attach(peer);
    });
    expect(got).toEqual([0]);
    const successor = linksOf(0);
    successor.send(1, 'data', frame(20), null);
    successor.flush();
    b.receive((_, ring) => got.push(ring.header.source));
    expect(got).toEqual([0, 20]);
  });

  it('start anew after detach, reset and attach, with nothing left of before', () => {
    const { linksOf, resetAll } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    for (let id = 0; id < 9; id++) a.send(1, 'data', frame(id), new Uint8Array(300));
    a.flush();
    b.receive(() => {});
    a.detach(1);
    expect(a.isAttached(1)).toBe(false);
    expect(() => a.send(1, 'data', frame(1), null)).toThrow(/no link to thread 1/);
    resetAll();
    const successor = linksOf(1);
    a.attach(1);
    a.send(1, 'data', frame(77), null);
    a.flush();
    expect(takeTurn(successor)).toEqual([77]);
    expect(dataOf(a)).toMatchObject({ frames: 1, waiting: 0, slab_bytes: 0 });
  });

  it('carry messages of any size, among others', () => {
    const { linksOf } = twoThreads(1_024, { segments });
    const [a, b] = [new MessagePort(linksOf(0)), new MessagePort(linksOf(1))];
    const messages = [3, 5_000, 0, 100_000, 400_000].map((length, request) => ({
      type: 'PROMPT',
      request,
      token_ids: Array.from({ length }, (_, index) => index),
      records: [],
    }));
    expect(messages.map((message) => a.send(1, 'frontend/0', 'caller/0', message))[0]).toBe(true);
    const got: unknown[] = [];
    for (let round = 0; round < 10_000 && got.length < messages.length; round++) {
      a.links.flush();
      b.links.receive((_, ring) => got.push(b.read(ring)));
    }
    expect(got).toEqual(messages.map((message) => ({ to: 'frontend/0', from: 'caller/0', message, cause: 0 })));
  });

  it('go to nobody and are counted where the peer is let go of, and come again once it is attached', () => {
    const { linksOf, control, resetAll } = twoThreads(1_024, { segments });
    const a = new MessagePort(linksOf(0));
    let b = new MessagePort(linksOf(1));
    const got: unknown[] = [];
    const tell = (task: string): void => {
      a.sendToLiving(1, 'npu/1', 'npu/0', { type: 'ABANDON', task: task as Address }, 0);
      a.links.flush();
      b.links.receive((_, ring) => got.push((b.read(ring).message as { task: string }).task));
    };
    tell('task/1');
    a.links.detach(1);
    tell('task/2');
    tell('task/3');
    expect([control.dropped(0), control.dropped(1)]).toEqual([2, 0]);
    resetAll();
    b = new MessagePort(linksOf(1));
    a.links.attach(1);
    tell('task/4');
    expect([got, control.dropped(0)]).toEqual([['task/1', 'task/4'], 2]);
  });

  it('decode texts from memory that the next frame overwrites, and keep them', () => {
    const { linksOf } = twoThreads(16_384, { segments });
    const [a, b] = [new MessagePort(linksOf(0)), new MessagePort(linksOf(1))];
    const texts = ['', 'a', 'ä€𝄞', 'x'.repeat(31), 'y'.repeat(200), '€'.repeat(3_000), 'short again'];
    for (const text of texts) a.send(1, 'npu/1', 'expert/4.12', { type: 'ABANDON', task: text });
    a.links.flush();
    const got: { from: string; message: unknown }[] = [];
    b.links.receive((_, ring) => got.push(b.read(ring)));
    expect(got.map(({ message }) => message)).toEqual(texts.map((task) => ({ type: 'ABANDON', task })));
    expect(got[0]?.from).toBe('expert/4.12');
  });
});

describe('counters', () => {
  it('have one order of keys, the first ones as they always were', () => {
    const { linksOf } = twoThreads(1_024);
    const [a] = [linksOf(0), linksOf(1)];
    expect(Object.keys(a.counters()[0] ?? {}).join(' ')).toBe(
      'peer lane frames bytes full wakes waiting waiting_bytes stalled_ms ring_free_bytes slab_free_bytes slab_bytes slab_bytes_max received_frames received_bytes stale latencies_us latency_us_sum',
    );
  });

  it('hold a histogram of the time from send to receive, sampled, over the wrap of its word', () => {
    let now_us = 2 ** 32 - 5_000;
    const { linksOf } = twoThreads(65_536);
    const clock = { now_us: () => now_us };
    const [a, b] = [linksOf(0, clock), linksOf(1, clock)];
    for (const wait_us of [0, 1, 3, 700, 9_000, 5e6, 3e9]) {
      for (let id = 0; id < 64; id++) a.send(1, 'data', frame(id), null);
      a.flush();
      now_us += wait_us;
      takeTurn(b);
    }
    const latencies = dataOf(b)?.latencies_us ?? [];
    expect(latencies.flatMap((count, bucket) => (count > 0 ? [[bucket, count]] : []))).toEqual([
      // 3·10⁹ µs do not fit: such a time looks as if it came from the future.
      [0, 2],
      [1, 1],
      [2, 1],
      [10, 1],
      [14, 1],
      [23, 1],
    ]);
    expect(dataOf(b)?.latency_us_sum).toBe(1 + 3 + 700 + 9_000 + 5e6);
  });
});
