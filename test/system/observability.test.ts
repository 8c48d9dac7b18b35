/** What the pod says of itself goes on while its workers come and go. */
import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import type { PodStats } from '../../src/index.ts';
import { expectNothingLeft, sharedPod, sleep, withPod } from './pods.ts';
import { openRig, type Rig } from './rig.ts';

const OPTIONS = { temperature: 0, ignore_eos: true, max_tokens: 12 };
const lostNpus = ({ npus }: PodStats): number[] => npus.filter(({ state }) => state === 'lost').map(({ npu }) => npu);

/** Looks again and again, until the look shows that the worker is lost. */
async function untilLost({ pod }: Rig, npus: number): Promise<PodStats> {
  for (let look = 0; look < 2_000; look++) {
    const stats = await pod.stats();
    expect(stats.npus.map(({ npu }) => npu)).toEqual(Array.from({ length: npus }, (_, npu) => npu));
    if (lostNpus(stats).length > 0) return stats;
    await sleep(1);
  }
  return expect.fail('no NPU was ever lost');
}

const lostInMetrics = async (rig: Rig): Promise<string[]> => {
  const text = await (await createApp(rig.pod).request('/metrics')).text();
  return [...text.matchAll(/^minipod:npu_lost\{npu="(\d+)".*\} (\d)$/gm)].map(([, npu, value]) => `npu ${npu}: ${value}`);
};

describe('the NPUs of a worker that is lost', () => {
  it('stay in the stats as lost, with what they had counted and nothing held, and come back with their successor', async () => {
    await using rig = await openRig({ npus: 4, workers: 2 });
    await Promise.all(['Once', 'The', 'A', 'In'].map((prompt) => rig.pod.complete(prompt, OPTIONS)));
    await expectNothingLeft(rig.pod);
    const before = await rig.pod.stats();
    expect((before.npus[2]?.steps ?? 0) + (before.npus[3]?.steps ?? 0)).toBeGreaterThan(0);
    rig.killWorker(1);
    const stats = await untilLost(rig, 4);
    expect(lostNpus(stats)).toEqual([2, 3]);
    for (const npu of [2, 3]) expect(stats.npus[npu]).toEqual({ ...before.npus[npu], state: 'lost' });
    expect(stats.npus.map(({ worker }) => worker)).toEqual([0, 0, 1, 1]);
    await expectNothingLeft(rig.pod);
    const after = await rig.pod.stats();
    expect(after.npus.map(({ state }) => state)).toEqual(['idle', 'idle', 'idle', 'idle']);
    expect(after.npus.map(({ steps }) => steps)).toEqual([before.npus[0]?.steps, before.npus[1]?.steps, 0, 0]);
  });

  it('are in /metrics as well, even if nobody had ever asked before', async () => {
    await using rig = await openRig({ npus: 3, workers: 1 });
    rig.killWorker(0);
    for (let look = 0; look < 2_000 && rig.space.control.epochOf(rig.control.directory.threadOfWorker(0)) === 1; look++) await sleep(1);
    expect(await lostInMetrics(rig)).toEqual(['npu 0: 1', 'npu 1: 1', 'npu 2: 1']);
    expect((await rig.pod.stats()).npus).toMatchObject([0, 1, 2].map((npu) => ({ npu, die: npu, steps: 0, kv_blocks: rig.plan.options.kv_blocks })));
    await expectNothingLeft(rig.pod);
    expect(await lostInMetrics(rig)).toEqual(['npu 0: 0', 'npu 1: 0', 'npu 2: 0']);
  });
});

describe('requests that wait for a DP group', () => {
  it.each([
    { topology: 'pd:prefill=1xdp2,decode=1' },
    { topology: 'pd:prefill=1xdp2,decode=1', long_prompt_groups: 1, long_prompt_tokens: 500 },
    { topology: 'colocated:dp=2', load_balancing: 'cost_model' },
  ] as const)('are counted with the group that leads, and keep no loop from going on: %o', async (options) => {
    await withPod({ clock: 'virtual', kernels: 'hash', seed: 1, ...options }, async (pod) => {
      const prompt = Array.from({ length: 600 }, (_, position) => 3 + (position % 500));
      const calls = Array.from({ length: 40 }, (_, call) => pod.complete([3 + call, ...prompt], OPTIONS));
      await Promise.race(calls);
      const { requests_waiting, dp_groups, task_executors, loops } = await pod.stats();
      // To groups belongs no more than fills their next two steps, which is one such prompt.
      const bound = dp_groups.map((group) => group.requests_waiting).toSorted((a, b) => a - b);
      expect(bound.pop()).toBeGreaterThanOrEqual(20);
      expect(Math.max(...bound)).toBeLessThanOrEqual(1);
      expect(task_executors[0]?.requests_waiting).toBe(requests_waiting);
      expect(loops.filter(({ stalled }) => stalled)).toEqual([]);
      await Promise.all(calls);
      expect((await pod.stats()).requests_waiting).toBe(0);
    });
  });
});

