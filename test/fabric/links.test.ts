/** Links between threads: back-pressure is a queue at the sender, never a block, and never a lost or doubled frame. */
import { describe, expect, it } from 'vitest';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Links, planRings, resetRing } from '../../src/fabric/links.ts';
import { FRAME_KIND } from '../../src/fabric/ring.ts';
import { MessagePort } from '../../src/runtime/message-port.ts';

const CONTROL_AT = 65_536;

function twoThreads(capacity: number) {
  const { rings, bytes } = planRings(
    [
      { from: 0, to: 1, capacity },
      { from: 1, to: 0, capacity },
    ],
    2 * 65_536,
  );
  const memory = new WebAssembly.Memory({ initial: 2 + Math.ceil(bytes / 65_536), maximum: 2 + Math.ceil(bytes / 65_536), shared: true });
  const linksOf = (thread: number): Links => new Links(thread, memory, rings, new ControlPage(memory, CONTROL_AT));
  return { memory, rings, linksOf };
}

const frame = (source: number) => ({ kind: FRAME_KIND.message, source, destination: 0, sequence: 0, epoch: 0, time: 0, bytes: 0, roles: 0 });

describe('links', () => {
  it('keep frames in order when the peer does not read for long, and say that some wait', () => {
    const { linksOf } = twoThreads(1_024);
    const [a, b] = [linksOf(0), linksOf(1)];
    const got: number[] = [];
    for (let id = 0; id < 500; id++)
      a.send(
        1,
        'data',
        frame(id),
        Uint8Array.from({ length: id % 200 }, () => id & 0xff),
      );
    expect(a.flush()).toBe(true);
    for (let round = 0; round < 1_000 && got.length < 500; round++) {
      b.receive((_, ring) => {
        expect(ring.payload()).toEqual(Uint8Array.from({ length: ring.header.source % 200 }, () => ring.header.source & 0xff));
        got.push(ring.header.source);
      });
      a.flush();
    }
    expect(got).toEqual(Array.from({ length: 500 }, (_, id) => id));
    expect(a.flush()).toBe(false);
    expect(a.counters().find(({ lane }) => lane === 'data')).toMatchObject({ peer: 1, frames: 500 });
    expect(a.counters().find(({ lane }) => lane === 'data')?.full).toBeGreaterThan(0);
  });

  it('deliver nothing of a peer that the handler has just detached, and leave its ring as it is', () => {
    const { memory, rings, linksOf } = twoThreads(1_024);
    const [a, b] = [linksOf(0), linksOf(1)];
    for (let id = 0; id < 3; id++) a.send(1, 'control', frame(id), null);
    a.send(1, 'data', frame(9), null);
    a.flush();
    const got: number[] = [];
    b.receive((peer, ring) => {
      got.push(ring.header.source);
      b.detach(peer);
      // Its successor may own the rings from here on.
      for (const place of rings) resetRing(memory, place);
      b.attach(peer);
    });
    expect(got).toEqual([0]);
    const successor = linksOf(0);
    successor.send(1, 'data', frame(20), null);
    successor.flush();
    b.receive((_, ring) => got.push(ring.header.source));
    expect(got).toEqual([0, 20]);
  });

  it('let control overtake data', () => {
    const { linksOf } = twoThreads(1_024);
    const [a, b] = [linksOf(0), linksOf(1)];
    a.send(1, 'data', frame(1), null);
    a.send(1, 'control', frame(2), null);
    a.flush();
    const got: number[] = [];
    b.receive((_, ring) => got.push(ring.header.source));
    expect(got).toEqual([2, 1]);
  });

  it('start anew after detach, reset and attach, with nothing left of before', () => {
    const { memory, rings, linksOf } = twoThreads(1_024);
    const [a, b] = [linksOf(0), linksOf(1)];
    for (let id = 0; id < 9; id++) a.send(1, 'data', frame(id), new Uint8Array(300));
    a.flush();
    b.receive(() => {});
    a.detach(1);
    expect(a.isAttached(1)).toBe(false);
    expect(() => a.send(1, 'data', frame(1), null)).toThrow(/no link to thread 1/);
    for (const ring of rings) resetRing(memory, ring);
    const successor = linksOf(1);
    a.attach(1);
    a.send(1, 'data', frame(77), null);
    a.flush();
    const got: number[] = [];
    successor.receive((_, ring) => got.push(ring.header.source));
    expect(got).toEqual([77]);
  });

  it('carry messages larger than a frame in parts, among others', () => {
    const { linksOf } = twoThreads(1_024);
    const [a, b] = [new MessagePort(linksOf(0)), new MessagePort(linksOf(1))];
    const messages = [3, 5_000, 0, 100_000].map((length, request) => ({ type: 'PROMPT', request, token_ids: Array.from({ length }, (_, index) => index) }));
    for (const message of messages) a.send(1, 'frontend/0', 'caller/0', message);
    const got: unknown[] = [];
    for (let round = 0; round < 10_000 && got.length < messages.length; round++) {
      a.links.flush();
      b.links.receive((_, ring) => {
        const mail = b.read(ring);
        if (mail !== null) got.push(mail);
      });
    }
    expect(got).toEqual(messages.map((message) => ({ to: 'frontend/0', from: 'caller/0', message })));
  });
});
