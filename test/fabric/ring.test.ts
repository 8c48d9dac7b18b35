/** A ring is a queue, whatever its two ends do and when. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FRAME_KIND, type FrameHeader, payloadBytesMax, RingConsumer, RingProducer, ringBytes } from '../../src/fabric/ring.ts';

const CAPACITY = 512;
const makeMemory = (): WebAssembly.Memory => new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
const header = (source: number): FrameHeader => ({
  kind: FRAME_KIND.message,
  source,
  destination: source + 1,
  sequence: 0,
  epoch: 7,
  time: -1,
  bytes: 0,
  roles: 0x102,
});
const payloadOf = (seed: number, length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => (seed * 31 + index * 7) & 0xff);

type Step = { readonly act: 'write'; readonly bytes: number } | { readonly act: 'publish' | 'read' | 'release' };
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ act: fc.constant('write' as const), bytes: fc.integer({ min: 0, max: payloadBytesMax(CAPACITY) }) }) },
  { weight: 2, arbitrary: fc.constant<Step>({ act: 'publish' }) },
  { weight: 4, arbitrary: fc.constant<Step>({ act: 'read' }) },
  { weight: 2, arbitrary: fc.constant<Step>({ act: 'release' }) },
);

describe('a ring', () => {
  it('gives frames in order, whole, once published and never before, over wraps and refusals', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400 }), fc.integer({ min: -2_000, max: 2_000 }), (steps, start) => {
        const memory = makeMemory();
        // Indices may stand anywhere, also just before they wrap around 2³².
        const first = ((start < 0 ? 0x7fff_ffff : 0) & ~7) + (start & ~7);
        new Int32Array(memory.buffer)[0] = first | 0;
        new Int32Array(memory.buffer)[32] = first | 0;
        const producer = new RingProducer(memory, 0, CAPACITY);
        const consumer = new RingConsumer(memory, 0, CAPACITY);
        const unpublished: { id: number; bytes: number }[] = [];
        const visible: { id: number; bytes: number }[] = [];
        let id = 0;
        let isReleased = true;
        let held = 0;
        for (const at of steps) {
          if (at.act === 'write') {
            const isTaken = producer.write(header(id), at.bytes === 0 ? null : payloadOf(id, at.bytes));
            if (isTaken) unpublished.push({ id, bytes: at.bytes });
            // An empty ring takes any payload that it declares to take.
            else expect(visible.length + unpublished.length + held).toBeGreaterThan(0);
            id++;
          } else if (at.act === 'publish') {
            expect(producer.publish()).toBe(unpublished.length > 0);
            visible.push(...unpublished.splice(0));
          } else if (at.act === 'read') {
            const expected = visible.shift();
            expect(consumer.next()).toBe(expected !== undefined);
            if (expected === undefined) continue;
            held++;
            isReleased = false;
            expect(consumer.header).toMatchObject({
              source: expected.id,
              destination: expected.id + 1,
              epoch: 7,
              time: -1,
              roles: 0x102,
              bytes: expected.bytes,
            });
            expect(consumer.payload()).toEqual(payloadOf(expected.id, expected.bytes));
          } else if (!isReleased) {
            consumer.release();
            isReleased = true;
            held = 0;
          }
        }
      }),
      { numRuns: 300 },
    );
  });

  it('refuses a payload over its limit, capacities that are no power of two, places off a cache line pair', () => {
    const memory = makeMemory();
    const producer = new RingProducer(memory, 0, CAPACITY);
    expect(() => producer.write(header(0), new Uint8Array(payloadBytesMax(CAPACITY) + 1))).toThrow(/does not fit/);
    expect(() => new RingProducer(memory, 0, 500)).toThrow(/power of two/);
    expect(() => new RingConsumer(memory, 64, CAPACITY)).toThrow(/cache line/);
    expect(ringBytes(CAPACITY)).toBe(256 + CAPACITY);
  });

  it('tells rubbish from frames', () => {
    const memory = makeMemory();
    const producer = new RingProducer(memory, 0, CAPACITY);
    const consumer = new RingConsumer(memory, 0, CAPACITY);
    producer.write(header(0), new Uint8Array(8));
    producer.publish();
    new Int32Array(memory.buffer)[64 + 3] = 99;
    expect(() => consumer.next()).toThrow(/the ring is corrupt/);
  });
});
