/** Expert NPUs apart from attention: what has arrived is computed together, whoever sent it, and nobody can tell. */
import fc from 'fast-check';
import { expect, it, vi } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import { SLOT_SHIFT } from '../../../src/flowserve/experts/expert-slots.ts';
import type { SplitShape, Topology } from '../../../src/protocol/topology.ts';
import { dueOf } from '../../../src/xccl/due-time.ts';
import { laneOf } from '../../../src/xccl/lane.ts';
import { runs } from '../../property-runs.ts';
import type { Call } from '../hash-rig.ts';
import { generate, makeHashPod } from '../hash-rig.ts';

const apart = (dp: number, split: SplitShape): Topology => [{ role: 'colocated', dp, tp: 1, split }];
const CALLS = fc.array(
  fc.record({
    npu: fc.nat(),
    prompt: fc.array(fc.integer({ min: 3, max: 999 }), { minLength: 1, maxLength: 40 }),
    max_tokens: fc.integer({ min: 1, max: 12 }),
  }),
  { minLength: 1, maxLength: 8 },
);
const joinedIn = (pod: ReturnType<typeof makeHashPod>): number => pod.services.reduce((sum, { batches }) => sum + (batches?.joined ?? 0), 0);

it('should give the tokens of one NPU, however many attention NPUs ask at once, in whichever segments of memory they lie', () => {
  const one = makeHashPod(1);
  let joined = 0;
  let onSecondLane = 0;
  fc.assert(
    fc.property(
      CALLS,
      fc.integer({ min: 1, max: 5 }),
      fc.record({ domains: fc.constant(1), experts: fc.integer({ min: 1, max: 6 }), shared: fc.constantFrom(undefined, 1, 'attention' as const) }),
      fc.constantFrom(2 ** 32 - 65_536, 2 ** 20),
      fc.constantFrom(4, 17, 64),
      fc.constantFrom(1 as const, 2 as const),
      (calls, dp, split, segment_bytes, max_batch_tokens, micro_batches) => {
        const pod = makeHashPod(1, { topology: apart(dp, split), segment_bytes, max_batch_tokens, kv_blocks: 40, micro_batches });
        const asked = calls.map((call): Call => ({ ...call, npu: call.npu % dp }));
        const { tokens, errors } = generate(pod, asked);
        expect(errors.every((error) => error === null)).toBe(true);
        for (const [index, call] of asked.entries()) expect(tokens[index]).toEqual(generate(one, [{ ...call, npu: 0 }]).tokens[0]);
        joined += joinedIn(pod);
        for (const { exchange } of micro_batches === 2 ? pod.programs : [])
          for (const { npu } of pod.services) onSecondLane += exchange.endpoint.nextEvent(npu, laneOf(0).dispatch) - 1;
        for (const { exchange } of pod.services) {
          exchange.sweepReplies();
          expect(exchange.replies.used).toBe(0);
        }
      },
    ),
    { numRuns: runs(25) },
  );
  expect(joined).toBeGreaterThan(0);
  expect(onSecondLane).toBeGreaterThan(0);
});

it('should call an expert once for the rows of all that have arrived', () => {
  const dp = 6;
  const pod = makeHashPod(1, { topology: apart(dp, { domains: 1, experts: 1, shared: 1 }), kv_blocks: 20 });
  const calls = Array.from({ length: dp }, (_, npu): Call => ({ npu, prompt: [5], max_tokens: 2 }));
  generate(pod, calls);
  const [batches] = pod.services.flatMap((service) => service.batches ?? []);
  // All start with the same token, so they choose the same experts: in the first step each call of an expert is all six's, in each of the three layers.
  const { topK } = pod.plan.config.moe;
  expect(batches?.joined).toBeGreaterThanOrEqual(3 * (topK + 1));
});

