/** Experts that lie in any slots, and slots that change while steps run: the same tokens, and never a wrong expert's weights. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ExpertMap, expertMap, NO_EXPERT } from '../../../actors/policies/expert-placement/expert-map.ts';
import { placementShape } from '../../../src/flowserve/experts/expert-routing.ts';
import { layersWithExperts, writeSlot } from '../../../src/flowserve/experts/expert-slots.ts';
import { loadHashWeights } from '../../../src/flowserve/hash-model/hash-layout.ts';
import { colocated, executorOfNpu, parseTopology, type Topology } from '../../../src/protocol/topology.ts';
import { runs } from '../../property-runs.ts';
import { type Call, generate, type HashPod, makeHashPod, SHAPE, VERSION } from '../hash-rig.ts';

const CALLS = (npus: number): Call[] => Array.from({ length: npus }, (_, npu) => ({ npu, prompt: [npu, 7, 8, 9, 10, 11 + npu], max_tokens: 6 }));
/** What one NPU says, which holds all experts, in the order of the checkpoint. */
const EXPECTED = [1, 2, 3, 4].map(
  (npus) =>
    generate(
      makeHashPod(1),
      CALLS(npus).map((call) => ({ ...call, npu: 0 })),
    ).tokens,
);

type Draw = (below: number) => number;
const drawing =
  (draws: Iterator<number>): Draw =>
  (below) =>
    (draws.next().value as number) % below;

/** Each expert in at least one slot, what is left holds any of them or nothing; by layer. */
function anyMap(pod: HashPod, draw: Draw): ExpertMap {
  const { plan } = pod;
  const shape = placementShape(plan.config, plan.options, executorOfNpu(plan.hosting.deployment, 0).experts);
  const { layers, slots, experts } = shape;
  const layerOf = (): number[] => {
    const of = Array.from({ length: slots }, (_, slot) => (slot < experts ? slot : draw(experts + 1) + NO_EXPERT));
    for (let slot = slots - 1; slot > 0; slot--) {
      const other = draw(slot + 1);
      [of[slot], of[other]] = [of[other] as number, of[slot] as number];
    }
    return of;
  };
  return expertMap(shape, Int32Array.from(Array.from({ length: layers }, layerOf).flat()));
}

/** Puts what the map says into the slots of an NPU, at once, as its own thread would between two dispatches. */
const fillSlots = ({ plan, space }: HashPod, npu: number, map: ExpertMap, epoch: number): void => {
  const layout = plan.layouts[npu] as HashPod['plan']['layouts'][number];
  if (layout.expertSlots.rank < 0) return;
  const counts = layout.kind === 'attention' ? layout.counts.flatMap((at) => at ?? []) : [];
  const counted = counts.map((at) => space.bytesAt(at, SHAPE.moe.experts * 4).slice());
  loadHashWeights(plan, layout, space, VERSION, map);
  for (const [index, at] of counts.entries()) space.bytesAt(at, SHAPE.moe.experts * 4).set(counted[index] as Uint8Array);
  for (const [index, layer] of layersWithExperts(plan.config).entries())
    for (let slot = 0; slot < layout.expertSlots.each; slot++) {
      const expert = map.expertOfSlot[index * layout.expertSlots.total + layout.expertSlots.rank * layout.expertSlots.each + slot] as number;
      writeSlot(space.wordsOf(layout.base), layout.expertSlots, layer, slot, expert, epoch, 0);
    }
};

/** So many DP groups, and so many expert NPUs; 0: experts are where attention is. `domains`: 0: all flows. */
const redundancies = fc.record({
  npus: fc.integer({ min: 1, max: 4 }),
  experts: fc.nat(4),
  domains: fc.nat(2),
  redundant_experts: fc.nat(9),
  draws: fc.infiniteStream(fc.nat()),
});
const topologyOf = (npus: number, experts: number, domains = 1): Topology => {
  const count = Math.max(1, npus % domains === 0 ? domains : 1);
  return parseTopology(experts === 0 ? `colocated:dp=${npus}` : `moe-attention:domains=${count}x${npus / count},experts=${experts}`);
};
/** What a drawn pod has beside what differs from test to test. */
const layoutOf = ({ npus, experts, domains, redundant_experts }: { npus: number; experts: number; domains: number; redundant_experts: number }) => ({
  topology: topologyOf(npus, experts, domains),
  redundant_experts,
  ...(domains > 0 && experts > 0 && { schedule: 'domains' as const }),
});

