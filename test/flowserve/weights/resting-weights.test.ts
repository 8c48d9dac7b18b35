/** Sums of weights at rest: any bit of what was loaded that is another one is found, and named; nothing else is. */
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import { plainChecksum } from '../../../src/flowserve/distflow/checksum.ts';
import { expertIn, placeOfSlot, writeSlot } from '../../../src/flowserve/experts/expert-slots.ts';
import { StandbyWeights } from '../../../src/flowserve/weights/replicated-weights.ts';
import { holdsPieces, piecesOf, type RestingLayout, RestingWeights, WeightDamage } from '../../../src/flowserve/weights/resting-weights.ts';
import { WeightBroadcasts } from '../../../src/flowserve/weights/weight-broadcasts.ts';
import { WeightChecks } from '../../../src/flowserve/weights/weight-checks.ts';
import { createPod } from '../../../src/index.ts';
import { Directory } from '../../../src/runtime/directory.ts';
import { Endpoint } from '../../../src/xccl/endpoint.ts';
import { type HashPod, makeHashPod } from '../hash-rig.ts';

function rig(npu = 0, options: Parameters<typeof makeHashPod>[1] = {}) {
  const { plan, space, programs } = makeHashPod(2, options);
  const checksum = plainChecksum(space);
  const layout = plan.layouts[npu] as RestingLayout;
  const weights = new RestingWeights(layout, space, checksum);
  const words = space.wordsOf(layout.base);
  const flip = (address: number, bit: number): void => {
    const at = offsetOf(address) / 4 + (bit >>> 5);
    words[at] = (words[at] as number) ^ (1 << (bit & 31));
  };
  const { expertSlots } = layout;
  const layer = expertSlots.weights.findIndex((of) => of !== null);
  /** A pass, in so many bytes a turn; what it throws. */
  const pass = (bytes: number): string => {
    try {
      do weights.scrub(bytes);
      while (!weights.isAtBegin);
      return '';
    } catch (error) {
      return error instanceof WeightDamage ? error.message : `${error}`;
    }
  };
  return {
    plan,
    space,
    programs,
    checksum,
    layout,
    weights,
    words,
    flip,
    layer,
    pass,
    slotAt: (slot: number) => placeOfSlot(expertSlots, layer, slot).address,
  };
}

/** Of NPU 0, with one that stands by. */
function copying(weight_checks: 'each-step' | 'off') {
  const made = rig(0, { scale_max: { attention: 3 } });
  const { plan, space, programs, checksum } = made;
  const directory = new Directory(plan.hosting);
  const { surroundings } = (programs[0] as HashPod['programs'][number]).exchange.endpoint;
  const broadcasts = new WeightBroadcasts({ directory, checksum, endpointOf: (of) => new Endpoint(of, surroundings) });
  const checks = new WeightChecks({ weight_checks }, plan.layouts, space, checksum, () => 0);
  return { ...made, standby: new StandbyWeights({ plan, space, directory, broadcasts, arrive: (npu) => checks.arrive(npu) }, plan.layouts) };
}

