/** Experts of which no copy is left, nor is to come: who needs them hears so at once, and is served again as soon as they are back. */
import { cpSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import type { Pod, PodOptions } from '../../src/index.ts';
import { resolveModel } from '../../src/model/registry.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { APART, after, answersOf, loseAfter, mirrored, open, right } from './lost-npus.ts';
import { expectNothingLeft, fingerprint, sleep } from './pods.ts';
import { openRig, ROGUE } from './rig.ts';

const WHY = 'its weights cannot be read';
const now_ms = ({ control }: VirtualPod): number => control.host.clock.now_ms();
const ends = async (pod: Pod): Promise<{ codes: Set<string>; messages: string[] }> => {
  const all = await Promise.allSettled(
    Array.from({ length: 4 }, (_, index) => pod.complete([1, 86, 1461, 531 + index], { max_tokens: 12, seed: index, ignore_eos: true, n: 1 + (index % 2) })),
  );
  const errors = all.map((end) => (end.status === 'rejected' ? end.reason : { code: 'finished', message: '' }) as { code: string; message: string });
  return { codes: new Set(errors.map(({ code }) => code)), messages: errors.map(({ message }) => message) };
};

describe('experts of which no copy is left', () => {
  it.each<[string, PodOptions, number, number]>([
    ['on NPUs of their own', APART, 1, 2],
    ['in two micro-batches', { ...APART, micro_batches: 2, max_batch_tokens: 64 }, 2, 3],
    ['domains that take turns', { ...APART, schedule: 'domains', max_batch_tokens: 64 }, 1, 2],
    ['colocated', { topology: 'colocated:dp=3', workers: 3 }, 2, 2],
    ['of a decode executor', { topology: 'pd:prefill=1xdp1,decode=1xdp2', workers: 3 }, 2, 2],
  ])('should end all requests at once, and serve them again when they are back: %s', async (_, options, worker, npu) => {
    await using pod = await open(options);
    const { workers } = pod.control;
    const bringBack = workers.withhold(worker, WHY);
    loseAfter(pod, worker, 60);
    const { codes, messages } = await ends(pod);
    expect([...codes]).toEqual(['experts_lost']);
    expect(messages[0]).toContain(`NPU ${npu}`);
    expect(messages[0]).toContain(WHY);
    await expectNothingLeft(pod);
    const before_ms = now_ms(pod);
    expect([...(await ends(pod)).codes]).toEqual(['experts_lost']);
    expect(now_ms(pod) - before_ms).toBeLessThan(1);
    bringBack();
    while ((await pod.stats()).experts_lost.length > 0) expect(pod.control.step()).toBe(true);
    expect(await answersOf(pod)).toEqual(await right);
    await expectNothingLeft(pod);
  });

  it('should be told of over HTTP: 503 that says when to come again, and by /health', async () => {
    await using pod = await open(APART);
    const app = createApp(pod);
    const ask = (stream: boolean): Promise<Response> =>
      Promise.resolve(
        app.request('/v1/completions', {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ model: 'tiny-deepseek-v3', prompt: [1, 2, 3], max_tokens: 60, ignore_eos: true, stream }),
        }),
      );
    expect((await ask(false)).status).toBe(200);
    expect((await app.request('/health')).status).toBe(200);
    const bringBack = pod.control.workers.withhold(1, WHY);
    loseAfter(pod, 1, 60);
    for (const stream of [false, true, false]) {
      const response = await ask(stream);
      expect(response.status).toBe(503);
      expect(response.headers.get('retry-after')).toBe('1');
      expect(response.headers.get('x-should-retry')).toBe('true');
      expect(await response.json()).toMatchObject({ error: { code: 'experts_lost', type: 'server_error', message: expect.stringContaining('NPU 2') } });
    }
    const ill = await app.request('/health');
    expect(ill.status).toBe(503);
    expect(await ill.text()).toContain('no copy is left of the experts that NPU 2 held');
    bringBack();
    while ((await pod.stats()).experts_lost.length > 0) pod.control.step();
    expect((await app.request('/health')).status).toBe(200);
    expect((await ask(true)).status).toBe(200);
  });

  it('should cost nobody anything where others can compute what they were to', async () => {
    await using pod = await open({ topology: 'pd:prefill=2xdp1,decode=1xdp1', workers: 3 });
    const health = async () => createApp(pod).request('/health');
    const bringBack = pod.control.workers.withhold(0, WHY);
    loseAfter(pod, 0, 60);
    expect(await answersOf(pod)).toEqual(await right);
    expect(await answersOf(pod)).toEqual(await right);
    expect((await pod.stats()).experts_lost).toMatchObject([{ task_executor: 0 }]);
    const well = await health();
    expect(well.status).toBe(200);
    expect(await well.json()).toEqual({ status: 'degraded', reasons: [expect.stringMatching(/^Task executor 0 serves nobody: no DP group is left/)] });
    // Nobody is left for prefill.
    const bringOther = pod.control.workers.withhold(1, WHY);
    pod.control.workers.lose(1, 'the test killed it');
    while ((await pod.stats()).experts_lost.length < 2) expect(pod.control.step()).toBe(true);
    expect((await health()).status).toBe(503);
    bringOther();
    while ((await pod.stats()).experts_lost.length === 2) expect(pod.control.step()).toBe(true);
    expect((await health()).status).toBe(200);
    bringBack();
    while ((await pod.stats()).experts_lost.length > 0) expect(pod.control.step()).toBe(true);
    expect(await (await health()).text()).toBe('');
  });

  it('should end all requests where lost workers have no successors, and there is no room elsewhere', async () => {
    await using pod = await open({ ...APART, respawn: false });
    loseAfter(pod, 1, 60);
    const { codes, messages } = await ends(pod);
    expect([...codes]).toEqual(['experts_lost']);
    expect(messages[0]).toContain('expert 0 of layer 1 and 63 other experts: npu/2 had them');
    await expectNothingLeft(pod);
  });

  it('should be none where there is room elsewhere', async () => {
    await using pod = await open({ ...APART, respawn: false, expert_balancing: { redundant_slots: 32, period_ms: 1_000_000 } });
    loseAfter(pod, 1, 60);
    expect(await answersOf(pod)).toEqual(await right);
    expect((await pod.stats()).experts_lost).toEqual([]);
  });

  it('should be none where there are two of each', async () => {
    await using pod = await open({ ...APART, ...mirrored(33) });
    pod.control.workers.withhold(1, WHY);
    loseAfter(pod, 1, 60);
    expect(await answersOf(pod)).toEqual(await right);
    expect(await answersOf(pod)).toEqual(await right);
    expect((await pod.stats()).experts_lost).toEqual([]);
  });
});

