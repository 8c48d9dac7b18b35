/** Weights that several NPUs get come by broadcast, while requests run: the same tokens, and where somebody dies, is silent or sends what is corrupt, a whole map with a reason. */
import { beforeAll, describe, expect, it } from 'vitest';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { NO_EXPERT } from '../../actors/policies/expert-placement/expert-map.ts';
import { expertIn, layersWithExperts, SLOT, SLOT_WORDS } from '../../src/flowserve/experts/expert-slots.ts';
import { slotPlace, slotsOfDie } from '../../src/flowserve/experts/slot-places.ts';
import { sumsOf } from '../../src/flowserve/weights/resting-weights.ts';
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualControl } from '../../src/platform/virtual-control.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { BROADCAST_MS_MAX, type ExpertWork } from '../../src/protocol/expert-maps.ts';
import type { MapEntry } from '../../src/protocol/map-log.ts';
import { type ExpertGroup, executorOfNpu } from '../../src/protocol/topology.ts';
import type { ExpertBalancingStats, ScalingStats } from '../../src/stats.ts';
import { expectNothingLeft, withPod } from './pods.ts';
import { holders } from './shapes.ts';

const CALLS = 4;
const TOKENS = 16;
const answers = (pod: Pod, max_tokens = 8): Promise<unknown[]> =>
  Promise.all(
    Array.from({ length: CALLS }, async (_, index) => {
      const { choices } = await pod.complete([1, 86, 1461, 531 + index], { max_tokens, seed: index, ignore_eos: true, temperature: index % 2 });
      return choices[0]?.token_ids;
    }),
  );

