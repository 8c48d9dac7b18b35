/** An expert NPU that holds no experts, since there are to be fewer of them, is needed by nobody: its loss stops neither requests nor rebalances, also where domains take turns. */
import { expect, it } from 'vitest';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { expectNothingLeft } from './pods.ts';
import { holders } from './shapes.ts';

const answersOf = (pod: Pod): Promise<unknown[]> =>
  Promise.all(
    Array.from({ length: 4 }, async (_, index) => {
      const { choices } = await pod.complete([1, 86, 1461, 531 + index], { max_tokens: 6, seed: index, ignore_eos: true });
      return choices[0]?.token_ids;
    }),
  );

const balancerOf = ({ control }: VirtualPod): ExpertBalancer => (control.host.cast.contextOf('expert-map/0') as { balancer: ExpertBalancer }).balancer;

/** Two NPUs with attention, four that may have experts, each on its worker: the last worker is that of the last expert NPU. */
const LAST = 5;
const open = async (options: PodOptions = {}): Promise<VirtualPod> =>
  (await createPod({
    ...options,
    ...{ clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=1x2,experts=2', workers: 6, scale_max: { experts: 4 } },
    expert_balancing: { redundant_slots: 4, period_ms: 1_000_000 },
  })) as VirtualPod;

it('one that stands by may be gone for ever; the shape that needs it says so, and waits for its successor', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  const right = await answersOf(one);
  await using pod = await open();
  expect(pod.control.directory.npusOfWorker(LAST)).toEqual([LAST]);
  // It has stood by from the start, and after it has had experts.
  for (const _ of ['never used', 'used']) {
    const restart = pod.control.workers.deafen();
    pod.control.workers.lose(LAST, 'killed');
    expect(await answersOf(pod)).toEqual(right);
    expect((await pod.rebalance({ force: true }))[0]).toMatchObject({ outcome: expect.stringMatching(/^(installed|unchanged)$/) });
    expect(await answersOf(pod)).toEqual(right);
    expect((await pod.stats()).npus.map(({ state }) => state === 'lost')).toEqual([...Array.from({ length: LAST }, () => false), true]);
    await expect(pod.scale({ experts: 4 })).rejects.toMatchObject({ message: expect.stringContaining('expert NPU 3 of the group is lost') });
    expect(await holders(pod)).toBe(2);
    restart();
    while (balancerOf(pod).lost.size > 0) await pod.complete([1], { max_tokens: 200, ignore_eos: true });
    expect(await pod.scale({ experts: 4 })).toMatchObject({ experts: 4 });
    expect(await answersOf(pod)).toEqual(right);
    expect(await pod.scale({ experts: 2 })).toMatchObject({ experts: 2 });
  }
  await expectNothingLeft(pod);
});

it('one that stands by is waited for by nobody where domains take turns, either', async () => {
  await using pod = await open({ schedule: 'domains' });
  const right = await answersOf(pod);
  pod.control.workers.deafen();
  const answers = answersOf(pod);
  for (let event = 0; event < 60; event++) pod.control.step();
  pod.control.workers.lose(LAST, 'killed');
  expect(await answers).toEqual(right);
  expect(await answersOf(pod)).toEqual(right);
  expect(pod.control.workers.isLost(LAST)).toBe(true);
  await expectNothingLeft(pod);
});

it('one that has experts again is waited for', async () => {
  await using pod = await open();
  const right = await answersOf(pod);
  await pod.scale({ experts: 4 });
  const restart = pod.control.workers.deafen();
  pod.control.workers.lose(LAST, 'killed');
  let isBack = false;
  pod.control.host.later(1_000_000_000, () => {
    isBack = true;
    restart();
  });
  expect(await answersOf(pod)).toEqual(right);
  expect(isBack).toBe(true);
  await expectNothingLeft(pod);
});
