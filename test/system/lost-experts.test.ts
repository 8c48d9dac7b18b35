/** Experts of a lost NPU that have copies elsewhere are served there at once, whoever waited for it goes on; those that have none are waited for. */
import { describe, expect, it } from 'vitest';
import type { Pod, PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { APART, answersOf, balancerOf, loseAfter, mirrored, open, right } from './lost-npus.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

/** Of each layer of the shipped model. */
const EXPERTS = 32;
const mapOf = (pod: VirtualPod): ReturnType<typeof balancerOf>['moves'] => balancerOf(pod).moves;

describe('experts that lie on two NPUs', () => {
  it.each<[string, PodOptions, number]>([
    ['NPUs of their own', APART, 1],
    ['NPUs of their own, the other', APART, 2],
    ['NPUs of their own, two micro-batches', { ...APART, micro_batches: 2, max_batch_tokens: 64 }, 1],
    ['colocated', { topology: 'colocated:dp=3', workers: 3 }, 2],
  ])('should be served by the copies while one of these has no successor: %s', async (_, options, worker) => {
    await using pod = await open({ ...options, ...mirrored(EXPERTS + 1) });
    // Its successor does not begin before it may.
    const restart = pod.control.workers.deafen();
    loseAfter(pod, worker, 60);
    // The requests that were under way, which had asked it; then others that begin without it.
    expect(await answersOf(pod)).toEqual(await right);
    expect(pod.control.workers.isLost(worker)).toBe(true);
    expect(await answersOf(pod)).toEqual(await right);
    const { epoch } = mapOf(pod);
    expect(epoch).toBe(1);
    restart();
    while (pod.control.workers.isLost(worker)) await pod.complete([1], { max_tokens: 50, ignore_eos: true });
    // It has its own again.
    expect(await answersOf(pod)).toEqual(await right);
    expect([...mapOf(pod).lost]).toEqual([]);
    expect(mapOf(pod).epoch).toBe(2);
    await expectNothingLeft(pod);
  });

  it('should be waited for as far as they have no copy, and nobody begins meanwhile', async () => {
    await using pod = await open({ ...APART, ...mirrored(8) });
    const restart = pod.control.workers.deafen();
    pod.control.workers.lose(1, 'the test killed it');
    await expect(pod.complete([1, 2, 3], { max_tokens: 3, deadline_ms: 400 })).rejects.toMatchObject({ code: 'deadline_exceeded' });
    const answers = answersOf(pod);
    restart();
    expect(await answers).toEqual(await right);
    await expectNothingLeft(pod);
  });

  it('should be served, or waited for, where one is lost after the other, and both at once', async () => {
    await using pod = await open({ ...APART, ...mirrored(EXPERTS) });
    loseAfter(pod, 1, 60);
    expect(await answersOf(pod)).toEqual(await right);
    loseAfter(pod, 2, 30);
    loseAfter(pod, 1, 200);
    expect(await answersOf(pod)).toEqual(await right);
    await expectNothingLeft(pod);
  });
});

it('should be so on threads, too: who had asked the lost one asks the copies, with the same tokens', async () => {
  const ask = (pod: Pod) =>
    ['Once upon a time', 'The wolf'].map(async (prompt) => fingerprint(await pod.complete(prompt, { temperature: 0, ignore_eos: true, max_tokens: 40 })));
  const right = await withPod({ clock: 'virtual' }, (pod) => Promise.all(ask(pod)));
  await using rig = await openRig({ ...APART, ...mirrored(EXPERTS) });
  const calls = ask(rig.pod);
  while ((await rig.pod.stats()).generation_tokens < 10) await sleep(1);
  rig.killWorker(1);
  expect(await Promise.all(calls)).toEqual(right);
  // Without it, and perhaps with its successor by now.
  expect((await rig.pod.stats()).expert_balancing[0]?.epoch).toBeGreaterThan(0);
  await expectNothingLeft(rig.pod);
});
