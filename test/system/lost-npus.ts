/** Virtual pods that lose a worker at an event of their own, and what they answer. @module */
import { expect } from 'vitest';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';

export const mirrored = (redundant_slots: number): PodOptions => ({ expert_balancing: { policy: 'mirrored', redundant_slots, period_ms: 1_000_000 } });
/** Two attention NPUs on worker 0, and an expert NPU on worker 1 and one on worker 2. */
export const APART: PodOptions = { topology: 'moe-attention:domains=1x2,experts=2', npu_workers: [0, 0, 1, 2], workers: 3 };

export const answersOf = (pod: Pod, max_tokens = 12): Promise<unknown[]> =>
  Promise.all(
    Array.from({ length: 4 }, async (_, index) => {
      const { choices } = await pod.complete([1, 86, 1461, 531 + index], { max_tokens, seed: index, ignore_eos: true, temperature: index % 2 });
      return choices[0]?.token_ids;
    }),
  );
export const open = async (options: PodOptions): Promise<VirtualPod> => (await createPod({ clock: 'virtual', kernels: 'hash', ...options })) as VirtualPod;
/** Of one NPU alone. */
export const rightFor = async (max_tokens?: number): Promise<unknown[]> => {
  await using one = await open({});
  return await answersOf(one, max_tokens);
};
export const right = rightFor();

export const balancerOf = ({ control }: VirtualPod): ExpertBalancer => (control.host.cast.contextOf('expert-map/0') as { balancer: ExpertBalancer }).balancer;

/** When so many events have happened. */
export function after({ control }: VirtualPod, events: number, act: () => void): void {
  const step = control.step.bind(control);
  let left = events;
  control.step = () => {
    if (--left === 0) act();
    return step();
  };
}

/** Kills the worker then. */
export const loseAfter = (pod: VirtualPod, worker: number, events: number): void =>
  after(pod, events, () => expect(pod.control.workers.lose(worker, 'the test killed it')).toBe(true));
