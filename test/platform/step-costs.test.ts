/** On a virtual clock a pod whose shape changes takes the time of a pod that has always had that shape. */
import { expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';

const create = async (options: PodOptions): Promise<VirtualPod> => (await createPod({ clock: 'virtual', kernels: 'hash', ...options })) as VirtualPod;

/** What the decode steps of one sequence take, wherever it is. */
async function decodeSteps_us(pod: VirtualPod): Promise<number> {
  const { npus, plan } = pod.control;
  const ask = plan.hosting.deployment.npus.flatMap(({ id, kind }) => (kind === 'attention' ? [npus.timesOf(`npu/${id}`)] : []));
  const sum_us = (): number => ask.reduce((sum, { decodes }) => sum + decodes.sum_us, 0);
  const before = sum_us();
  await pod.complete([1, 86, 1461], { max_tokens: 8, ignore_eos: true });
  return sum_us() - before;
}

const SHAPES = [
  { attention: 2, experts: 2 },
  { attention: 2, experts: 4 },
  { attention: 4, experts: 2 },
] as const;

it.each<[string, PodOptions['scale_max'], (shape: (typeof SHAPES)[number]) => string]>([
  ['a colocated executor', {}, ({ attention, experts }) => `moe-attention:domains=1x${attention},experts=${experts},shared=1`],
  ['a decode executor', { executor: 'decode' }, ({ attention, experts }) => `pd:prefill=1,decode=1xdomains1x${attention}experts${experts}shared1`],
])('attention and experts of %s', async (_, executor, topologyOf) => {
  await using scaled = await create({ topology: topologyOf(SHAPES[0]), scale_max: { ...executor, attention: 4, experts: 4 } });
  const seen = new Set<number>();
  for (const shape of [...SHAPES, SHAPES[0]]) {
    await scaled.scale(shape);
    await using one = await create({ topology: topologyOf(shape) });
    const right = await decodeSteps_us(one);
    expect(await decodeSteps_us(scaled)).toBeCloseTo(right, 6);
    seen.add(Math.round(right * 1000));
  }
  expect(seen.size).toBe(SHAPES.length);
});
