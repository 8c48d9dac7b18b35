/** Records of what gates chose: each rank's own rows, of all layers, with the spans that they are of. */
import { expect, it } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import { ROUTED, ROUTED_SPAN, RoutedSteps, routedAt } from '../../../src/flowserve/experts/routed-steps.ts';
import type { HashLayout } from '../../../src/flowserve/hash-model/hash-layout.ts';
import type { StepEntry, StepPlan } from '../../../src/protocol/steps.ts';
import { parseTopology } from '../../../src/protocol/topology.ts';
import { greedySequence } from '../../golden/greedy.ts';
import { makeHashPod, SHAPE } from '../hash-rig.ts';

it.each([
  ['colocated:dp=1', [[0, 5]]],
  [
    'colocated:dp=1,tp=2',
    [
      [0, 3],
      [3, 5],
    ],
  ],
] as const)('have the rows of each rank, whole: %s', (topology, ranges) => {
  const { plan, space } = makeHashPod(ranges.length, { topology: parseTopology(topology), records_routing: true });
  const { topK, experts } = SHAPE.moe;
  const entry = { slot: 3, start: 4, tokens: [1, 2, 3, 4, 5], samples: false, drafts: 0, attach: greedySequence(7, Array(20).fill(1), 4, 2) };
  const step = { step: 9, entries: [entry as unknown as StepEntry] } as unknown as StepPlan;
  const records: number[][] = [];
  const routed = new RoutedSteps(space, (words, bytes) => records.push([...words.subarray(0, bytes / 4)]));
  const chosen = (layer: number, row: number, k: number): number => (3 * layer + 5 * row + k) % experts;
  for (const layout of plan.layouts as readonly HashLayout[]) {
    const routing = layout.routing ?? expect.fail('nothing is recorded');
    for (const layer of routing.layers)
      for (let row = 0; row < 5; row++)
        for (let k = 0; k < topK; k++) {
          const at = routedAt(routing, layer, row, topK) + 4 * k;
          space.wordsOf(routing.experts)[(offsetOf(routing.experts) + at) >>> 2] = chosen(layer, row, k);
          space.wordsOf(routing.weights)[(offsetOf(routing.weights) + at) >>> 2] = 1_000 * layer + 10 * row + k;
        }
    routed.take(SHAPE.moe, layout, step, 12);
  }
  expect(records).toHaveLength(ranges.length);
  for (const [rank, [first, end]] of ranges.entries()) {
    const words = records[rank] ?? [];
    const rows = end - first;
    expect([words[ROUTED.npu], words[ROUTED.step], words[ROUTED.spans], words[ROUTED.rows]]).toEqual([rank, 9, 1, rows]);
    const span = words.slice(ROUTED.words, ROUTED.words + ROUTED_SPAN.words);
    expect(span).toEqual([0, 7, 2, 4 + first, rows]);
    const pairs = [1, 2, 3].flatMap((layer) =>
      Array.from({ length: rows * topK }, (_, pair) => [layer, first + Math.floor(pair / topK), pair % topK] as const),
    );
    const ids = new Uint8Array(Int32Array.from(words.slice(ROUTED.words + ROUTED_SPAN.words)).buffer);
    expect([...ids.subarray(0, pairs.length)]).toEqual(pairs.map((pair) => chosen(...pair)));
    expect(words.slice(-pairs.length)).toEqual(pairs.map(([layer, row, k]) => 1_000 * layer + 10 * row + k));
  }
});
