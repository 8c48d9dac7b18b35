/** Experts that move while requests run, on both clocks: the same tokens, with or without; and what is told of the loop that moves them. */
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import { RoundExperts } from '../../src/flowserve/experts/round-experts.ts';
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import { balancingReports } from '../../src/platform/expert-balancing.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { breathe } from '../../src/runtime/event-loop.ts';
import type { ExpertBalancingStats } from '../../src/stats.ts';
import { cases, runs } from '../property-runs.ts';
import { draws } from '../trace/files.ts';
import { forceRebalances } from './forced-rebalances.ts';
import { expectNothingLeft, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

const CALLS = 6;
const prompt = (index: number): number[] => [1, 86, 1461, 613, 265, 531 + index];
const generate = async (pod: Pod, max_tokens: number): Promise<number[][]> =>
  Promise.all(
    Array.from({ length: CALLS }, async (_, index) => {
      const tokens: number[] = [];
      for await (const { token_ids } of pod.generate(prompt(index), { max_tokens, seed: index, ignore_eos: true })) tokens.push(...token_ids);
      return tokens;
    }),
  );

const TOPOLOGIES = ['colocated:dp=2', 'colocated:dp=3', 'colocated:dp=1,tp=2', 'moe-attention:domains=1x2,experts=3', 'pd:prefill=1xdp2,decode=1xdp2'];
const IN_TURN = ['moe-attention:domains=1x2,experts=3', 'moe-attention:domains=2x2,experts=2', 'pd:prefill=1,decode=1xdomains2x1experts3'];
const LAYOUTS: readonly { readonly topology: string; readonly schedule?: 'domains' }[] = [
  ...TOPOLOGIES.map((topology) => ({ topology })),
  ...IN_TURN.map((topology) => ({ topology, schedule: 'domains' as const })),
];

/** What comes of it while experts move, again and again. */
async function whileMoving(options: PodOptions): Promise<number[][]> {
  return withPod(options, async (pod) => {
    // Something has to be routed before there is anything to plan on.
    await generate(pod, 2);
    let isOver = false;
    const moving = (async (): Promise<number> => {
      let slots = 0;
      while (!isOver) for (const outcome of await pod.rebalance({ force: true })) slots += outcome.slots;
      return slots;
    })();
    const tokens = await generate(pod, 8);
    isOver = true;
    expect(await moving).toBeGreaterThan(0);
    const { expert_balancing, unexpected_messages } = await pod.stats();
    expect(expert_balancing.map(({ stalled }) => stalled)).not.toContain(true);
    expect(unexpected_messages).toEqual([]);
    return tokens;
  });
}

describe('experts that move', () => {
  it('should change no token, on a virtual clock', async () => {
    const expected = await withPod({ clock: 'virtual', kernels: 'hash' }, (pod) => generate(pod, 8));
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...LAYOUTS),
        fc.nat(99),
        fc.integer({ min: 1, max: 20 }),
        fc.constantFrom('global', 'fixed_primaries', 'hierarchical'),
        async (layout, seed, redundant_slots, policy) => {
          const expert_balancing = { redundant_slots, policy, period_ms: 60_000 } as const;
          const micro_batches = layout.topology.startsWith('moe') && seed % 2 === 1 ? { micro_batches: 2 as const } : {};
          expect(await whileMoving({ clock: 'virtual', kernels: 'hash', ...layout, seed, expert_balancing, ...micro_batches })).toEqual(expected);
        },
      ),
      { numRuns: runs(5) },
    );
  });

  it('should change no token where rebalances are forced at every layer, on a virtual clock', async () => {
    const expected = await withPod({ clock: 'virtual', kernels: 'hash' }, (pod) => generate(pod, 8));
    let rounds = 0;
    let back = 0;
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...LAYOUTS), fc.nat(999), fc.integer({ min: 1, max: 20 }), async (layout, seed, redundant_slots) => {
        const expert_balancing = { redundant_slots, period_ms: 60_000 };
        const options: PodOptions = { clock: 'virtual', kernels: 'hash', ...layout, seed, expert_balancing, link_bytes_per_s: 10 ** (7 + (seed % 5)) };
        await withPod(options, async (pod) => {
          const forced = forceRebalances((pod as VirtualPod).control, draws(seed));
          expect(await generate(pod, 8)).toEqual(expected);
          rounds += forced().rounds;
          back += forced().back;
        });
      }),
      { numRuns: runs(6) },
    );
    expect(rounds).toBeGreaterThan(50);
    expect(back).toBeGreaterThan(3);
  });

  it('should lead to no refusal in rounds of domains, where slots change when all maps are there and nothing asked by an older one is open', async () => {
    const rounds = vi.spyOn(RoundExperts.prototype, 'compute');
    try {
      for (const [seed, topology] of IN_TURN.entries())
        await withPod(
          { clock: 'virtual', kernels: 'hash', schedule: 'domains', topology, seed, expert_balancing: { redundant_slots: 6, period_ms: 60_000 } },
          async (pod) => {
            const forced = forceRebalances((pod as VirtualPod).control, draws(seed), false);
            await generate(pod, 8);
            expect(forced().rounds).toBeGreaterThan(3);
          },
        );
      expect(rounds.mock.results.length).toBeGreaterThan(100);
      expect(rounds.mock.results.filter(({ type, value }) => type !== 'return' || value.refused != null)).toEqual([]);
    } finally {
      rounds.mockRestore();
    }
  });

  it.each(cases<PodOptions>([{ topology: 'colocated:dp=2' }, { topology: 'moe-attention:domains=1x2,experts=2', schedule: 'domains' }]))(
    'should change no token, on worker threads: %o',
    async (layout) => {
      const expected = await withPod({ clock: 'virtual' }, (pod) => generate(pod, 8));
      const expert_balancing = { redundant_slots: 6, period_ms: 60_000 };
      expect(await whileMoving({ ...layout, workers: 2, expert_balancing })).toEqual(expected);
    },
  );

  it('should stay where they are in a pod that does not balance them', async () => {
    await using pod = await createPod({ clock: 'virtual', kernels: 'hash', npus: 2 });
    await expect(pod.rebalance()).rejects.toMatchObject({ code: 'invalid_request', param: 'expert_balancing' });
    expect((await pod.stats()).expert_balancing).toEqual([]);
    await expect(createPod({ clock: 'virtual', kernels: 'hash', expert_balancing: { redundant_slots: 1 } })).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'expert_balancing',
    });
    await expect(createPod({ clock: 'virtual', kernels: 'hash', npus: 2, enable_eplb: true })).rejects.toMatchObject({ param: 'enable_eplb' });
  });
});

