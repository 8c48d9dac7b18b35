/** From the moment that a thread is given up its peers hear nothing of it, and nothing that it does to its rings harms them. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Links, type LinksOptions } from '../../src/fabric/links.ts';
import { EXTENT } from '../../src/fabric/ring-layout.ts';
import { type ThreadMessage, threadPeerRestarted } from '../../src/protocol/threads.ts';
import { Codec } from '../../src/protocol/wire.ts';
import { runs } from '../property-runs.ts';
import { CONTROL_AT, frame, payloadOf, twoThreads } from './two-threads.ts';

/** The rings lie in the first segment, epochs and stop words in all of them. */
function twoThreadsOver(segments: number, capacity: number) {
  const { memory, rings, resetAll } = twoThreads(capacity);
  const others = Array.from({ length: segments - 1 }, () => new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true }));
  const control = new ControlPage([memory, ...others], CONTROL_AT);
  const linksOf = (thread: number, options?: LinksOptions): Links => new Links(thread, memory, rings, control, options);
  return { memory, rings, control, linksOf, resetAll };
}

const dataOf = (links: Links) => links.counters().find(({ lane }) => lane === 'data');
/** Ids of the frames that one turn delivers. */
function takeTurn(links: Links): number[] {
  const got: number[] = [];
  links.receive((_, ring) => got.push(ring.header.source));
  return got;
}

/** The thread's rings begin anew, and its successor's first frame comes. */
function expectSuccessor(a: Links, { linksOf, resetAll }: ReturnType<typeof twoThreadsOver>): void {
  a.detach(1);
  resetAll();
  const successor = linksOf(1);
  a.attach(1);
  successor.send(0, 'data', frame(9), null);
  successor.flush();
  expect(takeTurn(a)).toEqual([9]);
}