describe('requests that wait for their KV', () => {
  it('are counted where it goes to, so that each that is under way runs or waits somewhere', async () => {
    await withPod({ clock: 'virtual', kernels: 'hash', seed: 1, topology: 'pd:prefill=2,decode=1', kv_blocks: 48 }, async (pod) => {
      const prompt = Array.from({ length: 600 }, (_, position) => 3 + (position % 500));
      const calls = Array.from({ length: 12 }, (_, call) => pod.complete([3 + call, ...prompt], { ...OPTIONS, max_tokens: 60 }));
      await Promise.race(calls);
      // One decodes; there is no room for another one's blocks beside it.
      const { requests_running, requests_waiting, requests_finished, dp_groups } = await pod.stats();
      expect(dp_groups[2]).toMatchObject({ requests_running: 1, requests_waiting: 1, kv_expected: 1 });
      expect(requests_running + requests_waiting + (requests_finished['length'] ?? 0)).toBe(12);
      await Promise.all(calls);
    });
  });
});

describe('a pod of two workers', () => {
  const shared = sharedPod({ npus: 2, workers: 2 });

  it('has counters of the exchange that agree between those who ask and those who answer', async () => {
    const pod = shared();
    await Promise.all(['Once', 'The', 'A', 'In'].map((prompt) => pod.complete(prompt, OPTIONS)));
    await expectNothingLeft(pod);
    const [a, b] = (await pod.stats()).npus;
    expect(a?.dispatches_written).toBeGreaterThan(12);
    expect([a?.dispatches_written, b?.dispatches_written]).toEqual([b?.dispatches_served, a?.dispatches_served]);
    // Each row that one pulls to compute with is a row of an answer that the other pulls.
    expect(a?.pulled_bytes).toBe(b?.pulled_bytes);
    expect(a?.pulled_bytes).toBeGreaterThan(12 * 1_024);
    for (const npu of [a, b]) {
      expect(npu).toMatchObject({ dispatches_refused: 0, rows_damaged: 0, fields_stale: 0 });
      expect(npu?.fields_written).toBe((npu?.dispatches_written ?? 0) + (npu?.dispatches_served ?? 0));
      expect(npu?.reply_bytes_max).toBeGreaterThan(0);
    }
  });

  it('has links with what their writers and their readers count, which agree when all is read, in the stats and in /metrics', async () => {
    const pod = shared();
    await Promise.all(['Once', 'The', 'A', 'In'].map((prompt) => pod.complete(prompt, OPTIONS)));
    await expectNothingLeft(pod);
    const look = async () => (await pod.stats()).fabric.links.filter(({ lane, frames }) => lane === 'data' && frames > 0);
    let data = await look();
    // Writers and readers are asked one after the other, and those who look whether others live write now and then.
    const allIsRead = (): boolean => data.every(({ frames, received_frames }) => received_frames === frames);
    for (let looks = 0; looks < 1_000 && !allIsRead(); looks++) data = await look();
    expect(data.map(({ from, to }) => `${from} ${to}`)).toEqual(expect.arrayContaining(['caller control', 'control caller', 'worker/1 control']));
    for (const { frames, bytes, ...link } of data) {
      expect(link).toMatchObject({ received_frames: frames, received_bytes: bytes, stale: 0, slab_bytes: 0 });
      // One in 64 of all that its writer sends, to anybody: this link may have had none.
      expect(link.latencies_us.reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(frames);
    }
    const sampledIn = (looked: typeof data): number => looked.reduce((sum, { latencies_us }) => sum + latencies_us.reduce((all, count) => all + count, 0), 0);
    const sampled = sampledIn(data);
    expect(sampled).toBeGreaterThan(0);
    const text = await (await createApp(pod).request('/metrics')).text();
    const counts = [...text.matchAll(/^minipod:link_latency_seconds_count\{.*lane="data".*\} (\d+)$/gm)].map(([, count]) => Number(count));
    const told = counts.reduce((sum, count) => sum + count, 0);
    expect(told).toBeGreaterThanOrEqual(sampled);
    expect(told).toBeLessThanOrEqual(sampledIn(await look()));
  });
});

it('counters of the exchange stay 0 in a pod of one NPU, which asks nobody', () =>
  withPod({ clock: 'virtual', npus: 1 }, async (pod) => {
    await pod.complete('Once', OPTIONS);
    const zeros = { dispatches_written: 0, dispatches_served: 0, dispatches_refused: 0, pulled_bytes: 0, fields_written: 0, reply_bytes_max: 0 };
    expect((await pod.stats()).npus).toMatchObject([zeros]);
  }));

describe('names', () => {
  it('of threads and memory that nobody has are those of thread and die, with a state', () =>
    withPod({ npus: 2, workers: 1, spare_workers: 1 }, async (pod) => {
      const { fabric, memory } = await pod.stats();
      expect(fabric.threads.map(({ name, state }) => `${name} ${state}`)).toEqual(['caller held', 'control held', 'worker/0 held', 'thread/3 free']);
      const hbm = memory.regions.filter(({ kind }) => kind === 'hbm');
      expect(hbm.map(({ owner, state }) => `${owner} ${state}`)).toEqual(['npu/0 held', 'npu/1 held', 'die/2 free', 'die/3 free']);
    }));
});
