/** A ring is a queue, whatever its two ends do and when. */
import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FRAME_KIND, type FrameAddress, RingConsumer, RingProducer } from '../../src/fabric/ring.ts';
import { clearRing, inlineBytesMax, PAYLOAD_BYTES_MAX, type RingShape, ringBytes, wholeBytesMax } from '../../src/fabric/ring-layout.ts';
import { Scratch } from '../../src/fabric/scratch.ts';
import { runs } from '../property-runs.ts';

const EPOCH = 7;
const SHAPES: readonly RingShape[] = [
  { offset: 0, capacity: 512, slab_bytes: 0 },
  { offset: 128, capacity: 512, slab_bytes: 1_024 },
  { offset: 0, capacity: 256, slab_bytes: 4_096 },
];
const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
/** One for all runs: a process that holds 10,000 memories waits for each new one, on Deno, and V8 sees no reason to collect them. */
function clearMemory(): void {
  new Uint8Array(memory.buffer).fill(0);
}
const header = (source: number): FrameAddress => ({ kind: FRAME_KIND.message, source, destination: source + 1, roles: 0x102 });
/** Words that tell frame and place; the last bytes of the last word are past the payload. */
const wordsOf = (seed: number, bytes: number): Int32Array => Int32Array.from({ length: Math.ceil(bytes / 4) + 3 }, (_, index) => seed * 0x01000193 + index);
const bytesOf = (seed: number, bytes: number): Uint8Array => new Uint8Array(wordsOf(seed, bytes).buffer, 8, bytes);

type Step = { readonly act: 'write'; readonly share: number } | { readonly act: 'publish' | 'read' | 'release' };
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ act: fc.constant('write' as const), share: fc.double({ min: 0, max: 1, noNaN: true }) }) },
  { weight: 2, arbitrary: fc.record({ act: fc.constant('write' as const), share: fc.constant(0.02) }) },
  { weight: 2, arbitrary: fc.constant<Step>({ act: 'publish' }) },
  { weight: 4, arbitrary: fc.constant<Step>({ act: 'read' }) },
  { weight: 2, arbitrary: fc.constant<Step>({ act: 'release' }) },
);