describe('weights at rest', () => {
  it('should be known for what was loaded, whichever bit of them flips, and be named', () => {
    const { weights, layout, layer, flip, slotAt, pass } = rig();
    weights.check();
    expect(pass(1)).toBe('');
    for (const bit of [0, 31, 63]) {
      flip(slotAt(1), bit);
      expect(() => weights.check()).toThrow(new RegExp(`weights of NPU 0 .*expert \\d+ of layer ${layer}, in slot 1`));
      expect(() => weights.checkSlot(layer, 1)).toThrow(WeightDamage);
      expect(() => weights.checkSlot(layer, 0)).not.toThrow();
      expect(() => weights.checkPieces()).not.toThrow();
      expect(pass(8)).toMatch(/in slot 1/);
      flip(slotAt(1), bit);
      flip(piecesOf(layout)[0]?.address ?? 0, bit);
      expect(() => weights.checkPieces()).toThrow(/weights of NPU 0/);
      // The slot after the last is the shared expert, which is among them.
      expect(() => weights.checkSlot(layer, layout.expertSlots.each)).toThrow(WeightDamage);
      expect(() => weights.checkSlot(layer, 1)).not.toThrow();
      flip(piecesOf(layout)[0]?.address ?? 0, bit);
    }
    weights.check();
  });

  it('should be taken for what is there now where a slot comes to hold nothing, or another expert, amid a pass', () => {
    const { weights, words, layout, layer, checksum, slotAt, flip, pass } = rig();
    const { expertSlots } = layout;
    weights.scrub(1);
    flip(slotAt(2), 5);
    writeSlot(words, expertSlots, layer, 2, -1, 1, 0);
    expect(pass(8)).toBe('');
    writeSlot(words, expertSlots, layer, 2, 7, 2, checksum.sum(0, slotAt(2), 8));
    expect(pass(8)).toBe('');
    expect(expertIn(words, expertSlots, layer, 2)).toBe(7);
    flip(slotAt(2), 6);
    expect(pass(8)).toMatch(/expert 7/);
  });

  it('should have the sums of whom they were copied from: what was bad there is bad here; and none when they are cleared', () => {
    const { plan, space, checksum, flip, layout, standby } = copying('off');
    const second = new RestingWeights(plan.layouts[2] as RestingLayout, space, checksum);
    const finish = (): void => {
      while (standby.poll()) second.checkPieces();
    };
    second.checkPieces();
    flip(piecesOf(layout)[0]?.address ?? 0, 9);
    standby.furnish(2, 0, null, () => {});
    expect(finish).toThrow(WeightDamage);
    standby.clear(2);
    finish();
    flip(piecesOf(layout)[0]?.address ?? 0, 9);
    standby.furnish(2, 0, null, () => {});
    finish();
    second.checkPieces();
  });

  it('should be looked at when they come, where each step is: who was to have them is told, and knows nothing of what lies there', () => {
    const { plan, space, flip, layout, standby } = copying('each-step');
    const told: (string | null)[] = [];
    const copy = (): void => {
      standby.furnish(2, 0, null, (_, error) => told.push(error?.message ?? null));
      while (standby.poll());
    };
    flip(piecesOf(layout)[0]?.address ?? 0, 9);
    copy();
    expect(holdsPieces(plan.layouts[2] as RestingLayout, space)).toBe(false);
    flip(piecesOf(layout)[0]?.address ?? 0, 9);
    copy();
    expect(told).toEqual([expect.stringMatching(/^weights of NPU 2 do not hold what was loaded there/), null]);
    expect(holdsPieces(plan.layouts[2] as RestingLayout, space)).toBe(true);
  });
});

describe('a scrub', () => {
  it.each([
    [{ weight_checks: 'off', weight_scrub_s: 5 }, "with weight_checks 'off'"],
    [{ weight_checks: 'each-step', weight_scrub_s: 60 }, "with weight_checks 'each-step'"],
    [{ weight_scrub_s: 1e-9 }, 'at least 0.05'],
  ] as const)('should be refused where it is asked for in vain, or for ever: %o', async (options, why) => {
    await expect(createPod({ clock: 'virtual', kernels: 'hash', ...options })).rejects.toMatchObject({
      ...{ code: 'invalid_request', param: 'weight_scrub_s', message: expect.stringContaining(why) },
    });
  });

  /** Of both NPUs, a pass in 100 ms. */
  function scrub() {
    const made = rig();
    let now_ms = 0;
    const checks = new WeightChecks({ weight_checks: 'scrub', weight_scrub_s: 0.1 }, made.plan.layouts, made.space, made.checksum, () => now_ms);
    const untilQuiet = (isIdle: boolean): number => {
      let turns = 0;
      while (checks.scrub(isIdle)) turns++;
      return turns;
    };
    return { ...made, checks, untilQuiet, at: (ms: number) => (now_ms = ms) };
  }

  it('should look at all once a period where there is nothing else to do, and then rest', () => {
    const { untilQuiet, at, flip, slotAt, layout } = scrub();
    expect(untilQuiet(true)).toBe(2);
    expect(untilQuiet(true)).toBe(0);
    at(99);
    expect(untilQuiet(true)).toBe(0);
    at(101);
    expect(untilQuiet(true)).toBe(3);
    flip(slotAt(layout.expertSlots.each - 1), 3);
    at(150);
    expect(untilQuiet(true)).toBe(0);
    at(202);
    expect(() => untilQuiet(true)).toThrow(WeightDamage);
  });

  it('should come through in its period beside work that never ends, and take no more of its time than that needs', () => {
    const { untilQuiet, at } = scrub();
    expect(untilQuiet(false)).toBe(0);
    at(10);
    expect(untilQuiet(false)).toBe(1);
    expect(untilQuiet(false)).toBe(0);
    at(51);
    expect(untilQuiet(false)).toBe(1);
    at(99);
    expect(untilQuiet(false)).toBe(0);
  });

  it('should be none where steps are checked, or nobody is', () => {
    const { plan, space, checksum } = rig();
    for (const weight_checks of ['each-step', 'off'] as const)
      expect(new WeightChecks({ weight_checks, weight_scrub_s: 0 }, plan.layouts, space, checksum, () => 1e9).scrub(true)).toBe(false);
  });
});