it('should be so on threads, while the disk is away from which a worker that was given up would have its weights', async () => {
  const folder = join(mkdtempSync(join(tmpdir(), 'minipod-')), 'model');
  cpSync(resolveModel('tiny-deepseek-v3'), folder, { recursive: true });
  const ask = (pod: Pod) => pod.complete('Once upon a time', { temperature: 0, ignore_eos: true, max_tokens: 40 });
  await using one = await open({ kernels: 'real' });
  const whole = await ask(one);
  await using rig = await openRig({ ...APART, model: folder, spare_workers: 1 }, ROGUE);
  const { pod, control } = rig;
  renameSync(folder, `${folder}.away`);
  rig.goRogue(1, 350);
  await sleep(20);
  control.giveUp(1, 'the test wants it so');
  for (let call = 0; call < 2; call++)
    await expect(ask(pod)).rejects.toMatchObject({ code: 'experts_lost', message: expect.stringContaining('its weights cannot be read') });
  const app = createApp(pod);
  expect((await app.request('/health')).status).toBe(503);
  renameSync(`${folder}.away`, folder);
  while ((await pod.stats()).experts_lost.length > 0) await sleep(20);
  expect(fingerprint(await ask(pod))).toEqual(fingerprint(whole));
  expect((await app.request('/health')).status).toBe(200);
  await expectNothingLeft(pod);
  rmSync(folder, { recursive: true });
});

describe('an NPU that cannot be put in place again for now', () => {
  it.each<[string, PodOptions, number]>([
    ['whoever computes with columns of its output projections', { topology: 'colocated:dp=4,oproj=2', workers: 4 }, 3],
    ['its group, of which it is a rank', { topology: 'colocated:dp=2,tp=2', workers: 4 }, 3],
  ])('should not keep what others can compute, and be served by again when it is back: %s', async (_, options, worker) => {
    await using pod = await open({ ...options, load_balancing: 'round_robin', ...mirrored(32) });
    let bringBack = (): void => {};
    after(pod, 150, () => {
      pod.control.workers.lose(worker, 'the test killed it');
      // It is seen when a successor is to begin, and all else is as it will be by then.
      bringBack = pod.control.workers.withhold(worker, WHY);
    });
    expect(await answersOf(pod)).toEqual(await right);
    expect(now_ms(pod)).toBeLessThan(5_000);
    await expectNothingLeft(pod);
    bringBack();
    await pod.rest();
    const groups = pod.control.plan.hosting.deployment.groups.length;
    const asked = Array.from({ length: groups }, (_, data_parallel_rank) => pod.complete([5, 6, 7], { max_tokens: 3, data_parallel_rank }));
    expect((await Promise.all(asked)).map(({ choices }) => choices[0]?.token_ids.length)).toEqual(Array.from({ length: groups }, () => 3));
    expect((await pod.stats()).dp_groups.every(({ generation_tokens }) => generation_tokens > 0)).toBe(true);
    await expectNothingLeft(pod);
  });
});