describe.each(SHAPES)('a ring of $capacity bytes with a slab of $slab_bytes', (shape) => {
  it('gives frames in order, whole, once published and never before, over wraps and refusals', () => {
    const scratch = new Scratch(16);
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400 }), fc.integer({ min: -2_000, max: 2_000 }), (steps, start) => {
        clearMemory();
        const words = new Int32Array(memory.buffer, shape.offset);
        // Indices may stand anywhere, also just before they wrap around 2³².
        const first = ((start < 0 ? 0x7fff_ffff : 0) & ~7) + (start & ~7);
        for (const word of [0, 32, 33]) words[word] = first | 0;
        const producer = new RingProducer(memory, shape, EPOCH);
        const consumer = new RingConsumer(memory, shape);
        const unpublished: { id: number; bytes: number }[] = [];
        const visible: { id: number; bytes: number }[] = [];
        let id = 0;
        let held = 0;
        for (const at of steps) {
          if (at.act === 'write') {
            const bytes = Math.floor(at.share * wholeBytesMax(shape));
            const isTaken = producer.write(header(id), wordsOf(id, bytes), 2, bytes, -1);
            if (isTaken) unpublished.push({ id, bytes });
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
            expect(consumer.gather()).toBe(true);
            const { id: source, bytes } = expected;
            expect(consumer.header).toMatchObject({ kind: FRAME_KIND.message, source, destination: source + 1, epoch: EPOCH, time: -1, roles: 0x102, bytes });
            expect(consumer.payload()).toEqual(bytesOf(source, bytes));
            consumer.copyPayload(scratch);
            expect(scratch.bytes.subarray(0, bytes)).toEqual(bytesOf(source, bytes));
            if (bytes >= 4) expect(consumer.payloadWord(0)).toBe(wordsOf(source, 4)[2]);
          } else {
            consumer.release();
            held = 0;
            if (unpublished.length + visible.length > 0) continue;
            expect(producer.free_bytes).toBe(shape.capacity);
            expect(producer.slab?.bytes ?? 0).toBe(0);
          }
        }
      }),
      { numRuns: runs(150) },
    );
  });

  it('carries a payload of any size in parts, as far as there is room for each', () => {
    const scratch = new Scratch(16);
    fc.assert(
      fc.property(fc.integer({ min: wholeBytesMax(shape) + 1, max: 40_000 }), fc.integer({ min: 0, max: 3 }), (total, eager) => {
        clearMemory();
        const producer = new RingProducer(memory, shape, EPOCH);
        const consumer = new RingConsumer(memory, shape);
        const words = wordsOf(total, total).subarray(2);
        let isWhole = false;
        for (let at = 0; !isWhole; ) {
          for (let parts = 0; parts <= eager && at < total; parts++) at += producer.writePart(header(1), words, at, total, 0);
          producer.publish();
          while (consumer.next()) isWhole = consumer.gather();
          consumer.release();
        }
        expect(consumer.header.bytes).toBe(total);
        expect(Buffer.compare(consumer.payload(), bytesOf(total, total))).toBe(0);
        expect(consumer.payloadWord(1)).toBe(words[1]);
        consumer.copyPayload(scratch);
        expect(Buffer.compare(scratch.bytes.subarray(0, total), bytesOf(total, total))).toBe(0);
        expect([consumer.next(), producer.free_bytes, producer.slab?.bytes ?? 0]).toEqual([false, shape.capacity, 0]);
      }),
      { numRuns: runs(40) },
    );
  });

  it('finds any bit that flips in a frame that lies there', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: wholeBytesMax(shape) }), fc.nat(), (bytes, flip) => {
        clearMemory();
        const producer = new RingProducer(memory, shape, EPOCH);
        const consumer = new RingConsumer(memory, shape);
        producer.write(header(7), wordsOf(1, bytes), 0, bytes, 0);
        producer.publish();
        const isExtended = bytes > inlineBytesMax(shape);
        const length = Math.ceil(bytes / 4);
        const [inRing, inSlab] = !isExtended ? [8 + length, 0] : shape.slab_bytes === 0 ? [12 + length, 0] : [12, length];
        const words = new Int32Array(memory.buffer, shape.offset + 256);
        const at = Math.floor((flip % ((inRing + inSlab) * 32)) / 32);
        const word = at < inRing ? at : shape.capacity / 4 + at - inRing;
        words[word] = (words[word] as number) ^ (1 << (flip % 32));
        expect(() => consumer.next() && consumer.gather(), `bit ${flip % 32} of word ${word}`).toThrow(/the ring is corrupt/);
      }),
      { numRuns: runs(1_000) },
    );
  });

  it('tells rubbish from frames', () => {
    // sequence, bytes
    for (const [word, value, bytes] of [
      [3, 99, 8],
      [6, -1, 8],
      [6, 100_000, 8],
      [8, 8, wholeBytesMax(shape)],
      [9, 8, wholeBytesMax(shape)],
      [10, 4, wholeBytesMax(shape)],
      [11, -5, wholeBytesMax(shape)],
    ] as const) {
      if (word > 7 && shape.slab_bytes === 0) continue;
      clearMemory();
      const producer = new RingProducer(memory, shape, EPOCH);
      const consumer = new RingConsumer(memory, shape);
      producer.write(header(0), wordsOf(0, bytes), 0, bytes, 0);
      producer.publish();
      new Int32Array(memory.buffer, shape.offset)[64 + word] = value;
      expect(() => consumer.next() && consumer.gather(), `word ${word}`).toThrow(/the ring is corrupt/);
    }
  });
});

describe('a ring', () => {
  it('refuses capacities that are no power of two, places off a cache line pair, payloads that no ring takes', () => {
    clearMemory();
    const [shape] = SHAPES as readonly [RingShape];
    expect(() => new RingProducer(memory, { ...shape, capacity: 500 }, EPOCH)).toThrow(/power of two/);
    expect(() => new RingConsumer(memory, { ...shape, offset: 64 })).toThrow(/cache line/);
    expect(() => new RingConsumer(memory, { ...shape, slab_bytes: 300 })).toThrow(/slab's size is a power of two/);
    const producer = new RingProducer(memory, shape, EPOCH);
    expect(() => producer.write(header(0), new Int32Array(200), 0, wholeBytesMax(shape) + 1, 0)).toThrow(/does not fit/);
    expect(() => producer.writePart(header(0), new Int32Array(9), 0, PAYLOAD_BYTES_MAX + 1, 0)).toThrow(/does not fit/);
    expect(ringBytes({ capacity: 512, slab_bytes: 1_024 })).toBe(256 + 512 + 1_024);
  });

  it('is empty and free after it was cleared, its slab too', () => {
    clearMemory();
    const [, shape] = SHAPES as readonly [RingShape, RingShape];
    const old = new RingProducer(memory, shape, EPOCH);
    old.write(header(0), new Int32Array(100), 0, 400, 0);
    old.setWaits(true);
    old.publish();
    const reader = new RingConsumer(memory, shape);
    reader.next();
    reader.release();
    clearRing(memory, shape);
    const [producer, consumer] = [new RingProducer(memory, shape, EPOCH + 1), new RingConsumer(memory, shape)];
    expect([consumer.isEmpty(), consumer.producerWaits(), producer.free_bytes, producer.slab?.bytes]).toEqual([true, false, shape.capacity, 0]);
    producer.write(header(5), wordsOf(5, 512), 2, 512, 0);
    producer.publish();
    expect([consumer.next(), consumer.gather(), consumer.header.epoch, consumer.payload()]).toEqual([true, true, EPOCH + 1, bytesOf(5, 512)]);
  });
});
