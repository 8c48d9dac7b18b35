/** A lost NPU has no successor: what experts it alone had come from the checkpoint onto those that are left, no request fails, and no token is another. */
import { describe, expect, it } from 'vitest';
import type { Pod, PodOptions } from '../../src/index.ts';
import { APART, after, answersOf, balancerOf, loseAfter, open, right, rightFor } from './lost-npus.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

/** Of each layer of the shipped model there are 32: room for all of them on one NPU less. */
const ROOM: PodOptions = { expert_balancing: { redundant_slots: 32, period_ms: 1_000_000 } };
/** The shared expert on each of them. */
const THREE: PodOptions = { topology: 'moe-attention:domains=1x2,experts=3,shared=3', npu_workers: [0, 0, 1, 2, 3], workers: 4 };

const logOf = async (pod: Pod): Promise<string[]> =>
  ((await pod.stats()).expert_balancing[0]?.log ?? []).map(({ change, outcome, cause }) => `${change} ${outcome} ${cause}`);

describe('experts of an NPU that has no successor', () => {
  it.each<[string, PodOptions, number]>([
    ['NPUs of their own', APART, 1],
    ['NPUs of their own, the other', APART, 2],
    ['NPUs of their own, two micro-batches', { ...APART, micro_batches: 2, max_batch_tokens: 64 }, 1],
    ['domains that take turns', { ...APART, schedule: 'domains', max_batch_tokens: 64 }, 2],
    ['colocated', { topology: 'colocated:dp=3', workers: 3 }, 2],
    ['the model itself', { ...APART, kernels: 'real' }, 2],
  ])('should come from the checkpoint while requests wait for them: %s', async (_, options, worker) => {
    const own = { kernels: options.kernels ?? ('hash' as const) };
    await using one = await open(own);
    const expected = await answersOf(one);
    await using pod = await open({ ...options, ...own, ...ROOM, respawn: false });
    loseAfter(pod, worker, 60);
    expect(await answersOf(pod)).toEqual(expected);
    expect(await answersOf(pod)).toEqual(expected);
    expect(pod.control.workers.isLost(worker)).toBe(true);
    expect(await logOf(pod)).toEqual(['rehome installed npu_gone']);
    const { log, state } = (await pod.stats()).expert_balancing[0] as NonNullable<Awaited<ReturnType<Pod['stats']>>['expert_balancing'][number]>;
    expect(log[0]).toMatchObject({
      writer: 'expert-map/0',
      reason: expect.stringMatching(/is lost for good; \d+ experts .* came from the checkpoint; all experts are served/),
    });
    expect(state).toBe('stable');
    expect(balancerOf(pod).holders).not.toContain(pod.control.directory.npusOfWorker(worker)[0]);
    await expectNothingLeft(pod);
  });

  it('should do so once more where another NPU is lost in the midst of it', async () => {
    await using pod = await open({ ...THREE, expert_balancing: { redundant_slots: 64, period_ms: 1_000_000 }, respawn: false });
    loseAfter(pod, 1, 60);
    let isStruck = false;
    const step = pod.control.step.bind(pod.control);
    pod.control.step = () => {
      const state = pod.control.host.cast.stateOf('expert-map/0');
      if (!isStruck && state === 'loading') {
        isStruck = true;
        pod.control.workers.lose(2, 'the test killed it too');
      }
      return step();
    };
    expect(await answersOf(pod)).toEqual(await right);
    expect(isStruck).toBe(true);
    expect(balancerOf(pod).holders).toEqual([4]);
    expect(await logOf(pod)).toEqual(['rehome installed npu_gone']);
    expect(await answersOf(pod)).toEqual(await right);
    await expectNothingLeft(pod);
  });

  it('should take the map from a rebalance and from a scale, and refuse a rebalance that is asked for meanwhile; a scale waits', async () => {
    const long = 24;
    const expected = await rightFor(long);
    for (const other of ['rebalance', 'scale'] as const) {
      await using pod = await open({ ...THREE, ...ROOM, scale_max: { experts: 4 }, npu_workers: [0, 0, 1, 2, 3, 3], respawn: false });
      const answers = answersOf(pod, long);
      // When tokens have been routed, which a rebalance is planned on.
      let first: Promise<unknown> | null = null;
      after(pod, 150, () => {
        first = other === 'scale' ? pod.scale({ experts: 4 }).then(String, ({ message }: Error) => message) : pod.rebalance({ force: true });
      });
      const step = pod.control.step.bind(pod.control);
      let lost = 0;
      const meanwhile: Promise<unknown>[] = [];
      pod.control.step = () => {
        const { cast } = pod.control.host;
        const { open: entry } = balancerOf(pod).log;
        if (lost === 0 && entry?.change === other && cast.stateOf('expert-map/0') === 'prefetching')
          lost += Number(pod.control.workers.lose(1, 'the test killed it'));
        if (meanwhile.length === 0 && entry?.change === 'rehome' && cast.stateOf('expert-map/0') === 'prefetching')
          meanwhile.push(
            pod.rebalance({ force: true }),
            pod.scale({ experts: 3 }).then(
              ({ experts }) => `${experts} serve`,
              ({ message }: Error) => message,
            ),
          );
        return step();
      };
      expect(await answers).toEqual(expected);
      expect(lost).toBe(1);
      const log = await logOf(pod);
      expect(log).toContain('rehome installed npu_gone');
      if (other === 'rebalance') expect(await first).toMatchObject([{ outcome: 'rolled_back', cause: 'npu_lost' }]);
      else expect(await first).toContain('a rehoming comes first: npu/2');
      expect(log.join()).toContain(other === 'rebalance' ? 'rebalance rolled_back npu_lost,rehome' : 'scale aborted another_entry,rehome');
      const [rebalanced, scaled] = await Promise.all(meanwhile);
      expect(rebalanced).toMatchObject([{ outcome: 'refused', reason: 'a rehome is under way, and prefetching' }]);
      if (other === 'rebalance') expect(scaled).toBe('3 serve');
      else expect(scaled).toMatch(/another change is under way|are more than the 3 that are left/);
      expect(await answersOf(pod, long)).toEqual(expected);
      await expectNothingLeft(pod);
    }
  });

  it('should be where they were when the successor comes after all, and the group as large as before', async () => {
    await using pod = await open({ ...APART, ...ROOM, rehome_after_ms: 50 });
    const before = [...balancerOf(pod).map.expertOfSlot];
    const restart = pod.control.workers.deafen();
    loseAfter(pod, 1, 60);
    expect(await answersOf(pod)).toEqual(await right);
    expect(pod.control.workers.isLost(1)).toBe(true);
    expect(await logOf(pod)).toEqual(['rehome unchanged npu_lost', 'rehome installed npu_gone']);
    expect(balancerOf(pod).holders).toEqual([3]);
    restart();
    while (pod.control.workers.isLost(1)) await pod.complete([1], { max_tokens: 50, ignore_eos: true });
    expect(await answersOf(pod)).toEqual(await right);
    expect(balancerOf(pod).holders).toEqual([2, 3]);
    expect((await logOf(pod)).at(-1)).toBe('rehome installed npu_back');
    const { expertOfSlot } = balancerOf(pod).map;
    for (const [at, expert] of before.entries()) if (expert >= 0) expect(expertOfSlot[at]).toBe(expert);
    await expectNothingLeft(pod);
  });

  it('should be named as lost where there is no room for them', async () => {
    await using pod = await open({ ...APART, respawn: false, expert_balancing: { redundant_slots: 8, period_ms: 1_000_000 } });
    pod.control.workers.lose(1, 'the test killed it');
    await expect(pod.complete([1, 2, 3], { max_tokens: 3, deadline_ms: 400 })).rejects.toMatchObject({ code: 'experts_lost' });
    // 16 of each of three layers' 32 are its own; four slots a layer are free elsewhere.
    const { lostExperts, log } = balancerOf(pod);
    expect(lostExperts.length).toBeGreaterThan(0);
    expect(log.entries.at(-1)?.reason).toContain(`${lostExperts.length} experts are nowhere, and there is no room for them`);
  });

  it('should be named as lost where slots stay as they are, though some hold nothing: 32 experts on three NPUs', async () => {
    await using pod = await open({ topology: 'moe-attention:domains=1x2,experts=3', workers: 4, npu_workers: [0, 0, 1, 2, 3], respawn: false });
    pod.control.workers.lose(2, 'the test killed it');
    await expect(pod.complete([1, 2, 3], { max_tokens: 3, deadline_ms: 400 })).rejects.toMatchObject({ code: 'experts_lost' });
    expect([0, 1, 2, 3].map((worker) => pod.control.workers.isLost(worker))).toEqual([false, false, true, false]);
    expect(balancerOf(pod).log.entries.at(-1)?.reason).toContain('experts are nowhere, and there is no room for them');
  });
});

