/** A ring of 64-byte slots is a queue, whatever its two ends do and when. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { RingShape } from '../../src/fabric/ring-layout.ts';
import { SLOT_WORDS, SlotConsumer, SlotProducer } from '../../src/fabric/slots.ts';
import { runs } from '../property-runs.ts';

const SLOTS = 8;
const SHAPE: RingShape = { offset: 128, capacity: SLOTS * SLOT_WORDS * 4, slab_bytes: 0 };

const step = fc.record({ act: fc.constantFrom('claim', 'publish', 'take', 'release'), count: fc.integer({ min: 1, max: SLOTS + 3 }) });

it('slots come whole, in order, once published and never before, and their room comes back when it is released', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), fc.integer({ min: -SLOTS, max: SLOTS }), (steps, start) => {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
      // Indices may stand anywhere, also just before they wrap around 2³².
      const first = (start * SLOT_WORDS * 4) | 0;
      new Int32Array(memory.buffer)[SHAPE.offset / 4] = first;
      new Int32Array(memory.buffer)[SHAPE.offset / 4 + 32] = first;
      const producer = new SlotProducer(memory, SHAPE);
      const consumer = new SlotConsumer(memory, SHAPE);
      let claimed = 0;
      let published = 0;
      let taken = 0;
      let released = 0;
      const wordsOf = (slot: number): number[] => Array.from({ length: SLOT_WORDS }, (_, word) => slot * 1_000 + word);
      for (const { act, count } of steps) {
        if (act === 'claim') {
          const row = producer.claim(count);
          expect(row).toBeLessThanOrEqual(Math.min(count, SLOTS - (claimed - released)));
          // Nothing only where there is no room.
          if (row === 0) expect(claimed - released).toBe(SLOTS);
          for (let slot = 0; slot < row; slot++, claimed++) producer.slots.set(wordsOf(claimed), producer.at + slot * SLOT_WORDS);
        } else if (act === 'publish') {
          expect(producer.publish()).toBe(claimed > published);
          published = claimed;
        } else if (act === 'take') {
          const row = consumer.take(count);
          expect(row).toBeLessThanOrEqual(Math.min(count, published - taken));
          if (row === 0) expect(taken).toBe(published);
          for (let slot = 0; slot < row; slot++, taken++) {
            const at = consumer.at + slot * SLOT_WORDS;
            expect([...consumer.slots.subarray(at, at + SLOT_WORDS)]).toEqual(wordsOf(taken));
          }
        } else {
          consumer.release();
          released = taken;
        }
      }
    }),
    { numRuns: runs(200) },
  );
});
