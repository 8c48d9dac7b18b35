/** Each loop that nobody asks for is seen to go on, and found within two of its periods where it dies in silence: by what it does, not by what it says. */
import { expect, it } from 'vitest';
import { ControlLoops } from '../../src/platform/control-loops.ts';
import { createVirtualPod, type VirtualPod } from '../../src/pod/virtual-pod.ts';

const BEAT_LOOKS = 8;

async function looked(pod: VirtualPod, from_ms: number, to_ms: number, between: () => void = () => {}): Promise<string[]> {
  const { plan, space, host } = pod.control;
  const loops = new ControlLoops({ plan, control: space.control, cast: host.cast });
  for (let now_ms = from_ms; now_ms <= to_ms; now_ms += 200) {
    between();
    loops.look(now_ms);
  }
  const { npus } = pod.control.stats();
  return loops
    .report(to_ms, npus)
    .filter(({ is_stalled }) => is_stalled)
    .map(({ loop, owner }) => `${loop} ${owner}`);
}

const executorOf = (pod: VirtualPod): { heartbeats: { isBeating: boolean; beats: number } } =>
  pod.control.host.cast.contextOf('task-executor/0') as { heartbeats: { isBeating: boolean; beats: number } };

it('a pod that serves has none that is stalled', async () => {
  await using pod = await createVirtualPod({ clock: 'virtual', kernels: 'hash', npus: 2, expert_balancing: { period_ms: 50, redundant_slots: 2 } });
  await pod.complete('hello', { max_tokens: 20 });
  const { loops } = await pod.stats();
  expect(loops.map(({ loop, owner }) => `${loop} ${owner}`)).toEqual([
    'rebalance expert-map/0',
    'heartbeat cluster-manager/0',
    'heartbeat task-executor/0',
    'scheduling dp-group/0',
    'scheduling dp-group/1',
  ]);
  expect(loops.filter(({ stalled }) => stalled)).toEqual([]);
});

it('beats that have ceased while there are tasks are found within two periods, and beats that are not due are not missed', async () => {
  await using pod = await createVirtualPod({ clock: 'virtual', kernels: 'hash' });
  await pod.complete('hello', { max_tokens: 4 });
  const { heartbeats } = executorOf(pod);
  const now_ms = pod.control.host.clock.now_ms();
  heartbeats.isBeating = false;
  expect(await looked(pod, now_ms, now_ms + 200 * BEAT_LOOKS)).toEqual([]);
  heartbeats.isBeating = true;
  expect(await looked(pod, now_ms, now_ms + 200 * BEAT_LOOKS, () => heartbeats.beats++)).toEqual([]);
  expect(await looked(pod, now_ms, now_ms + 200 * BEAT_LOOKS)).toEqual(['heartbeat task-executor/0']);
});

it('a thread that was away for long is not taken for one whose loops have died', async () => {
  await using pod = await createVirtualPod({ clock: 'virtual', kernels: 'hash' });
  const { plan, space, host } = pod.control;
  executorOf(pod).heartbeats.isBeating = true;
  const loops = new ControlLoops({ plan, control: space.control, cast: host.cast });
  for (const now_ms of [1_000, 1_200, 9_000]) loops.look(now_ms);
  expect(loops.report(0, []).filter(({ is_stalled }) => is_stalled)).toEqual([]);
});

it('a role switch that stands still is found within two of its deadlines', async () => {
  await using pod = await createVirtualPod({
    ...{ clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=1x2,experts=2', workers: 4, respawn: false },
  });
  pod.control.workers.lose(pod.control.directory.workerOfNpu(2), 'the test killed it');
  expect((await pod.stats()).loops).toContainEqual(expect.objectContaining({ loop: 'role_switch', owner: 'role-switch/0', state: 'watching', stalled: false }));
  while (pod.control.host.cast.stateOf('role-switch/0') !== 'switching') expect(pod.control.step()).toBe(true);
  const now_ms = pod.control.host.clock.now_ms();
  expect(await looked(pod, now_ms, now_ms + 59_000)).not.toContain('role_switch role-switch/0');
  expect(await looked(pod, now_ms, now_ms + 61_000)).toContain('role_switch role-switch/0');
});

it('a lease that nobody renews, and a balancer that stands still, are found by the pod’s clock', async () => {
  await using pod = await createVirtualPod({ clock: 'virtual', kernels: 'hash', npus: 2, expert_balancing: { period_ms: 50, redundant_slots: 2 } });
  await pod.complete('hello', { max_tokens: 4 });
  const now_ms = pod.control.host.clock.now_ms();
  executorOf(pod).heartbeats.isBeating = false;
  expect(await looked(pod, now_ms, now_ms)).toEqual([]);
  // A thread may have to wait for a processor longer than for such a period.
  expect(await looked(pod, now_ms, now_ms + 800)).toEqual([]);
  expect(await looked(pod, now_ms, now_ms + 1_100)).toEqual(['rebalance expert-map/0']);
  expect(await looked(pod, now_ms, now_ms + 7_000)).toEqual(['rebalance expert-map/0', 'heartbeat cluster-manager/0']);
});

it('a balancer that waits for NPUs has the time that it gives them, however short its period', async () => {
  await using pod = await createVirtualPod({ clock: 'virtual', kernels: 'hash', npus: 2, expert_balancing: { period_ms: 50, redundant_slots: 2 } });
  const { host } = pod.control;
  const asked = pod.rebalance();
  while (host.cast.stateOf('expert-map/0') !== 'collecting') expect(pod.control.step()).toBe(true);
  const now_ms = host.clock.now_ms();
  expect(await looked(pod, now_ms, now_ms + 19_000)).not.toContain('rebalance expert-map/0');
  expect(await looked(pod, now_ms, now_ms + 21_000)).toContain('rebalance expert-map/0');
  await asked;
});
