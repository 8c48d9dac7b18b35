/** What a pod tells of its experts while it serves: tokens, places, service times; and that looking changes no token. */
import { describe, expect, it } from 'vitest';
import type { Completion, Pod, PodExperts } from '../../src/index.ts';
import { expectNothingLeft, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

const OPTIONS = { temperature: 0, ignore_eos: true, max_tokens: 40 };
const PROMPTS = ['Once upon a time', 'The wolf', 'A king', 'In the forest'];
const all = (pod: Pod): Promise<Completion[]> => Promise.all(PROMPTS.map((prompt) => pod.complete(prompt, OPTIONS)));
const tokensOf = (completions: readonly Completion[]): (readonly number[])[] => completions.flatMap(({ choices }) => choices.map(({ token_ids }) => token_ids));

const replicasOf = ({ task_executors }: PodExperts) =>
  task_executors.flatMap(({ layers }) => layers.flatMap(({ experts }) => experts.flatMap(({ replicas }) => replicas)));

describe('pod.experts()', () => {
  it('should tell tokens, shares and places, and how long batches take since the first look; with the same tokens', () =>
    withPod({ npus: 2, workers: 2 }, async (pod) => {
      const before = await all(pod);
      const first = await pod.experts();
      expect(replicasOf(first).every(({ service }) => service === null)).toBe(true);
      const [executor] = first.task_executors;
      expect(first).toMatchObject({ model: 'tiny-deepseek-v3', task_executors: [{ task_executor: 0, role: 'colocated' }] });
      const { expert_loads } = await pod.stats();
      expect(executor?.layers.map(({ experts }) => experts.map(({ tokens }) => tokens))).toEqual(expert_loads);
      for (const { tokens, experts, busiest_over_mean_npu } of executor?.layers ?? []) {
        expect(tokens % first.top_k).toBe(0);
        expect(experts.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1);
        expect(experts.map(({ replicas }) => replicas.map(({ npu }) => npu))).toEqual(experts.map(({ expert }) => [expert % 2]));
        const [even, odd] = [0, 1].map((npu) => experts.filter(({ expert }) => expert % 2 === npu).reduce((sum, expert) => sum + expert.tokens, 0));
        expect(busiest_over_mean_npu).toBeCloseTo(Math.max(even ?? 0, odd ?? 0) / (tokens / 2));
      }
      expect(tokensOf(await all(pod))).toEqual(tokensOf(before));
      const second = await pod.experts({ measure: false });
      const timed = replicasOf(second).filter(({ service }) => service !== null);
      expect(new Set(timed.map(({ npu }) => npu))).toEqual(new Set([0, 1]));
      for (const { service } of timed) {
        expect(service?.tokens).toBeGreaterThanOrEqual(service?.batches ?? 0);
        expect(service?.p50_us).toBeGreaterThan(0);
        expect(service?.p99_us).toBeGreaterThanOrEqual(service?.p50_us ?? 0);
      }
    }));

  it('should time experts that no peer asks for in every 16th step of a captured decode', () =>
    withPod({ npus: 1 }, async (pod) => {
      await pod.experts();
      const one = await pod.complete('Once', OPTIONS);
      const experts = await pod.experts();
      const batches = replicasOf(experts).reduce((sum, { service }) => sum + (service?.tokens ?? 0), 0);
      // Its prefill, whose last layer computes the row that is read, and two or three of 39 decode steps, each for top_k experts in each layer.
      const layers = experts.task_executors[0]?.layers.length ?? 0;
      const steps = (batches / experts.top_k - (one.usage.prompt_tokens * (layers - 1) + 1)) / layers;
      expect([2, 3]).toContain(steps);
    }));

  it('should tell a virtual pod’s experts as the cost model has them, the same each time, by task executor', async () => {
    const look = () =>
      withPod({ clock: 'virtual', kernels: 'hash', topology: 'pd:prefill=1xdp2,decode=1xdp3', seed: 4 }, async (pod) => {
        await pod.experts();
        await all(pod);
        return pod.experts();
      });
    const [experts, again] = [await look(), await look()];
    expect(again).toEqual(experts);
    expect(experts.task_executors.map(({ role }) => role)).toEqual(['prefill', 'decode']);
    for (const { layers } of experts.task_executors) for (const { tokens } of layers) expect(tokens).toBeGreaterThan(0);
    expect(new Set(replicasOf(experts).map(({ npu }) => npu))).toEqual(new Set([0, 1, 2, 3, 4]));
    expect(replicasOf(experts).filter(({ service }) => service !== null && service.mean_us > 0).length).toBeGreaterThan(20);
  });

  it('should tell of experts on NPUs of their own: those hold them, and serve both domains', async () => {
    const experts = await withPod({ clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=2x1,experts=3', seed: 4 }, async (pod) => {
      await pod.experts();
      await all(pod);
      return pod.experts();
    });
    expect(new Set(replicasOf(experts).map(({ npu }) => npu))).toEqual(new Set([2, 3, 4]));
    const layers = experts.task_executors.flatMap(({ layers }) => layers);
    for (const { tokens, experts, map_epoch } of layers) {
      expect(map_epoch).toBe(0);
      // All are timed there: none is computed where its tokens are.
      const timed = experts.flatMap(({ replicas }) => replicas.map(({ service }) => service?.tokens ?? 0));
      expect(timed.reduce((sum, count) => sum + count, 0)).toBe(tokens);
    }
  });

  it('should tell what became of the last rebalance, and where replicas are since', async () => {
    const expert_balancing = { redundant_slots: 8, policy: 'global', period_ms: 60_000 } as const;
    await withPod({ clock: 'virtual', kernels: 'hash', npus: 4, seed: 4, expert_balancing }, async (pod) => {
      await all(pod);
      const before = await pod.experts();
      expect(before.task_executors[0]?.balancing).toMatchObject({ executor: 0, stalled: false });
      const [outcome] = await pod.rebalance({ force: true });
      const after = await pod.experts();
      // The moves one by one are told to who asked alone.
      expect(outcome).toMatchObject(after.task_executors[0]?.balancing?.last ?? {});
      expect(after.task_executors[0]?.balancing?.last).toMatchObject({ entry: 1, trigger: 'asked', installed: true });
      expect(outcome?.slots).toBeGreaterThan(0);
      const replicas = after.task_executors[0]?.layers.flatMap(({ experts }) => experts.map(({ replicas }) => replicas.length)) ?? [];
      expect(Math.max(...replicas)).toBeGreaterThan(1);
      expect(Math.min(...replicas)).toBe(1);
      expect(Math.max(...(after.task_executors[0]?.layers.map(({ map_epoch }) => map_epoch) ?? []))).toBeGreaterThan(0);
      // Of each expert where it came to and what it left, and of each layer why.
      const npusIn = ({ task_executors }: PodExperts, layer: number, expert: number): number[] =>
        [...new Set(task_executors[0]?.layers[layer]?.experts[expert]?.replicas.map(({ npu }) => npu))].sort((a, b) => a - b);
      expect(before.task_executors[0]?.layers[0]).toMatchObject({ last_rebalance: null });
      for (const [layer, { experts, last_rebalance }] of (after.task_executors[0]?.layers ?? []).entries()) {
        expect(last_rebalance?.reason).toMatch(/^(asked for, though )?predicted (no )?better: busiest NPU over mean \d/);
        for (const { expert, moved } of experts) {
          const [had, has] = [npusIn(before, layer, expert), npusIn(after, layer, expert)];
          const [onto, off] = [has.filter((npu) => !had.includes(npu)), had.filter((npu) => !has.includes(npu))];
          expect(moved).toEqual(onto.length + off.length === 0 ? null : { onto, off });
        }
      }
      await pod.rebalance();
      for (const { last_rebalance, experts } of (await pod.experts()).task_executors[0]?.layers ?? [])
        if (experts.every(({ moved }) => moved === null)) expect(last_rebalance?.reason).toMatch(/no token|predicted no better/);
    });
  });

  it('should know no queue of experts whose worker is lost', async () => {
    await using rig = await openRig({ npus: 2, workers: 2 });
    rig.killWorker(1);
    for (let look = 0; look < 2_000; look++) {
      const replicas = replicasOf(await rig.pod.experts());
      expect(replicas.filter(({ npu }) => npu === 0).every(({ queued }) => queued !== null)).toBe(true);
      if (replicas.some(({ queued }) => queued === null)) {
        await expectNothingLeft(rig.pod);
        return;
      }
      await sleep(1);
    }
    expect.fail('no expert was ever lost');
  });
});