/** Two NPUs that run steps, and two to six with experts, each on a worker of its own. */
const OPTIONS: PodOptions = {
  ...{ clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=1x2,experts=2', workers: 8, scale_max: { experts: 6 } },
  expert_balancing: { redundant_slots: 32, period_ms: 1_000_000 },
};
/** It has routed something, so that plans have replicas. */
async function open(): Promise<VirtualPod> {
  const pod = (await createPod(OPTIONS)) as VirtualPod;
  await answers(pod);
  await pod.rebalance({ force: true });
  return pod;
}
const entryOf = async (pod: Pod): Promise<MapEntry> =>
  (await pod.experts({ measure: false })).task_executors[0]?.balancing?.log.findLast(({ change }) => change === 'scale') as MapEntry;

const balancerOf = ({ cast }: VirtualControl['host']): ExpertBalancer => (cast.contextOf('expert-map/0') as { balancer: ExpertBalancer }).balancer;
const groupOf = ({ hosting }: VirtualControl['plan']): ExpertGroup => executorOfNpu(hosting.deployment, 0).experts;

/** What the last good map says lies in each slot lies there, on whichever die its NPU has. */
function expectMapToHold({ plan, space, directory, host }: VirtualControl): void {
  const { map } = balancerOf(host);
  const group = groupOf(plan);
  const { slots } = map.shape;
  for (const [index, layer] of layersWithExperts(plan.config).entries())
    for (let slot = 0; slot < slots; slot++) {
      const expert = map.expertOfSlot[index * slots + slot] as number;
      const place = slotPlace(plan, directory, group, layer, slot);
      if (expert !== NO_EXPERT) expect(expertIn(space.wordsOf(place.address), slotsOfDie(plan, directory, place.npu), layer, place.slot)).toBe(expert);
    }
}

type Staged = Extract<ExpertWork, { kind: 'stage' }>;
type Act = (pod: VirtualPod, work: Staged, npu: number) => boolean | undefined;

/** Once, at the first broadcast's message to the last of those that are to get it, when the others have: before it is heard. True: it is not heard. */
function inTheMidst(pod: VirtualPod, act: Act): { readonly hasHappened: () => boolean } {
  const { cast } = pod.control.host;
  const deliver = cast.deliver.bind(cast);
  let hasHappened = false;
  cast.deliver = (mail) => {
    const { message } = mail;
    const npu = Number(mail.to.split('/')[1]);
    if (!hasHappened && message.type === 'EXPERT_WORK' && message.work.kind === 'stage' && message.work.broadcast?.npus.at(-1) === npu) {
      hasHappened = true;
      if (act(pod, message.work, npu) === true) return undefined;
    }
    return deliver(mail);
  };
  return { hasHappened: () => hasHappened };
}

const kill =
  (which: (npus: readonly number[]) => number): Act =>
  ({ control }, { broadcast }) => {
    const npu = which(broadcast?.npus ?? []);
    control.host.later(0, () => control.workers.lose(control.directory.workerOfNpu(npu), 'killed'));
    return undefined;
  };

/** After some have them: what is there is not what was loaded once, as its sum has it. */
const corrupt: Act = ({ control: { plan, directory, space } }, { layer: index, source }) => {
  const layer = layersWithExperts(plan.config)[index] as number;
  const { npu, slot } = slotPlace(plan, directory, groupOf(plan), layer, source);
  const table = slotsOfDie(plan, directory, npu).tables[layer] as number;
  const [words, at] = [space.wordsOf(table), ((table % 2 ** 32) >>> 2) + slot * SLOT_WORDS + SLOT.sum];
  words[at] = (words[at] as number) ^ 1;
  return undefined;
};

describe('weights that several NPUs get', () => {
  let expected: unknown[] = [];
  beforeAll(async () => {
    await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
    expected = await answers(one, TOKENS);
  });

  it('should come by broadcast, and the others by pulls, with the same tokens; and the map’s entry says how many bytes', async () => {
    await using pod = await open();
    const [tokens] = await Promise.all([answers(pod, TOKENS), pod.scale({ experts: 6 })]);
    expect(tokens).toEqual(expected);
    const { change, outcome, copied } = await entryOf(pod);
    expect({ change, outcome }).toEqual({ change: 'scale', outcome: 'installed' });
    expect(copied).toMatchObject({ instead: 0, why: null });
    expect(copied.broadcast.slots).toBeGreaterThan(copied.pulled.slots);
    const [bytes] = (pod.control.plan.layouts[2]?.expertSlots.weights ?? []).flatMap((of) => of?.bytes ?? []);
    for (const way of [copied.broadcast, copied.pulled]) expect(way.bytes).toBe(way.slots * (bytes as number));
    expectMapToHold(pod.control);
    expect(await answers(pod, TOKENS)).toEqual(expected);
    await pod.scale({ experts: 2 });
    expect(await answers(pod, TOKENS)).toEqual(expected);
    await expectNothingLeft(pod);
  });

  it.each([
    ['who has them dies', kill((npus) => npus[0] as number), 'npu_lost'],
    ['one that has got them dies', kill((npus) => npus[1] as number), 'npu_lost'],
    ['the last one dies', kill((npus) => npus.at(-1) as number), 'npu_lost'],
    ['what is sent becomes corrupt', corrupt, 'corrupt'],
  ] as const)('where %s in the midst of it, should leave the old shape or the new one, whole, and say why', async (_, act, why) => {
    await using pod = await open();
    const { hasHappened } = inTheMidst(pod, act);
    const scaled = pod.scale({ experts: 6 }).then(
      () => 'new',
      (error: Error) => error.message,
    );
    expect(await answers(pod, TOKENS)).toEqual(expected);
    expect(hasHappened()).toBe(true);
    const said = await scaled;
    expect(said === 'new' ? 6 : 2).toBe(await holders(pod));
    const { outcome, reason } = await entryOf(pod);
    if (said !== 'new') {
      expect(said).toMatch(why === 'corrupt' ? /corrupt/ : /lost/);
      expect(outcome).toMatch(/^(rolled_back|aborted)$/);
      expect(reason).toMatch(why === 'corrupt' ? /corrupt/ : /lost|rehom/);
    }
    expectMapToHold(pod.control);
    expect(await answers(pod, TOKENS)).toEqual(expected);
    if (why === 'npu_lost') {
      while (balancerOf(pod.control.host).lost.size > 0) await pod.complete([1], { max_tokens: 200, ignore_eos: true });
      expect(await pod.scale({ experts: 6 })).toMatchObject({ experts: 6 });
      expect(await answers(pod, TOKENS)).toEqual(expected);
      expectMapToHold(pod.control);
    }
    await expectNothingLeft(pod);
  });

  it('where one does not hear of it should come to it by a pull, when that has lasted for too long', async () => {
    await using pod = await open();
    const { now_ns } = pod.control.host;
    // Who has them says nothing either.
    const { cast } = pod.control.host;
    const deliver = cast.deliver.bind(cast);
    let silenced = 0;
    cast.deliver = (mail) => {
      if (silenced === 0 && mail.message.type === 'EXPERT_WORK' && mail.message.work.kind === 'broadcast') {
        silenced = mail.message.work.broadcast.npus.length - 1;
        return undefined;
      }
      return deliver(mail);
    };
    expect(await pod.scale({ experts: 6 })).toMatchObject({ experts: 6 });
    expect(silenced).toBeGreaterThan(1);
    expect((pod.control.host.now_ns - now_ns) / 1e6).toBeGreaterThanOrEqual(BROADCAST_MS_MAX);
    expect((await entryOf(pod)).copied).toMatchObject({ instead: silenced, why: expect.stringContaining('20 s') });
    expectMapToHold(pod.control);
    expect(await answers(pod, TOKENS)).toEqual(expected);
    await expectNothingLeft(pod);
  });

  it('that come just as they are given up should be told of once', async () => {
    await using pod = await open();
    const { cast } = pod.control.host;
    const deliver = cast.deliver.bind(cast);
    let held: Parameters<typeof deliver>[0] | null = null;
    const done: number[] = [];
    cast.deliver = (mail) => {
      const { message } = mail;
      if (message.type === 'SLOT_DONE') {
        done.push(message.change);
        if (done.length === 1) {
          held = mail;
          return undefined;
        }
      }
      const told = deliver(mail);
      if (message.type === 'BROADCASTS_OVERDUE' && held !== null) {
        deliver(held);
        held = null;
      }
      return told;
    };
    expect(await pod.scale({ experts: 6 })).toMatchObject({ experts: 6 });
    expect((await entryOf(pod)).copied.instead).toBe(1);
    // Where it is set aside, and where it is loaded.
    expect(done.filter((change) => change === done[0])).toHaveLength(2);
    expectMapToHold(pod.control);
    await expectNothingLeft(pod);
  });
});

describe('weights of attention NPUs that come to serve', () => {
  const GROUPS: PodOptions = { clock: 'virtual', kernels: 'hash', topology: 'colocated:dp=1', workers: 4, scale_max: { attention: 4 } };
  const copiedIn = async (pod: Pod): Promise<ScalingStats['copied'] | undefined> => (await pod.stats()).scaling?.copied;
  /** With their sums. */
  const bytesEach = ({ control }: VirtualPod): number => {
    const layout = control.plan.layouts[0];
    return layout?.kind === 'attention' ? [...layout.replicated, sumsOf(layout)].reduce((sum, { bytes }) => sum + bytes, 0) : 0;
  };

  it('should come to several by broadcast, to a single one by a pull, with the same tokens', async () => {
    await using pod = (await createPod(GROUPS)) as VirtualPod;
    const expected = await answers(pod, TOKENS);
    const [tokens] = await Promise.all([answers(pod, TOKENS), pod.scale({ attention: 3 })]);
    expect(tokens).toEqual(expected);
    expect(await copiedIn(pod)).toEqual({ broadcast_bytes: 2 * bytesEach(pod), pulled_bytes: 0 });
    await pod.scale({ attention: 4 });
    expect(await copiedIn(pod)).toEqual({ broadcast_bytes: 2 * bytesEach(pod), pulled_bytes: bytesEach(pod) });
    expect(await answers(pod, TOKENS)).toEqual(expected);
    await expectNothingLeft(pod);
  });

  it.each(['SEND_WEIGHTS', 'FURNISH'] as const)('should be pulled where nobody hears of the first %s', async (type) => {
    await using pod = (await createPod(GROUPS)) as VirtualPod;
    const expected = await answers(pod, TOKENS);
    const { cast } = pod.control.host;
    const deliver = cast.deliver.bind(cast);
    let isLost = false;
    cast.deliver = (mail) => {
      if (isLost || mail.message.type !== type) return deliver(mail);
      isLost = true;
      return undefined;
    };
    expect(await pod.scale({ attention: 4 })).toMatchObject({ attention: 4 });
    const pulls = type === 'FURNISH' ? 1 : 3;
    expect(await copiedIn(pod)).toEqual({ broadcast_bytes: (3 - pulls) * bytesEach(pod), pulled_bytes: pulls * bytesEach(pod) });
    expect(await answers(pod, TOKENS)).toEqual(expected);
    await expectNothingLeft(pod);
  });

  it('should come to who lives, and to the successor of one that dies in the midst of it', async () => {
    await using pod = (await createPod(GROUPS)) as VirtualPod;
    const expected = await answers(pod, TOKENS);
    const { control } = pod;
    const deliver = control.host.cast.deliver.bind(control.host.cast);
    control.host.cast.deliver = (mail) => {
      if (mail.message.type === 'FURNISH' && mail.to === 'npu/3' && mail.message.broadcast !== null)
        control.workers.lose(control.directory.workerOfNpu(2), 'killed');
      return deliver(mail);
    };
    expect(await pod.scale({ attention: 4 })).toMatchObject({ attention: 4 });
    expect(await answers(pod, TOKENS)).toEqual(expected);
    await expectNothingLeft(pod);
  });
});

it('on worker threads, weights come by broadcast while requests run, with the same tokens', async () => {
  const topology = 'moe-attention:domains=1x1,experts=1';
  await withPod({ topology, workers: 2, scale_max: { experts: 3 }, expert_balancing: { redundant_slots: 32, period_ms: 1_000_000 } }, async (pod) => {
    const expected = await answers(pod, TOKENS);
    // Somebody runs all the while.
    const [tokens] = await Promise.all([answers(pod, TOKENS), pod.scale({ experts: 3 })]);
    expect(tokens).toEqual(expected);
    expect((await entryOf(pod)).outcome).toBe('installed');
    await pod.rebalance({ force: true });
    expect(await answers(pod, TOKENS)).toEqual(expected);
    const { copied } = (await pod.stats()).expert_balancing[0] as ExpertBalancingStats;
    expect(copied.broadcast.slots).toBeGreaterThan(0);
  });
});
