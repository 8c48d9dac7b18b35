/** Workers of a virtual pod are lost whole, at any moment: what they held goes on elsewhere or waits for their successors, with the same bits. */
import { describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { expectNothingLeft, fingerprint } from '../system/pods.ts';

const VIRTUAL: PodOptions = { clock: 'virtual', kernels: 'hash' };
const CALLS = Array.from({ length: 5 }, (_, index) => ({
  prompt: Array.from({ length: 3 + index * 11 }, (_, at) => 5 + ((index * 31 + at * 17) % 900)),
  options: { max_tokens: 4 + index * 3, n: 1 + (index % 2), seed: index, ignore_eos: true },
}));
const generateAll = async (pod: VirtualPod): Promise<string[][]> =>
  (await Promise.all(CALLS.map(({ prompt, options }) => pod.complete(prompt, options)))).map(fingerprint);

async function generateWhile(options: PodOptions, deaths: readonly { readonly worker: number; readonly event: number }[]): Promise<string[][]> {
  await using pod = (await createPod({ ...VIRTUAL, ...options })) as VirtualPod;
  const { control } = pod;
  const step = control.step.bind(control);
  let events = 0;
  const lost: number[] = [];
  control.step = () => {
    events++;
    for (const { worker, event } of deaths) if (event === events && control.workers.lose(worker, 'the test killed it')) lost.push(worker);
    return step();
  };
  const all = await generateAll(pod);
  expect(lost).toEqual(deaths.map(({ worker }) => worker));
  await expectNothingLeft(pod);
  return all;
}

describe('a worker of a virtual pod', () => {
  it.each<[string, PodOptions]>([
    ['colocated', { topology: 'colocated:dp=4', workers: 2 }],
    ['the only one', { topology: 'colocated:dp=2', workers: 1, job_executors: 1 }],
    ['a rank of each group', { topology: 'colocated:dp=1,tp=2', workers: 2 }],
    ['prefill or decode, by layer', { topology: 'pd:prefill=1,decode=1', workers: 2, kv_transfer: 'layer' }],
    ['all experts’', { topology: 'moe-attention:domains=1x2,experts=2', npu_workers: [0, 0, 1, 1], workers: 2 }],
    ['in the midst of domains’ turns', { topology: 'moe-attention:domains=2x1,experts=2', workers: 2, schedule: 'domains' }],
  ])('should have a successor, with the same tokens and nothing left: %s', async (_, options) => {
    await using one = (await createPod(VIRTUAL)) as VirtualPod;
    const right = await generateAll(one);
    const last = (options.workers ?? 1) - 1;
    expect(await generateWhile({ ...options, seed: 1 }, [{ worker: last, event: 120 }])).toEqual(right);
    const both = [
      { worker: 0, event: 60 },
      { worker: last, event: 250 },
    ];
    expect(await generateWhile({ ...options, seed: 2 }, both)).toEqual(right);
  });
});
