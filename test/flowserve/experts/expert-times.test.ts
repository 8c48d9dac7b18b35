/** What is told of an NPU's experts: how long their batches take, and what waits for them. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ExpertLoads } from '../../../src/flowserve/experts/expert-loads.ts';
import { expertPlaces } from '../../../src/flowserve/experts/expert-places.ts';
import { expertReports } from '../../../src/flowserve/experts/expert-reports.ts';
import { firstMap } from '../../../src/flowserve/experts/expert-routing.ts';
import { layersWithExperts, writeSlot } from '../../../src/flowserve/experts/expert-slots.ts';
import { boundOf, bucketOf, ExpertTimes, percentileOf } from '../../../src/flowserve/experts/expert-times.ts';
import { mapInSlots } from '../../../src/flowserve/experts/slot-places.ts';
import type { ExpertReport } from '../../../src/protocol/threads.ts';
import { Directory } from '../../../src/runtime/directory.ts';
import { generate, makeHashPod, SHAPE } from '../hash-rig.ts';

describe('the buckets of service times', () => {
  it('should hold times below their bounds, by at most a quarter', () => {
    fc.assert(
      fc.property(fc.double({ min: 0.064, max: 1_000_000, noNaN: true }), (us) => {
        const bound = boundOf(bucketOf(us));
        expect(us).toBeLessThan(bound);
        expect(bound).toBeLessThanOrEqual(us * 1.251 + 0.001);
      }),
    );
  });

  it('should rise, and take whatever a clock gives', () => {
    const bounds = Array.from({ length: 97 }, (_, bucket) => boundOf(bucket));
    expect(bounds).toEqual(bounds.toSorted((a, b) => a - b));
    expect([-1, 0, 0.063].map(bucketOf)).toEqual([0, 0, 0]);
    expect(boundOf(0)).toBeGreaterThan(0.063);
    expect(bucketOf(1e12)).toBe(96);
  });
});

describe('the times of experts', () => {
  it('should be measured from a look on, and until a minute after the last one', () => {
    const times = new ExpertTimes();
    let now_us = 0;
    expect([times.begin(), times.samples(16)]).toEqual([-1, false]);
    times.look(() => now_us);
    expect([times.begin(), times.samples(16), times.samples(17)]).toEqual([0, true, false]);
    now_us = 5;
    expect(times.add(2, 7, 3, 0)).toBe(5);
    now_us = 105;
    times.add(2, 7, 1, 5);
    expect(times.of(2, 7)).toMatchObject({ batches: 2, tokens: 4, us_sum: 105 });
    expect([0.5, 0.99].map((share) => percentileOf(times.of(2, 7) ?? expect.fail(), share))).toEqual([5.12, 114.688]);
    expect(times.of(2, 6)).toBe(null);
    now_us = 59_000_000;
    times.look(() => now_us);
    now_us = 119_000_000;
    expect(times.begin()).toBe(119_000_000);
    now_us++;
    expect([times.begin(), times.samples(16)]).toEqual([-1, false]);
  });
});

describe('the reports of experts', () => {
  it('should tell what has come and waits to be served, and what the served has taken', () => {
    const pod = makeHashPod(2);
    const peer = pod.programs[1] ?? expect.fail();
    const layers = [1, 2, 3];
    const { experts, topK } = SHAPE.moe;
    let now_us = 0;
    let waiting: ExpertReport[] = [];
    let served: ExpertReport[] = [];
    // The prompt's first layer with experts is looked at before the peer serves it, and after.
    generate(pod, [{ npu: 0, prompt: [5, 6, 7], max_tokens: 1 }], {
      onAsked: (_npu, _step, asked) => {
        if (asked === 0) waiting = expertReports(peer.service, layers, () => now_us++);
      },
      onServed: () => {
        if (served.length === 0) served = expertReports(peer.service, layers, null).map((report) => ({ ...report }));
      },
    });
    expect(waiting.map(({ npu, layer, expert }) => `${npu} ${layer}.${expert}`)).toEqual(
      layers.flatMap((layer) => Array.from({ length: experts / 2 }, (_, index) => `1 ${layer}.${2 * index + 1}`)),
    );
    const queued = waiting.filter((report) => report.queued > 0);
    expect(queued.every(({ layer, batches }) => layer === 1 && batches === 0)).toBe(true);
    const tokens = queued.reduce((sum, report) => sum + report.queued, 0);
    expect(tokens).toBeGreaterThan(0);
    expect(tokens).toBeLessThan(3 * topK);
    expect(served.filter((report) => report.queued > 0)).toEqual([]);
    // Each batch takes one tick of this clock.
    expect(served.filter(({ batches }) => batches > 0).map(({ layer, expert, tokens, us_sum }) => ({ layer, expert, tokens, us_sum }))).toEqual(
      queued.map(({ layer, expert, queued }) => ({ layer, expert, tokens: queued, us_sum: 1 })),
    );
  });
});

describe('the places of experts', () => {
  it('should be those whose slots hold them, and know by which map a layer changed last', () => {
    const { plan, space, programs } = makeHashPod(2);
    const { experts } = SHAPE.moe;
    const look = () => expertPlaces(plan, space, new Directory(plan.hosting));
    const native = Array.from({ length: experts }, (_, expert) => [expert % 2]);
    expect(look()).toEqual([1, 2, 3].map((layer) => ({ layer, by_executor: [{ npus: native, map_epoch: 0 }] })));
    // NPU 1's slot 3 held expert 7.
    const { layout } = programs[1]?.forward ?? expect.fail();
    writeSlot(space.wordsOf(layout.base), layout.expertSlots, 2, 3, 0, 5, 0);
    const moved = native.with(0, [0, 1]).with(7, []);
    expect(look()).toEqual([1, 2, 3].map((layer) => ({ layer, by_executor: [layer === 2 ? { npus: moved, map_epoch: 5 } : { npus: native, map_epoch: 0 }] })));
    // It has two of them now, and is still one.
    writeSlot(space.wordsOf(layout.base), layout.expertSlots, 2, 4, 0, 6, 0);
    expect(look()[1]?.by_executor).toEqual([{ npus: moved.with(9, []), map_epoch: 6 }]);
  });

  it('should be read from their slots by who takes over the map, each slot of each layer', () => {
    const { plan, space } = makeHashPod(2);
    const executor = plan.hosting.deployment.executors[0] ?? expect.fail();
    const native = firstMap(plan.config, plan.options, executor);
    const directory = new Directory(plan.hosting);
    expect(mapInSlots(plan, space, directory, native, executor).expertOfSlot).toEqual(native.expertOfSlot);
    // Nothing of what it was at first is left.
    for (const { base, expertSlots } of plan.layouts)
      for (const layer of layersWithExperts(plan.config))
        for (let slot = 0; slot < expertSlots.each; slot++) writeSlot(space.wordsOf(base), expertSlots, layer, slot, (slot + layer) % 8, 5, 0);
    const { slots } = native.shape;
    const there = layersWithExperts(plan.config).flatMap((layer) => Array.from({ length: slots }, (_, slot) => ((slot % (slots / 2)) + layer) % 8));
    expect([...mapInSlots(plan, space, directory, native, executor).expertOfSlot]).toEqual(there);
    expect(new ExpertLoads(plan, space, directory).layers).toEqual(layersWithExperts(plan.config));
  });
});
