/** Pods that serve on without experts of which no copy is left (`degraded`): what they say is what the model says with those masked, and is told apart. */
import { describe, expect, it } from 'vitest';
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { createApp } from '../../src/api/index.ts';
import type { PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { APART, loseAfter, mirrored, open } from './lost-npus.ts';
import { expectNothingLeft } from './pods.ts';

const WHY = 'its weights cannot be read';
/** Longer than a block: others could begin with its KV. */
const promptOf = (index: number): number[] => Array.from({ length: 40 }, (_, at) => 3 + ((at * 37 + index * 101) % 1_500));
const OPTIONS = { max_tokens: 24, ignore_eos: true, temperature: 1 } as const;
type Kernels = 'hash' | 'real';
type Answer = { readonly tokens: number[] /** The first that is said to be degraded; −1: none. */; readonly from: number; readonly cached: number };

async function ask(pod: VirtualPod, index: number, data_parallel_rank?: number): Promise<Answer> {
  const generation = pod.generate(promptOf(index), { ...OPTIONS, seed: index, data_parallel_rank });
  const chunks = [];
  for await (const chunk of generation) chunks.push(chunk);
  const from = chunks.findIndex(({ degraded }) => degraded === true);
  // Once, and from then on.
  if (from >= 0) expect(chunks.slice(from).every(({ degraded }) => degraded === true)).toBe(true);
  expect(generation.degraded).toBe(from >= 0);
  return { tokens: chunks.flatMap(({ token_ids }) => [...token_ids]), from, cached: generation.usage().cached_tokens };
}

/** What a pod says that lacks nothing, by itself, with what NPU `masked` of 2 has masked from output token `from` on; −1: nothing. */
async function reference(index: number, { from }: Answer, masked: number, kernels: Kernels): Promise<number[]> {
  await using pod = await open({ topology: 'colocated:dp=2', async_scheduling: false, kernels });
  for (const group of [0, 1]) {
    const { scheduler } = pod.control.host.cast.contextOf(`dp-group/${group}`) as { scheduler: StepScheduler };
    const plan = scheduler.plan.bind(scheduler);
    scheduler.plan = () => {
      const known = scheduler.atRest[0]?.tokens.length ?? 0;
      scheduler.masked = from >= 0 && known >= promptOf(index).length + from ? [masked] : [];
      return plan();
    };
  }
  return (await ask(pod, index)).tokens;
}

/** Of requests that go to group `rank` alone, none is computed anew. `cached`: of a prompt that others have computed whole. */
type Lost = { readonly worker: number; readonly masked: number; readonly kernels?: Kernels; readonly rank?: number; readonly cached?: number };

describe('a pod that serves on without experts of which no copy is left', () => {
  it.each<[string, PodOptions, Lost]>([
    ['on NPUs of their own', APART, { worker: 1, masked: 0 }],
    ['the other half of them, in two micro-batches', { ...APART, micro_batches: 2, max_batch_tokens: 64 }, { worker: 2, masked: 1 }],
    ['domains that take turns', { ...APART, schedule: 'domains', max_batch_tokens: 64 }, { worker: 1, masked: 0 }],
    ['colocated', { topology: 'colocated:dp=2', workers: 2 }, { worker: 1, masked: 1, rank: 0 }],
    ['one attention NPU', { topology: 'moe-attention:domains=1x1,experts=2', npu_workers: [0, 1, 2], workers: 3 }, { worker: 2, masked: 1 }],
    ['of a decode executor', { topology: 'pd:prefill=1xdp1,decode=1xdp2', workers: 3 }, { worker: 2, masked: 1, cached: 32 }],
    ['with the model itself', { ...APART }, { worker: 1, masked: 0, kernels: 'real' }],
  ])('should say what the model says with those masked, and that it is so: %s', async (_, options, { worker, masked, kernels = 'hash', rank, cached = 0 }) => {
    await using pod = await open({ ...options, kernels, degraded: true });
    const bringBack = pod.control.workers.withhold(worker, WHY);
    loseAfter(pod, worker, 90);
    const asked = await Promise.all(Array.from({ length: 2 }, (_, index) => ask(pod, index, rank)));
    expect(pod.control.workers.isLost(worker)).toBe(true);
    expect(asked.some(({ from }) => from > 0)).toBe(true);
    for (const [index, answer] of asked.entries()) expect(answer.tokens).toEqual(await reference(index, answer, masked, kernels));
    // Those that come meanwhile, alike or not, find nothing of it.
    for (const again of [false, true]) {
      const index = 7;
      const answer = await ask(pod, index);
      expect(answer.from).toBe(cached > 0 ? 1 : 0);
      expect(answer.cached).toBe(again ? cached : 0);
      expect(answer.tokens).toEqual(await reference(index, answer, masked, kernels));
    }
    await expectNothingLeft(pod);
    // And none after it: all is as if it had not been.
    bringBack();
    while (pod.control.workers.isLost(worker)) expect(pod.control.step()).toBe(true);
    await ask(pod, 9);
    const whole = await ask(pod, 7);
    expect(whole).toMatchObject({ from: -1, cached });
    expect(whole.tokens).toEqual(await reference(7, whole, masked, kernels));
    expect((await ask(pod, 7)).cached).toBeGreaterThan(0);
    await expectNothingLeft(pod);
  });

  it('should do so where lost workers have no successors and there is no room elsewhere, and not where there is', async () => {
    await using pod = await open({ ...APART, respawn: false, degraded: true });
    loseAfter(pod, 1, 60);
    const asked = await Promise.all([0, 1].map((index) => ask(pod, index)));
    expect(asked.some(({ from }) => from > 0)).toBe(true);
    for (const [index, answer] of asked.entries()) expect(answer.tokens).toEqual(await reference(index, answer, 0, 'hash'));
    expect((await ask(pod, 2)).from).toBe(0);
    await using other = await open({ ...APART, ...mirrored(33), respawn: false, degraded: true });
    loseAfter(other, 1, 60);
    for (const index of [0, 1]) expect((await ask(other, index)).from).toBe(-1);
  });

  it('should say so over HTTP: in the answer, its events and a header', async () => {
    await using pod = await open({ ...APART, degraded: true });
    const app = createApp(pod);
    const post = (path: string, body: object): Promise<Response> =>
      Promise.resolve(
        app.request(path, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ model: 'tiny-deepseek-v3', max_tokens: 6, ignore_eos: true, ...body }),
        }),
      );
    const chat = { messages: [{ role: 'user', content: 'Hello' }] };
    const whole = await post('/v1/completions', { prompt: promptOf(1) });
    expect(whole.headers.get('x-minipod-degraded')).toBeNull();
    expect(await whole.json()).not.toHaveProperty('degraded');
    pod.control.workers.withhold(1, WHY);
    pod.control.workers.lose(1, 'the test killed it');
    for (const [path, body] of [
      ['/v1/completions', { prompt: promptOf(1) }],
      ['/v1/chat/completions', chat],
    ] as const) {
      const answer = await post(path, body);
      expect(answer.headers.get('x-minipod-degraded')).toBe('true');
      expect(await answer.json()).toMatchObject({ degraded: true });
      const stream = await post(path, { ...body, stream: true, stream_options: { include_usage: true } });
      expect(stream.headers.get('x-minipod-degraded')).toBe('true');
      const events = (await stream.text()).split('\n\n').filter((event) => event.startsWith('data: {'));
      expect(events.length).toBeGreaterThan(2);
      for (const event of events) expect(JSON.parse(event.slice(6))).toMatchObject({ degraded: true });
    }
    expect((await app.request('/health')).status).toBe(200);
  });
});