it('should compute first what is due first, with all else of its layer, in whichever order it came, also where the count of time begins anew', () => {
  const dp = 5;
  const { programs, services, space } = makeHashPod(1, { topology: apart(dp, { domains: 1, experts: 1, shared: 'attention' }), kv_blocks: 20 });
  const [service] = services.slice(dp) as [(typeof services)[number]];
  const compute = vi.spyOn(service.forward, 'expert');
  const asked = fc.record({ asker: fc.nat(dp - 1), layer: fc.integer({ min: 1, max: 3 }), began_ms: fc.integer({ min: 0, max: 40 }) });
  const wraps_ms = 2 ** 20 / 8;
  fc.assert(
    fc.property(fc.uniqueArray(asked, { selector: ({ asker }) => asker }), fc.constantFrom(0, wraps_ms - 20), (all, from_ms) => {
      compute.mockClear();
      for (const { asker, layer, began_ms } of all) {
        const { forward, exchange, batches } = programs[asker] as (typeof programs)[number];
        const { segments: segmentsAddress, pairRows: pairRowsAddress, normed: rowsAddress } = forward.layout.scratch;
        space.wordsOf(segmentsAddress).set([(0 << SLOT_SHIFT) | service.expertIn(layer, 0), 1], offsetOf(segmentsAddress) / 4);
        space.wordsOf(pairRowsAddress)[offsetOf(pairRowsAddress) / 4] = 0;
        exchange.dispatch(dp, { layer, epoch: batches.routing.epoch, segments: 1, segmentsAddress, pairRowsAddress, rowsAddress }, dueOf(from_ms + began_ms));
      }
      expect(service.serve(64)).toBe(all.length);
      const firstOf = (layer: number): number => Math.min(...all.filter((one) => one.layer === layer).map(({ began_ms }) => began_ms));
      const layers = compute.mock.calls.map(([layer]) => layer);
      expect(new Set(layers).size).toBe(layers.length);
      expect(layers.map(firstOf)).toEqual([...layers.map(firstOf)].sort((a, b) => a - b));
      expect([...layers].sort()).toEqual([...new Set(all.map(({ layer }) => layer))].sort());
    }),
    { numRuns: runs(100) },
  );
});

it('should answer all others though one of them has given up, and is asking for something else', () => {
  const dp = 3;
  const calls = Array.from({ length: dp }, (_, npu): Call => ({ npu, prompt: [5, 6 + npu, 7], max_tokens: 6 }));
  const topology = apart(dp, { domains: 1, experts: 2 });
  const expected = generate(makeHashPod(1, { topology }), calls).tokens;
  const pod = makeHashPod(1, { topology });
  let isSpoilt = false;
  const { tokens } = generate(pod, calls, {
    onAsked: (npu, _step, asked) => {
      if (npu !== 1 || asked !== 2 || isSpoilt) return;
      isSpoilt = true;
      const { exchange } = pod.programs[1] as (typeof pod.programs)[number];
      // What it asked of expert NPU 4 is over: nobody looks for the answer. It asks anew as one whose peer was restarted.
      const [peer = 0] = (pod.programs[1] as (typeof pod.programs)[number]).missing;
      exchange.abandon(peer, exchange.endpoint.nextEvent(peer, 2) - 1);
      pod.services[peer]?.serve(64);
      pod.programs[1]?.askAgain(peer);
    },
  });
  expect(isSpoilt).toBe(true);
  expect(tokens).toEqual(expected);
});

const makePair = () => {
  const pod = makeHashPod(2);
  const [ahead, behind] = pod.programs as [(typeof pod.programs)[number], (typeof pod.programs)[number]];
  const calls = [0, 1].map((npu): Call => ({ npu, prompt: [3, 4, 5, 6, 7, 8, 9, 20 + npu], max_tokens: 3 }));
  return { pod, ahead, behind, calls };
};

it('should answer who is ahead before it computes its own share', () => {
  const { pod, ahead, behind, calls } = makePair();
  const computed: ('ahead' | 'own')[] = [];
  const { compute } = behind.service;
  behind.service.compute = function (dispatch, reply, pairs, formats) {
    computed.push(dispatch.rowsAddress === behind.forward.layout.scratch.normed ? 'own' : 'ahead');
    compute.call(this, dispatch, reply, pairs, formats);
  };
  let asked = 0;
  const { errors } = generate(pod, calls, {
    onAsked: (npu) => {
      if (npu !== behind.npu) return;
      expect(computed.splice(0)).toEqual(['ahead', 'own']);
      expect(behind.exchange.served).toBe(ahead.exchange.dispatches);
      asked++;
    },
  });
  expect(errors).toEqual([null, null]);
  expect(asked).toBeGreaterThan(0);
});

it('should go on before it answers more than it has asked, as soon as it may: who asks then is a layer ahead', () => {
  const { pod, ahead, behind, calls } = makePair();
  let asked = 0;
  const { errors } = generate(pod, calls, {
    onAsked: (npu) => {
      if (npu === ahead.npu) {
        // Answered before it has answered anybody: who asks now asks for the same layer.
        expect(ahead.goesOnFirst).toBe(false);
        behind.service.serve(64);
        expect(ahead.goesOnFirst).toBe(false);
      } else {
        expect(behind.goesOnFirst).toBe(false);
        ahead.service.serve(64);
        // It has answered before it was behind.
        expect([ahead.goesOnFirst, behind.goesOnFirst]).toEqual([true, false]);
        asked++;
      }
    },
  });
  expect(errors).toEqual([null, null]);
  expect(asked).toBeGreaterThan(0);
});
