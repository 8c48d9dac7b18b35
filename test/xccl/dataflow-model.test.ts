/** No circle of waits can form between attention NPUs and expert NPUs: all states of a small model are looked at. Answers' places, against the real thing. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReservedReplies } from '../../src/xccl/reserved-replies.ts';
import { DataflowModel, explore, type Shape } from './dataflow-model.ts';

const SHAPES: Shape[] = [
  { askers: 2, lanes: 1, experts: 2, layers: 2 },
  { askers: 1, lanes: 2, experts: 2, layers: 2 },
  { askers: 3, lanes: 1, experts: 2, layers: 1 },
  { askers: 2, lanes: 1, experts: 3, layers: 1 },
];

describe('who waits for whom', () => {
  it.each(SHAPES)('should never be a circle, whoever dies or gives up: %o', (shape) => {
    const { states, stuck } = explore(new DataflowModel(shape, { room: null, pulls: 'each' }));
    expect(stuck).toBeNull();
    expect(states).toBeGreaterThan(100);
  });

  it('should not be one either where askers share what room there is, since an answer is pulled as soon as it is there', () => {
    for (const shape of SHAPES) expect(explore(new DataflowModel(shape, { room: 1, pulls: 'each' })).stuck).toBeNull();
  });

  it('should be found to be one where askers share room and wait for all answers before they pull any', () => {
    const { stuck } = explore(new DataflowModel(SHAPES[0] as Shape, { room: 1, pulls: 'all together' }));
    // Each expert NPU's room is held by an answer whose asker waits for the other one.
    expect(stuck).toHaveLength(6);
    expect(explore(new DataflowModel(SHAPES[0] as Shape, { room: null, pulls: 'all together' })).stuck).toBeNull();
  });
});

describe("askers' places for their answers", () => {
  const ASKERS = 4;
  const PLACE = 640;
  /** What an asker has asked for on one lane; its two lanes are no more than a place together. */
  const acts = fc.array(
    fc.record({
      act: fc.constantFrom('ask', 'ask', 'ask', 'take', 'die'),
      source: fc.integer({ min: 0, max: ASKERS - 1 }),
      lane: fc.integer({ min: 0, max: 1 }),
      bytes: fc.integer({ min: 1, max: PLACE }),
    }),
    { maxLength: 40 },
  );

  it('should never overlap with an answer that is waited for, and never be missing', () => {
    fc.assert(
      fc.property(acts, (script) => {
        const replies = new ReservedReplies(ASKERS * PLACE, ASKERS, 2);
        const waiting = new Map<string, { from: number; to: number }>();
        const sizes = new Map<string, number>();
        let event = 0;
        // Dies that die come again as others: never more at once than there are places.
        const dies = Array.from({ length: ASKERS }, (_, source) => source);
        for (const { act, source, lane, bytes } of script) {
          const key = `${source} ${lane}`;
          const other = sizes.get(`${source} ${1 - lane}`) ?? 0;
          if (act === 'die') {
            replies.forget(dies[source] as number);
            dies[source] = (dies[source] as number) + ASKERS;
            for (const lane of [0, 1]) {
              waiting.delete(`${source} ${lane}`);
              sizes.delete(`${source} ${lane}`);
            }
          } else if (act === 'take') {
            waiting.delete(key);
            sizes.delete(key);
          } else if (!waiting.has(key) && bytes + other <= PLACE) {
            const from = replies.allocate(dies[source] as number, ++event, bytes, lane);
            expect(from).toBeGreaterThanOrEqual(0);
            expect(from + bytes).toBeLessThanOrEqual(ASKERS * PLACE);
            for (const held of waiting.values()) expect(from >= held.to || from + bytes <= held.from).toBe(true);
            waiting.set(key, { from, to: from + bytes });
            sizes.set(key, bytes);
          }
        }
      }),
    );
  });

  it('should refuse one asker more than there are places for', () => {
    const replies = new ReservedReplies(2 * PLACE, 2, 1);
    for (const source of [7, 8]) replies.allocate(source, 1, 64, 0);
    expect(() => replies.allocate(9, 1, 64, 0)).toThrow(/die 9 asks, beside 2 others that do/);
  });
});
