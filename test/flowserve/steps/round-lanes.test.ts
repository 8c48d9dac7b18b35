/** How a micro-batch asks expert NPUs that take turns, and what becomes of a step that they refuse. */
import { describe, expect, it } from 'vitest';
import type { AddressSpace } from '../../../src/fabric/address-space.ts';
import type { ExpertRouting } from '../../../src/flowserve/experts/expert-routing.ts';
import type { Arithmetic } from '../../../src/flowserve/forward/arithmetic.ts';
import type { MicroBatchPlace } from '../../../src/flowserve/layouts/turns-layout.ts';
import { DAMAGED_MAX, PEERS_DEADLINE_MS } from '../../../src/flowserve/steps/asked-peers.ts';
import { RoundLane } from '../../../src/flowserve/steps/round-lanes.ts';
import type { Iterations, LaneAnswer } from '../../../src/xccl/iterations.ts';

/** A lane whose experts answer as told, a millisecond each. */
function laneOf(answers: () => LaneAnswer | 'damaged'): { readonly lane: RoundLane; readonly clock: { now_ms: number } } {
  const clock = { now_ms: 0 };
  const words = new Int32Array(1_024);
  const fake = <Port>(port: object): Port => port as Port;
  const lane = new RoundLane({
    lane: 0,
    model: fake<Arithmetic>({ layout: { base: 0, npu: 0 }, config: { moe: { topK: 1 } }, at: { rowIndices: 0 } }),
    iterations: fake<Iterations>({
      answer: () => {
        clock.now_ms++;
        return answers();
      },
    }),
    place: fake<MicroBatchPlace>({ collect: { places: 64, top_k: 1 } }),
    shared: [],
    space: fake<AddressSpace>({ wordsOf: () => words }),
    routing: fake<ExpertRouting>({ epoch: 3 }),
    lost: new Set(),
    now_ms: () => clock.now_ms,
  });
  return { lane, clock };
}

describe('a step whose second layer is refused time and again, its first layer never', () => {
  const untilItFails = (everyStep: (lane: RoundLane) => void): number => {
    let asked = 0;
    const { lane, clock } = laneOf(() => (asked++ % 2 === 0 ? 'here' : 'refused'));
    try {
      while (clock.now_ms < 4 * PEERS_DEADLINE_MS) {
        everyStep(lane);
        lane.answer(1);
        lane.answer(1);
      }
    } catch (error) {
      expect(error).toMatchObject({
        code: 'deadline_exceeded',
        message: expect.stringMatching(/NPU 0 is refused its experts since \d+ ms; it goes by map epoch/),
      });
    }
    return clock.now_ms;
  };

  it('should fail when the deadline has passed', () => {
    const failed_ms = untilItFails(() => {});
    expect(failed_ms).toBeGreaterThan(PEERS_DEADLINE_MS);
    expect(failed_ms).toBeLessThan(PEERS_DEADLINE_MS + 10);
  });

  it('should not be told from the first time that an earlier step was refused', () => {
    expect(untilItFails((lane) => lane.stepBegins())).toBe(4 * PEERS_DEADLINE_MS);
  });
});

describe('a step whose rows are not what they were', () => {
  it('should ask for them again at once, and fail when they never are', () => {
    const { lane } = laneOf(() => 'damaged');
    for (let step = 0; step < 3; step++) {
      lane.stepBegins();
      for (let damages = 0; damages < DAMAGED_MAX; damages++) expect([lane.answer(1), lane.mustWait]).toEqual(['refused', false]);
    }
    expect(() => lane.answer(1)).toThrow(expect.objectContaining({ code: 'worker_failed' }));
  });
});