describe('experts in slots', () => {
  it('should say the same, whichever slots they lie in and however many replicas they have', () => {
    fc.assert(
      fc.property(redundancies, ({ npus, draws, ...drawn }) => {
        const options = layoutOf({ npus, ...drawn });
        const map = anyMap(makeHashPod(npus, options), drawing(draws));
        const layers = layersWithExperts(SHAPE).map((_, index) => [...map.expertOfSlot.subarray(index * map.shape.slots, (index + 1) * map.shape.slots)]);
        const pod = makeHashPod(npus, { ...options, expert_maps: [layers] });
        expect(generate(pod, CALLS(npus)).tokens).toEqual(EXPECTED[npus - 1]);
        for (const program of pod.programs) expect([program.exchange.refused, program.refusals]).toEqual([0, 0]);
      }),
      { numRuns: runs(60) },
    );
  });

  it('should spread what goes to an expert evenly over its replicas', () => {
    const { experts } = SHAPE.moe;
    const all = Array.from({ length: experts }, (_, expert) => expert);
    const layers = layersWithExperts(SHAPE).map(() => [...all, ...all]);
    const pod = makeHashPod(2, { redundant_experts: experts, expert_maps: [layers], topology: colocated(2) });
    const served = [0, 0];
    for (const [npu, program] of pod.programs.entries()) {
      const { compute } = program.service;
      program.service.compute = function (dispatch, reply, pairs) {
        served[npu] = (served[npu] as number) + pairs;
        compute.call(this, dispatch, reply, pairs);
      };
    }
    generate(pod, [{ npu: 0, prompt: Array.from({ length: 60 }, (_, token) => token), max_tokens: 1 }]);
    const [own = 0, other = 0] = served;
    // Of the last layer, the row that the token is drawn from.
    expect(own + other).toBe((60 * (layers.length - 1) + 1) * SHAPE.moe.topK);
    expect(Math.abs(own - other)).toBeLessThanOrEqual(experts * layers.length);
  });
});

describe('slots that change', () => {
  it('should never change a token: whoever holds an expert no more refuses, and whoever asked asks elsewhere, at any layer', () => {
    const refusals = { dataflow: 0, domains: 0 };
    fc.assert(
      fc.property(redundancies, ({ npus, draws, ...drawn }) => {
        const draw = drawing(draws);
        const options = layoutOf({ npus, ...drawn });
        const pod = makeHashPod(npus, options);
        let epoch = 0;
        // A map that reaches nobody, one NPU or all of them, and slots that follow at once or a while later: more than the protocol ever lets happen.
        let late: { readonly map: ExpertMap; readonly epoch: number; readonly slots: Set<number>; readonly maps: Set<number> } | null = null;
        const catchUp = (): void => {
          if (late === null) return;
          for (const npu of late.slots) fillSlots(pod, npu, late.map, late.epoch);
          for (const npu of late.maps) pod.programs[npu]?.batches.routing.install(late.map, late.epoch);
          late = null;
        };
        const change = (): void => {
          catchUp();
          // A step of domains that is refused begins with its first layer again: it needs some time in which nothing changes.
          if (draw(options.schedule === 'domains' ? 40 : 3) > 0) return;
          const [slots, maps] = [new Set<number>(), new Set<number>()];
          const map = anyMap(pod, draw);
          epoch++;
          for (const { npu } of pod.plan.layouts) {
            if (draw(2) === 0) slots.add(npu);
            else fillSlots(pod, npu, map, epoch);
          }
          for (let npu = 0; npu < npus; npu++) {
            if (draw(2) === 0) maps.add(npu);
            else pod.programs[npu]?.batches.routing.install(map, epoch);
          }
          late = { map, epoch, slots, maps };
        };
        const { tokens, errors } = generate(pod, CALLS(npus), { onAsked: change, onServed: change });
        expect(errors.filter((error) => error !== null)).toEqual([]);
        expect(tokens).toEqual(EXPECTED[npus - 1]);
        refusals[options.schedule ?? 'dataflow'] += pod.programs.reduce((sum, program) => sum + program.refusals, 0);
      }),
      { numRuns: runs(100) },
    );
    expect(Math.min(refusals.dataflow, refusals.domains)).toBeGreaterThan(50);
  });

  it.each([1, 2] as const)('should not leave a step asleep whose part was refused, for what arrives: nothing will, in %i batches', (micro_batches) => {
    const pod = makeHashPod(1, { topology: topologyOf(1, 2), micro_batches });
    const calls = Array.from({ length: 9 }, (_, index): Call => ({ npu: 0, prompt: [index, 7, 8], max_tokens: 4 }));
    const expected = generate(makeHashPod(1), calls).tokens;
    const program = pod.programs[0] as HashPod['programs'][number];
    const map = anyMap(pod, (below) => 5 % below);
    const seen: boolean[] = [];
    const { tokens } = generate(pod, calls, {
      onAsked: (_npu, step, asked) => {
        if (step === 2 && asked === 0) for (const { npu } of pod.plan.layouts) fillSlots(pod, npu, map, 1);
      },
      onServed: () => {
        if (program.refusals === 0 || seen.length > 0) return;
        seen.push(program.isWaiting);
        program.batches.routing.install(map, 1);
      },
    });
    expect(seen).toEqual([false]);
    expect(tokens).toEqual(expected);
  });

  it('should leave a map that is older than the one there alone', () => {
    const pod = makeHashPod(2, { redundant_experts: 2 });
    const { routing } = (pod.programs[0] as HashPod['programs'][number]).batches;
    const [first, second] = [5, 3].map((seed) => anyMap(pod, (below) => seed % below)) as [ExpertMap, ExpertMap];
    expect(routing.install(first, 2)).toBe(true);
    expect(routing.install(second, 2)).toBe(false);
    expect(routing.install(second, 1)).toBe(false);
    expect([routing.map, routing.epoch]).toEqual([first, 2]);
  });
});