describe('average routing', () => {
  it('should give each expert as many tokens, captured or not, whatever the model', async () => {
    const tokens = await Promise.all(
      [{ kernels: 'hash' as const, npus: 2 }, { npus: 2 }, { npus: 2, enforce_eager: true }].map((options) =>
        withPod({ clock: 'virtual', average_routing: true, ...options }, async (pod) => {
          const calls = Array.from({ length: 16 }, (_, index) => pod.complete([1, 5 + index], { max_tokens: 4, temperature: 0, ignore_eos: true }));
          const generated = (await Promise.all(calls)).map(({ choices }) => choices[0]?.token_ids);
          for (const loads of (await pod.stats()).expert_loads) expect(Math.max(...loads) / Math.min(...loads)).toBeLessThan(1.5);
          return generated;
        }),
      ),
    );
    expect(tokens[2]).toEqual(tokens[1]);
  });
});

describe('a loop that dies', () => {
  const period_ms = 1_000;
  const plan = { hosting: { deployment: { executors: [{ id: 0 }] } }, options: { expert_balancing: { period_ms } } } as unknown as Parameters<
    typeof balancingReports
  >[1];
  const seen = (progress_ms: number, now_ms: number): boolean | undefined => {
    const cast = {
      stateOf: () => 'stable',
      contextOf: () => ({
        balancer: { epoch: 1, progress: 3, outcomes: [], log: { entries: [], counts: [] }, lostExperts: [], rehoming: { isSharedLost: false }, progress_ms },
      }),
    };
    return balancingReports(cast, plan, now_ms)[0]?.stalled;
  };

  it('should be told of within two periods, whatever it says of itself, and at once where it is gone', () => {
    expect(seen(5_000, 5_000 + 2 * period_ms)).toBe(false);
    expect(seen(5_000, 5_001 + 2 * period_ms)).toBe(true);
    expect(balancingReports({ stateOf: () => null, contextOf: () => null }, plan, 0)).toMatchObject([{ state: 'gone', stalled: true }]);
  });

  it('should be found by health in a running pod, within a second though its period is short, while requests go on as before', async () => {
    await using pod = (await createPod({ clock: 'virtual', kernels: 'hash', npus: 2, expert_balancing: { redundant_slots: 2, period_ms: 20 } })) as VirtualPod;
    const { host } = pod.control;
    const app = createApp(pod);
    // It is asked at that very time: the clock of a pod that has nothing else to do goes on at once, to where something happens.
    const healthAt = async (end_ms: number): Promise<number> => {
      let health: Response | Promise<Response> | undefined;
      host.later(Math.max(0, Math.ceil((end_ms - host.clock.now_ms()) * 1e6)), () => {
        health = app.request('/health');
      });
      while (health === undefined) {
        expect((await pod.complete(prompt(0), { max_tokens: 2, ignore_eos: true })).usage.completion_tokens).toBe(2);
        await breathe();
      }
      return (await health).status;
    };
    expect(await healthAt(100)).toBe(200);
    expect((await pod.stats()).expert_balancing[0]?.progress).toBeGreaterThanOrEqual(4);
    // The loop forgets to ask for its next period: it lives, is in a good state and answers whoever asks for a rebalance, and will never do anything by itself.
    const context = host.cast.contextOf('expert-map/0') as { period_ms: number | null };
    context.period_ms = null;
    // The period that has begun is the last one.
    expect(await healthAt(host.clock.now_ms() + 100)).toBe(200);
    const [{ last_progress_seconds = 0 } = {}] = (await pod.stats()).expert_balancing;
    expect(await healthAt(1_000 * last_progress_seconds + 1_001)).toBe(503);
    const [loop] = (await pod.stats()).expert_balancing;
    // From the last time that it did anything.
    expect(loop).toMatchObject({ state: 'stable', stalled: true });
    expect(await (await app.request('/metrics')).text()).toMatch(/minipod:expert_balancing_stalled\{task_executor="0",[^}]*\} 1/);
  });
});

