/** Experts that are nowhere, for which there is no room and no successor: an attention NPU takes the lost expert NPU's role; no request fails, and no token is another. */
import { describe, expect, it } from 'vitest';
import type { TaskPlacement } from '../../actors/policies/placement.ts';
import { createApp } from '../../src/api/index.ts';
import type { Pod, PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { MAP_CHANGES } from '../../src/protocol/map-log.ts';
import { SeededRandom } from '../../src/runtime/seeded-random.ts';
import { runs } from '../property-runs.ts';
import { answersOf, after as atEvent, balancerOf, open, right, rightFor } from './lost-npus.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

/** Each NPU on a worker of its own; nothing redundant. */
const apart = (attention: number, experts: number, largest = attention): PodOptions => ({
  topology: `moe-attention:domains=1x${attention},experts=${experts}`,
  workers: largest + experts,
  respawn: false,
  ...(largest > attention && { scale_max: { attention: largest } }),
});
const lose = ({ control }: VirtualPod, npu: number): boolean => control.workers.lose(control.directory.workerOfNpu(npu), 'the test killed it');
const stateOf = ({ control }: VirtualPod): string | null => control.host.cast.stateOf('role-switch/0');
/** When its actor is in that state for the first time. */
function when(pod: VirtualPod, state: string, act: () => void): void {
  const step = pod.control.step.bind(pod.control);
  let isDone = false;
  pod.control.step = () => {
    if (!isDone && stateOf(pod) === state) {
      isDone = true;
      act();
    }
    return step();
  };
}
const logOf = async (pod: Pod): Promise<string[]> =>
  ((await pod.stats()).expert_balancing[0]?.log ?? []).map(({ change, outcome, cause }) => `${change} ${outcome} ${cause}`);
const SWITCHED = ['rehome unchanged npu_gone', 'role_switch installed npu_gone', 'rehome unchanged npu_back'];

describe('an attention NPU that takes the role of a lost expert NPU', () => {
  it('should be the last one, in an entry of the map’s log; nobody hears of lost experts meanwhile', async () => {
    await using pod = await open(apart(3, 2));
    const { placement } = pod.control.host.cast.contextOf('task-executor/0') as { placement: TaskPlacement };
    const step = pod.control.step.bind(pod.control);
    const told = new Set<unknown>();
    pod.control.step = () => {
      told.add(placement.expertsLost?.message);
      told.add(pod.control.stats().expert_balancing[0]?.lost.experts.length);
      return step();
    };
    let openly: unknown = null;
    when(pod, 'switching', () => (openly = balancerOf(pod).log.open?.reason));
    atEvent(pod, 60, () => lose(pod, 3));
    expect(await answersOf(pod)).toEqual(await right);
    expect([...told]).toEqual([undefined, 0]);
    expect(openly).toBe('experts of npu/3 are nowhere else, and an attention NPU takes the place');
    expect(await logOf(pod)).toEqual(SWITCHED);
    expect(balancerOf(pod).log.entries[1]).toMatchObject({
      writer: 'role-switch/0',
      reason: expect.stringMatching(
        /^npu\/3 took the place of npu\/2 \(DP group 2\) in \d+ ms, since experts were nowhere else; of 3 DP groups 2 are left to serve; 64 experts came from the checkpoint with it$/,
      ),
    });
    expect((await pod.stats()).npus.map(({ state, gone }) => `${state} ${gone}`)).toEqual([
      ...['idle false', 'idle false', 'lost true', 'idle false', 'idle false'],
    ]);
    expect(await answersOf(pod)).toEqual(await right);
    await expectNothingLeft(pod);
  });

  it('should leave a DP group that is told to be gone, for good', async () => {
    await using pod = await open(apart(3, 2));
    const app = createApp(pod);
    const engines = async (): Promise<string[]> =>
      [...(await (await app.request('/metrics')).text()).matchAll(/^minipod:dp_group_info\{engine="(\d)"/gm)].map(([, engine]) => engine as string);
    expect(await engines()).toEqual(['0', '1', '2']);
    atEvent(pod, 60, () => lose(pod, 3));
    expect(await answersOf(pod)).toEqual(await right);
    expect((await pod.stats()).dp_groups.map(({ gone }) => gone)).toEqual([false, false, true]);
    expect(await engines()).toEqual(['0', '1']);
    const refused = await app.request('/kv_events?engine=2');
    expect([refused.status, await refused.json()]).toEqual([
      410,
      {
        error: { code: 'groups_lost', message: 'DP group 2 is gone: its worker is lost, and has no successor', param: 'engine', type: 'invalid_request_error' },
      },
    ]);
  });

  it.each(Array.from({ length: runs(8) }, (_, seed) => seed))('should cost nobody a token, whenever and however many are lost: seed %i', async (seed) => {
    const random = new SeededRandom(seed, 7);
    const draw = (below: number): number => random.below(below);
    const [attention, experts, tokens] = [2 + draw(3), 1 + draw(3), 6 + draw(20)];
    const options: PodOptions = {
      ...apart(attention, experts, attention + draw(2)),
      seed,
      ...(draw(3) === 0 && { micro_batches: 2, max_batch_tokens: 64 }),
      ...(draw(3) === 0 && { async_scheduling: false }),
      ...(draw(3) === 0 && experts > 1 && { expert_balancing: { redundant_slots: 4, period_ms: 1_000_000 } }),
    };
    const expected = await rightFor(tokens);
    await using pod = await open(options);
    const first = pod.control.plan.hosting.deployment.executors[0]?.experts.first as number;
    // One attention NPU is left at least, and may be spared no more.
    const losses = Math.min(attention - 1, experts, 1 + draw(2));
    for (let nth = 0; nth < losses; nth++) atEvent(pod, 20 + draw(400), () => lose(pod, first + nth));
    expect(await answersOf(pod, tokens)).toEqual(expected);
    expect(await answersOf(pod, tokens)).toEqual(expected);
    const left = pod.control.plan.hosting.workers - (await logOf(pod)).filter((entry) => entry.startsWith('role_switch installed')).length;
    expect((await pod.stats()).npus.filter(({ state }) => state !== 'lost').length).toBeGreaterThanOrEqual(left - losses);
    expect((await pod.stats()).experts_lost).toEqual([]);
    await expectNothingLeft(pod);
  });

  it.each<[string, string, number, string[]]>([
    ['the NPU that gives way', 'vacating', 2, SWITCHED],
    ['the NPU that gives way, when it is about to end', 'switching', 2, SWITCHED],
    ['another attention NPU', 'vacating', 1, SWITCHED],
    ['another expert NPU, when it is told of', 'settling', 4, ['rehome unchanged npu_gone', 'role_switch installed npu_gone']],
    ['another expert NPU', 'switching', 4, ['rehome unchanged npu_gone', 'role_switch aborted another_entry', 'rehome unchanged npu_gone']],
  ])('should go on where meanwhile is lost: %s', async (_, state, npu, log) => {
    await using pod = await open(apart(npu === 4 ? 4 : 3, npu === 4 ? 3 : 2));
    const first = npu === 4 ? 4 : 3;
    when(pod, state, () => lose(pod, npu === 4 ? 5 : npu));
    atEvent(pod, 60, () => lose(pod, first));
    expect(await answersOf(pod)).toEqual(await right);
    expect(await answersOf(pod)).toEqual(await right);
    const entries = await logOf(pod);
    expect(entries.slice(0, log.length)).toEqual(log);
    expect(entries.filter((entry) => entry === 'role_switch installed npu_gone').length).toBe(npu === 4 ? 2 : 1);
    await expectNothingLeft(pod);
  });

  it('should be the one that stands by, if any does; what is asked for meanwhile is refused, and what there is no more afterwards', async () => {
    await using pod = await open({ ...apart(2, 2, 3), expert_balancing: { redundant_slots: 4, period_ms: 1_000_000 } });
    const refused: unknown[] = [];
    when(pod, 'switching', () => {
      pod.scale({ attention: 1 }).catch(({ code }: { code: string }) => refused.push(code));
      pod.rebalance({ force: true }).then(([report]) => refused.push(report?.reason));
    });
    atEvent(pod, 60, () => lose(pod, 3));
    expect(await answersOf(pod)).toEqual(await right);
    expect(refused).toEqual(['a role_switch is under way, and held', 'overloaded']);
    expect((await pod.stats()).scaling?.attention).toEqual({ serving: 2, reserved: 3 });
    await expect(pod.scale({ attention: 3 })).rejects.toThrow(
      '3 DP groups are more than the 2 that are left of 3: DP group 2 is lost, and nobody takes the place',
    );
    await pod.scale({ attention: 1 });
    await pod.scale({ attention: 2 });
    await pod.rebalance({ force: true });
    expect(await answersOf(pod)).toEqual(await right);
    // Whatever changes where experts lie is an entry of that log: each kind has its writer.
    expect(new Set(balancerOf(pod).log.entries.map(({ change }) => change))).toEqual(new Set(MAP_CHANGES));
    await expectNothingLeft(pod);
  });

  it('should take the map and the groups from a scale that is under way, which comes to nothing', async () => {
    await using pod = await open(apart(3, 2, 4));
    let scaled: unknown = null;
    atEvent(pod, 80, () => {
      pod.scale({ attention: 1 }).then(
        (report) => (scaled = report),
        ({ message }: Error) => (scaled = message),
      );
      const before = pod.control.step.bind(pod.control);
      let isLost = false;
      pod.control.step = () => {
        if (!isLost && pod.control.host.cast.stateOf('scaling/0') === 'changing') isLost = lose(pod, 4);
        return before();
      };
    });
    expect(await answersOf(pod)).toEqual(await right);
    expect(scaled).toMatch(/from 3 DP groups to 1 DP group gave way to a role switch: experts are nowhere; 3 DP groups serve, as before/);
    expect(await logOf(pod)).toEqual(['scale aborted another_entry', ...SWITCHED]);
    expect((await pod.stats()).scaling?.attention).toEqual({ serving: 3, reserved: 4 });
    expect(await answersOf(pod)).toEqual(await right);
    await expectNothingLeft(pod);
  });
});

describe('whose weights cannot be read for now', () => {
  const disksAway = async (degraded: boolean): Promise<{ pod: VirtualPod; restore: () => void }> => {
    const pod = await open({ ...apart(3, 2), degraded });
    const restore = pod.control.workers.withhold(pod.control.directory.workerOfNpu(3), 'its disk is away');
    return { pod, restore };
  };
  const expectBack = async (pod: VirtualPod): Promise<void> => {
    for (let stats = await pod.stats(); stats.experts_lost.length + stats.experts_masked.length > 0; stats = await pod.stats())
      expect(pod.control.step()).toBe(true);
    // Job executors hear of it a little later.
    for (let tries = 0; !(await pod.complete([1], { max_tokens: 1 }).then(Boolean, () => false)); tries++) expect(tries).toBeLessThan(100);
    expect(await answersOf(pod)).toEqual(await right);
    await expectNothingLeft(pod);
  };

  it('should have requests hear of it at once, and be back when they can', async () => {
    const { pod, restore } = await disksAway(false);
    await using _ = pod;
    const during = answersOf(pod).catch(({ code }: { code: string }) => code);
    atEvent(pod, 60, () => lose(pod, 3));
    expect(await during).toBe('experts_lost');
    expect(stateOf(pod)).toBe('watching');
    const [, entry] = balancerOf(pod).log.entries;
    expect(entry).toMatchObject({
      ...{ change: 'role_switch', outcome: 'rolled_back', cause: 'writer' },
      reason: expect.stringMatching(/^npu\/3 was to take the place of npu\/2 \(DP group 2\): .*its disk is away/),
    });
    restore();
    await expectBack(pod);
    expect(await logOf(pod)).toEqual(expect.arrayContaining(['rehome unchanged npu_back', 'role_switch installed npu_gone']));
  });

  it('should keep nobody waiting who does without experts, and another expert NPU neither (degraded)', async () => {
    const { pod, restore } = await disksAway(true);
    await using _ = pod;
    atEvent(pod, 60, () => {
      lose(pod, 4);
      lose(pod, 3);
    });
    const answers = await Promise.all([0, 1, 2].map((seed) => pod.complete([1, 2, 3], { max_tokens: 30, seed, ignore_eos: true })));
    expect(answers.map(({ degraded }) => degraded)).toEqual([true, true, true]);
    expect((await pod.stats()).experts_masked).toEqual([{ task_executor: 0, npus: [3] }]);
    restore();
    await expectBack(pod);
    expect((await logOf(pod)).filter((entry) => entry === 'role_switch installed npu_gone').length).toBe(2);
    expect((await pod.stats()).scaling).toBe(null);
  });

  it('should keep the number of groups for nobody: it may change meanwhile', async () => {
    await using pod = await open(apart(3, 2, 4));
    const restore = pod.control.workers.withhold(pod.control.directory.workerOfNpu(4), 'its disk is away');
    lose(pod, 4);
    while (balancerOf(pod).log.entries.at(-1)?.outcome !== 'rolled_back') expect(pod.control.step()).toBe(true);
    // It was the one that stood by that gave way.
    expect((await pod.stats()).scaling?.attention).toEqual({ serving: 3, reserved: 4 });
    await pod.scale({ attention: 2 });
    restore();
    await expectBack(pod);
    await pod.scale({ attention: 3 });
    await expectBack(pod);
  });
});

describe('where no attention NPU takes the role', () => {
  it.each<[string, PodOptions, number]>([
    ['since there is one alone', apart(1, 2), 1],
    ['since it is not to', { ...apart(3, 2), role_switch: 'never' }, 3],
    ['since its worker has expert NPUs too', { ...apart(2, 2), workers: 2 }, 2],
  ])('should have experts be lost at once: %s', async (_, options, npu) => {
    await using pod = await open(options);
    lose(pod, npu);
    await expect(pod.complete([1, 2, 3], { max_tokens: 3, deadline_ms: 400 })).rejects.toMatchObject({
      code: 'experts_lost',
      message: expect.stringMatching(/elsewhere; nobody takes the place, and sending the request again does not help$/),
    });
  });

  it('should have them be lost when the last one that can be spared has gone', async () => {
    await using pod = await open(apart(2, 2));
    atEvent(pod, 60, () => lose(pod, 2));
    expect(await answersOf(pod)).toEqual(await right);
    lose(pod, 3);
    await expect(pod.complete([1, 2, 3], { max_tokens: 3, deadline_ms: 400 })).rejects.toMatchObject({ code: 'experts_lost' });
    expect((await pod.stats()).experts_lost).toMatchObject([{ task_executor: 0, reason: expect.stringContaining('no copy is left') }]);
    await expectNothingLeft(pod);
  });
});

it.each([true, false])(
  'behind whom requests do not wait (background), they are served without the lost experts, or fail, until it is done: degraded %s',
  async (degraded) => {
    await using pod = await open({ ...apart(3, 2), role_switch: 'background', degraded });
    lose(pod, 3);
    const during = pod.complete([1, 2, 3], { max_tokens: 3, deadline_ms: 4_000 });
    if (degraded) expect(await during).toMatchObject({ degraded: true });
    else
      await expect(during).rejects.toMatchObject({
        code: 'experts_lost',
        message: expect.stringMatching(/elsewhere; an attention NPU takes the place, and the request may be sent again then$/),
      });
    while (stateOf(pod) !== 'watching' || (await pod.stats()).experts_lost.length > 0) expect(pod.control.step()).toBe(true);
    // Job executors hear of it a little later.
    for (let tries = 0; !(await pod.complete([1], { max_tokens: 1 }).then(Boolean, () => false)); tries++) expect(tries).toBeLessThan(100);
    expect(await answersOf(pod)).toEqual(await right);
    expect(await logOf(pod)).toEqual(SWITCHED);
    await expectNothingLeft(pod);
  },
);

it('should be so on threads, too: in the place of the one that gives way, with weights from the checkpoint', async () => {
  const ask = (pod: Pod) =>
    ['Once upon a time', 'The wolf'].map(async (prompt) => fingerprint(await pod.complete(prompt, { temperature: 0, ignore_eos: true, max_tokens: 40 })));
  const expected = await withPod({}, (pod) => Promise.all(ask(pod)));
  await using rig = await openRig(apart(2, 2));
  const calls = ask(rig.pod);
  while ((await rig.pod.stats()).generation_tokens < 10) await sleep(1);
  rig.killWorker(rig.control.directory.workerOfNpu(2));
  expect(await Promise.all(calls)).toEqual(expected);
  await expect.poll(() => logOf(rig.pod), { timeout: 20_000 }).toEqual(SWITCHED);
  expect(await Promise.all(ask(rig.pod))).toEqual(expected);
  const { npus, unexpected_messages } = await rig.pod.stats();
  expect(npus.map(({ npu, state, die }) => [npu, state, die])).toEqual([
    [0, 'idle', 0],
    [1, 'lost', 2],
    [2, 'idle', 1],
    [3, 'idle', 3],
  ]);
  expect(unexpected_messages).toEqual([]);
});