it.each(['dataflow', 'domains'] as const)('should be so on threads, too: the lost worker has no successor, and nobody asks for one: %s', async (schedule) => {
  const ask = (pod: Pod) =>
    ['Once upon a time', 'The wolf'].map(async (prompt) => fingerprint(await pod.complete(prompt, { temperature: 0, ignore_eos: true, max_tokens: 40 })));
  const expected = await withPod({ clock: 'virtual' }, (pod) => Promise.all(ask(pod)));
  await using rig = await openRig({ ...APART, ...ROOM, schedule, respawn: false });
  const calls = ask(rig.pod);
  while ((await rig.pod.stats()).generation_tokens < 10) await sleep(1);
  rig.killWorker(1);
  expect(await Promise.all(calls)).toEqual(expected);
  // The calls may have ended before it did.
  const log = async (): Promise<string[] | undefined> =>
    (await rig.pod.stats()).expert_balancing[0]?.log.map(({ change, outcome, cause }) => `${change} ${outcome} ${cause}`);
  await expect.poll(log).toEqual(['rehome installed npu_gone']);
  expect(await Promise.all(ask(rig.pod))).toEqual(expected);
  // The lost one is told of as it is: lost.
  const states = async (): Promise<unknown> => (await rig.pod.stats()).npus.map(({ state, kv_blocks_used }) => [state, kv_blocks_used]);
  await expect.poll(states).toEqual([...Array.from({ length: 2 }, () => ['idle', 0]), ['lost', 0], ['idle', 0]]);
  const { recoveries, unexpected_messages, expert_balancing } = await rig.pod.stats();
  expect(recoveries).toMatchObject([{ worker: 1, cause: 'died', successor: false, start_ms: null }]);
  const { copied } = expert_balancing[0] as (typeof expert_balancing)[number];
  expect(copied.checkpoint.slots).toBeGreaterThan(0);
  expect(copied.checkpoint.bytes % copied.checkpoint.slots).toBe(0);
  expect(unexpected_messages).toEqual([]);
});