describe.each([2, 5])('over %i segments, a thread whose epoch was raised', (segments) => {
  it('is not heard any more, neither what it published before nor what it goes on sending; its successor is', () => {
    const pair = twoThreadsOver(segments, 1_024);
    const { linksOf, control } = pair;
    const a = linksOf(0);
    const zombie = linksOf(1);
    // It does not look at its own epoch: the check at the reader is what counts.
    zombie.isFenced = () => false;
    for (let id = 0; id < 3; id++) zombie.send(0, 'data', frame(id), payloadOf(id, 200));
    zombie.flush();
    control.raiseEpoch(1);
    zombie.send(0, 'control', frame(4), null);
    zombie.flush();
    expect([takeTurn(a), takeTurn(a)]).toEqual([[], []]);
    // One of each lane says that the writer was given up; what follows it is not even looked at.
    expect(a.counters().map(({ stale }) => stale)).toEqual([1, 1]);
    expect(dataOf(a)?.received_frames).toBe(0);
    expectSuccessor(a, pair);
  });

  it('neither sends nor takes any more as soon as it looks, and a payload of which parts had come is gone', () => {
    const { linksOf, control } = twoThreadsOver(segments, 1_024);
    const [a, b] = [linksOf(0), linksOf(1)];
    b.send(0, 'data', frame(1), payloadOf(1, 5_000));
    b.flush();
    expect(takeTurn(a)).toEqual([]);
    expect(dataOf(a)?.received_frames).toBeGreaterThan(0);
    a.send(1, 'data', frame(2), null);
    a.flush();
    control.raiseEpoch(1);
    expect(b.isFenced()).toBe(true);
    expect([b.flush(), takeTurn(b), takeTurn(a)]).toEqual([false, [], []]);
    expect(dataOf(b)?.received_frames).toBe(0);
  });

  it('has left what it had published whole: that is handed out once its end is proven, in order', () => {
    const pair = twoThreadsOver(segments, 1_024);
    const { linksOf, control } = pair;
    const [a, b] = [linksOf(0), linksOf(1)];
    for (const id of [1, 2, 3]) b.send(0, 'data', frame(id), payloadOf(id, 20));
    // Half of it at most found room.
    b.send(0, 'data', frame(4), payloadOf(4, 5_000));
    b.flush();
    control.raiseEpoch(1);
    expect(takeTurn(a)).toEqual([]);
    const left: (readonly [number, Uint8Array])[] = [];
    expect(a.drain(1, (_, ring) => left.push([ring.header.source, ring.payload()]))).toBe(3);
    expect(left).toEqual([1, 2, 3].map((id) => [id, payloadOf(id, 20)]));
    expectSuccessor(a, pair);
  });

  it('owes nobody what found no room in its ring any more', () => {
    const { linksOf, control } = twoThreadsOver(segments, 1_024);
    const [a, b] = [linksOf(0), linksOf(1)];
    expect(a.isOwed()).toBe(false);
    for (let id = 0; id < 9; id++) b.send(0, 'data', frame(id), payloadOf(id, 400));
    b.flush();
    expect(b.waiting(0, 'data')).toBeGreaterThan(0);
    expect(a.isOwed()).toBe(true);
    control.raiseEpoch(1);
    expect(a.isOwed()).toBe(false);
  });

  it('keeps the epoch that it was started for, however late it looks', () => {
    const { linksOf, control } = twoThreadsOver(segments, 1_024);
    const a = linksOf(0);
    const epoch = control.epochOf(1);
    control.raiseEpoch(1);
    const late = linksOf(1, { epoch });
    late.send(0, 'data', frame(1), null);
    expect([late.isFenced(), late.flush(), takeTurn(a)]).toEqual([true, false, []]);
  });

  it('is a stranger to its peer: whatever it stores in its ring, the peer goes on, sleeps, and hears its successor', () => {
    const pair = twoThreadsOver(segments, 1_024);
    const { linksOf, control, rings, memory, resetAll } = pair;
    const rubbish = fc.record({ head: fc.integer(), word: fc.integer({ min: 0, max: 15 }), value: fc.integer(), heard: fc.integer({ min: 0, max: 3 }) });
    fc.assert(
      fc.property(rubbish, ({ head, word, value, heard }) => {
        resetAll();
        const [a, zombie] = [linksOf(0), linksOf(1)];
        for (let id = 0; id < heard; id++) zombie.send(0, 'data', frame(id), payloadOf(id, 20));
        zombie.flush();
        expect(takeTurn(a).length).toBe(heard);
        control.raiseEpoch(1);
        for (const { from, offset } of rings) {
          if (from !== 1) continue;
          const words = new Int32Array(memory.buffer, offset);
          words.fill(value, 64, 64 + 256);
          words[64 + word] = head;
          Atomics.store(words, 0, head);
        }
        expect([takeTurn(a), takeTurn(a), a.hasInbound()]).toEqual([[], [], false]);
        const tails = (): number[] => rings.map(({ offset }) => new Int32Array(memory.buffer, offset)[32] as number);
        const before = tails();
        takeTurn(a);
        expect(tails()).toEqual(before);
        expectSuccessor(a, pair);
      }),
      { numRuns: runs(100) },
    );
  });

  it('is not taken for its successor by a peer that reads of it late: the notice says for which one it is', () => {
    const { linksOf, control, rings, memory } = twoThreadsOver(segments, 1_024);
    const a = linksOf(0);
    a.detach(1);
    const codec = new Codec();
    const notice = codec.encode(threadPeerRestarted(0, 1, control.epochOf(1), [0]));
    control.raiseEpoch(1);
    for (const { offset } of rings) {
      new Int32Array(memory.buffer, offset).fill(99, 64, 80);
      Atomics.store(new Int32Array(memory.buffer, offset), 0, 64);
    }
    const { thread, epoch } = codec.decode(notice) as Extract<ThreadMessage, { type: 'PEER_RESTARTED' }>;
    a.attach(thread, epoch);
    expect([takeTurn(a), a.hasInbound()]).toEqual([[], false]);
  });

  it('is not taken for its successor by one that starts late either: that knows the epochs of when it was started', () => {
    const { linksOf, control, rings, memory } = twoThreadsOver(segments, 1_024);
    const peer_epochs = [control.epochOf(0), control.epochOf(1)];
    control.raiseEpoch(1);
    for (const { offset } of rings) {
      new Int32Array(memory.buffer, offset).fill(99, 64, 80);
      Atomics.store(new Int32Array(memory.buffer, offset), 0, 64);
    }
    const a = linksOf(0, { peer_epochs });
    expect([takeTurn(a), a.hasInbound()]).toEqual([[], false]);
    // Without them it takes the rubbish for a defect of one that counts, and dies of it.
    expect(() => takeTurn(linksOf(0))).toThrow(/the ring is corrupt/);
  });

  it('is told apart from one that still counts, whose rubbish is a defect', () => {
    const { linksOf, rings, memory } = twoThreadsOver(segments, 1_024);
    const a = linksOf(0);
    for (const { from, offset } of rings) if (from === 1) Atomics.store(new Int32Array(memory.buffer, offset), 0, 64);
    new Int32Array(memory.buffer, rings.find(({ from }) => from === 1)?.offset).fill(99, 64, 80);
    expect(() => takeTurn(a)).toThrow(/the ring is corrupt/);
  });

  it('is given up by a thread that must not end of its rubbish', () => {
    const { linksOf, rings, memory } = twoThreadsOver(segments, 1_024);
    const corrupt: number[] = [];
    const [a, b] = [linksOf(0, { onCorrupt: (peer) => corrupt.push(peer) }), linksOf(1)];
    b.send(0, 'data', frame(1), payloadOf(1, 20));
    b.flush();
    const ring = rings.find(({ from, lane }) => from === 1 && lane === 'data');
    new Int32Array(memory.buffer, ring?.offset).fill(12_345, 64 + 9, 64 + 10);
    expect([takeTurn(a), takeTurn(a), corrupt, dataOf(a)?.stale]).toEqual([[], [], [1], 1]);
  });

  it('may be given up while the parts of its payload are gathered', () => {
    const { linksOf, rings, memory, control } = twoThreadsOver(segments, 1_024);
    const [a, zombie] = [linksOf(0), linksOf(1)];
    zombie.send(0, 'data', frame(1), payloadOf(1, 2_000));
    zombie.flush();
    const ring = rings.find(({ from, lane }) => from === 1 && lane === 'data');
    // The second part: it says that it begins elsewhere.
    new Int32Array(memory.buffer, ring?.offset)[64 + 12 + EXTENT.at] = 8;
    const { epochOf } = control;
    let looks = 0;
    // It is given up before the second frame, whose sum is wrong, is looked at.
    control.epochOf = (thread) => {
      if (thread === 1 && ++looks === 2) control.raiseEpoch(1);
      return epochOf.call(control, thread);
    };
    expect(takeTurn(a)).toEqual([]);
    expect(dataOf(a)).toMatchObject({ received_frames: 1, stale: 1 });
  });
});
