/** A peer that does not drain its rings is seen, by time or by what waits for it, and one that sleeps is woken. */
import { describe, expect, it } from 'vitest';
import { sayAsOfALapAgo } from '../../src/chaos/ring-bytes.ts';
import type { Links, RingPlace } from '../../src/fabric/links.ts';
import { LIMITS } from '../../src/fabric/outgoing.ts';
import { SEGMENTS } from './segments.ts';
import { frame, payloadOf, twoThreads } from './two-threads.ts';

const dataOf = (links: Links) => links.counters().find(({ lane }) => lane === 'data');
/** Ids of the frames that one turn delivers. */
function takeTurn(links: Links): number[] {
  const got: number[] = [];
  links.receive((_, ring) => got.push(ring.header.source));
  return got;
}

describe.each(SEGMENTS)('over %i segments, a peer that stopped draining', (segments) => {
  it('is seen by time, and named with lane and frames, while others are served', () => {
    let now_us = 5e9;
    const { linksOf } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0, { now_us: () => now_us }), linksOf(1)];
    for (let id = 0; id < 40; id++) a.send(1, 'data', frame(id), payloadOf(id, 100));
    a.flush();
    now_us += 2_000_000;
    a.flush();
    expect(dataOf(a)?.stalled_ms).toBe(2_000);
    expect(a.counters().find(({ lane }) => lane === 'control')?.stalled_ms).toBe(0);
    takeTurn(b);
    a.flush();
    expect(dataOf(a)?.stalled_ms).toBe(0);
    now_us += LIMITS.stall_ms_max * 1_000;
    a.send(1, 'control', frame(99), null);
    expect(a.flush()).toBe(true);
    now_us += 1_000_000;
    const { waiting, waiting_bytes } = dataOf(a) ?? {};
    expect(() => a.flush()).toThrow(
      new RegExp(`thread 1, for whose data ring ${waiting} frames of ${waiting_bytes} bytes wait, stopped draining: it has read nothing for more than 60 s`),
    );
    // What others wait for was shown all the same.
    expect(takeTurn(b)[0]).toBe(99);
  });

  it('is seen by frames that it leaves unread, though nothing waits for room', () => {
    let now_us = 5e9;
    const { linksOf } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0, { now_us: () => now_us }), linksOf(1)];
    const stalls = (): number[] => a.counters().map(({ stalled_ms }) => stalled_ms);
    expect(stalls()).toEqual([0, 0]);
    now_us += 90_000_000;
    // It has nothing to read.
    expect(stalls()).toEqual([0, 0]);
    a.send(1, 'data', frame(0), payloadOf(0, 100));
    expect(stalls()).toEqual([0, 0]);
    expect(a.flush()).toBe(false);
    expect(stalls()).toEqual([0, 0]);
    now_us += 31_000_000;
    expect(stalls()).toEqual([0, 31_000]);
    takeTurn(b);
    expect(stalls()).toEqual([0, 0]);
    now_us += 90_000_000;
    expect([a.flush(), ...stalls()]).toEqual([false, 0, 0]);
  });

  it('is an error of who flushes for a minute, which looks at its clock seldom', () => {
    let now_us = 5e9;
    let clocks = 0;
    const { linksOf } = twoThreads(1_024, { segments });
    const now = (): number => {
      clocks++;
      return now_us;
    };
    const a = linksOf(0, { now_us: now });
    a.send(1, 'data', frame(0), payloadOf(0, 100));
    clocks = 0;
    // 50 ms a turn that finds nothing to do.
    const flushFor = (duration_ms: number): void => {
      for (let passed_ms = 0; passed_ms < duration_ms; passed_ms += 50) {
        now_us += 50_000;
        expect([a.hasInbound(), a.flush()]).toEqual([false, false]);
      }
    };
    flushFor(60_000);
    expect(clocks).toBeLessThan(10);
    expect(() => flushFor(30_000)).toThrow('thread 1, in whose data ring 136 bytes are unread, stopped draining: it has read nothing for more than 60 s');
  });

  it('is seen by what waits for it', () => {
    const { linksOf } = twoThreads(1_024, { segments });
    const a = linksOf(0);
    const sendAll = (): void => {
      for (let id = 0; id <= LIMITS.outbox_payloads_max + 600; id++) a.send(1, 'control', frame(id), null);
    };
    expect(sendAll).toThrow(new RegExp(`thread 1, for whose control ring ${LIMITS.outbox_payloads_max} frames of 0 bytes wait, stopped draining`));
  });

  it('is one of whom somebody has written how far it has read: it says so again, and goes on', () => {
    let now_us = 5e9;
    const { memory, rings, linksOf } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1, { now_us: () => now_us })];
    const place = rings.find(({ from, lane }) => from === 0 && lane === 'data') as RingPlace;
    for (let id = 0; id < 3; id++) a.send(1, 'data', frame(id), payloadOf(id, 100));
    a.flush();
    expect(takeTurn(b)).toEqual([0, 1, 2]);
    const space = { wordsOf: () => new Int32Array(memory.buffer) };
    expect(sayAsOfALapAgo(space, place)).not.toBeNull();
    // What room it knows of is used up first.
    for (let id = 3; a.send(1, 'data', frame(id), payloadOf(id, 100)); id++) a.flush();
    const sent = a.counters().find(({ lane }) => lane === 'data')?.frames ?? 0;
    expect(sayAsOfALapAgo(space, place)).toBeNull();
    expect([takeTurn(b).length, a.flush(), takeTurn(b).length]).toEqual([sent - 3, false, 1]);
    expect(sayAsOfALapAgo(space, place)).not.toBeNull();
    const large = payloadOf(99, 400);
    a.send(1, 'data', frame(99), large);
    expect([a.flush(), takeTurn(b)]).toEqual([true, []]);
    now_us += 2_000_000;
    for (let turn = 0; turn < 256; turn++) expect([b.hasInbound(), b.flush()]).toEqual([false, false]);
    expect([a.flush(), takeTurn(b)]).toEqual([false, [99]]);
  });

  it('is woken when it sleeps, and wakes its sender when it has read', () => {
    const { linksOf, control } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    control.markAsleep(1);
    for (let id = 0; id < 40; id++) a.send(1, 'data', frame(id), payloadOf(id, 100));
    a.flush();
    a.flush();
    expect([control.wakes(1), dataOf(a)?.wakes]).toEqual([1, 1]);
    control.markAsleep(0);
    expect(a.hasInbound()).toBe(false);
    takeTurn(b);
    expect(control.wakes(0)).toBe(1);
    expect(a.hasInbound()).toBe(true);
    // Nothing waits any more: a sleeper is left alone.
    for (let turn = 0; turn < 20; turn++) {
      a.flush();
      takeTurn(b);
    }
    control.markAsleep(0);
    a.send(1, 'data', frame(1), null);
    a.flush();
    takeTurn(b);
    expect([control.wakes(0), a.hasInbound()]).toEqual([1, false]);
  });

  it('is not woken for what it may find when it looks up, only for what comes with it or had no room', () => {
    const { linksOf, control } = twoThreads(1_024, { segments });
    const [a, b] = [linksOf(0), linksOf(1)];
    const quietly = (id: number): boolean => a.sendWords(1, 'data', frame(id), new Int32Array(0), 0, 0, false);
    control.markAsleep(1);
    quietly(1);
    a.flush();
    expect([control.wakes(1), b.hasInbound()]).toEqual([0, true]);
    quietly(2);
    a.send(1, 'data', frame(3), null);
    a.flush();
    expect(control.wakes(1)).toBe(1);
    expect(takeTurn(b)).toEqual([1, 2, 3]);
    control.markAsleep(1);
    quietly(4);
    a.flush();
    expect(control.wakes(1)).toBe(1);
    // What is still in the outbox when the rest is shown wakes later.
    for (let id = 5; id < 60; id++) a.send(1, 'data', frame(id), payloadOf(id, 100));
    a.flush();
    expect(control.wakes(1)).toBe(2);
    takeTurn(b);
    control.markAsleep(1);
    a.flush();
    expect(control.wakes(1)).toBe(3);
  });
});