describe('a worker that is killed in the midst of a rebalance', () => {
  it('should cost the rebalance, with a reason, and no request and no token', async () => {
    const expected = await withPod({ clock: 'virtual' }, (pod) => generate(pod, 16));
    await using rig = await openRig({ topology: 'colocated:dp=2', workers: 2, spare_workers: 1, expert_balancing: { redundant_slots: 6, period_ms: 600_000 } });
    const { pod, control } = rig;
    const loop = async (): Promise<ExpertBalancingStats | undefined> => (await pod.stats()).expert_balancing[0];
    await generate(pod, 2);
    const tokens = generate(pod, 16);
    const rebalance = control.rebalance(true);
    // Both NPUs have to take the next map.
    while ((await loop())?.state !== 'prefetching') await breathe();
    rig.killWorker(1);
    expect(await rebalance).toMatchObject([
      { outcome: 'rolled_back', cause: 'npu_lost', reason: expect.stringMatching(/^npu\/1 was lost: .*; the last good map stands$/) },
    ]);
    expect(await tokens).toEqual(expected);
    while ((await control.rebalance(true))[0]?.cause === 'npu_lost') await sleep(5);
    expect(await loop()).toMatchObject({ state: 'stable', stalled: false, log: expect.arrayContaining([expect.objectContaining({ outcome: 'rolled_back' })]) });
    const { task_executors } = await pod.experts({ measure: false });
    for (const { experts } of task_executors[0]?.layers ?? []) for (const { replicas } of experts) expect(replicas.length).toBeGreaterThan(0);
    expect(await generate(pod, 16)).toEqual(expected);
    await expectNothingLeft(pod);
  });
});
