/** Workers are lost, most for good, before a change of shape, in its midst and after it: each change ends in virtual seconds, with what is left, or says why not; nobody is kept waiting, no token changes. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import type { TaskPlacement } from '../../actors/policies/placement.ts';
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { runs } from '../property-runs.ts';
import { expectNothingLeft } from './pods.ts';

/** The deadline of a change, and a way back on which nobody is waited for who is lost for good. A broadcast whose source is lost comes to nothing after 20 s. */
const ENDS_S_MAX = 40;
const GROUPS = 4;
const EXPERTS = { fewest: 2, most: 4 };
/** Each NPU on its worker, but for the last two of either kind. */
const SEATS: PodOptions = { workers: 6, npu_workers: [0, 1, 2, 2, 3, 4, 5, 5] };

const CALLS: readonly [number[], GenerateOptions][] = Array.from({ length: 4 }, (_, index) => [
  Array.from({ length: 4 + 9 * index }, (_, at) => 3 + ((index * 7_919 + at * 104_729) % 1_900)),
  { max_tokens: 30, seed: index, ignore_eos: true, temperature: index % 2 },
]);

const answersOf = (pod: Pod): Promise<unknown[]> => Promise.all(CALLS.map(async (call) => (await pod.complete(...call)).choices[0]?.token_ids));

const open = async (options: PodOptions): Promise<VirtualPod> =>
  (await createPod({
    ...{ clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=1x2,experts=2', respawn: false, ...SEATS },
    ...{ scale_max: { attention: GROUPS, experts: EXPERTS.most }, ...options },
  })) as VirtualPod;

/** Each is lost when so much has happened. */
function loseAt({ control }: VirtualPod, losses: readonly { readonly at: number; readonly worker: number }[]): void {
  const step = control.step.bind(control);
  let steps = 0;
  control.step = () => {
    for (const { at, worker } of losses) if (at === steps) control.workers.lose(worker, 'killed');
    steps++;
    return step();
  };
}

/** As those know it who serve; null: nobody does. */
function shapeOf({ control: { host } }: VirtualPod): { readonly attention: number; readonly experts: number } | null {
  const { placement } = host.cast.contextOf('task-executor/0') as { placement: TaskPlacement };
  const { balancer } = host.cast.contextOf('expert-map/0') as { balancer: ExpertBalancer };
  return placement.expertsLost === null ? { attention: placement.serving.length, experts: balancer.holders.length } : null;
}

it('who is lost for good should count no more, and others come in its place', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  const right = await answersOf(one);
  await using pod = await open({});
  const { workers } = pod.control;
  workers.lose(0, 'killed');
  expect(await answersOf(pod)).toEqual(right);
  expect((await pod.stats()).scaling).toMatchObject({ state: 'stable', attention: { serving: 1, reserved: GROUPS } });
  await expect(pod.scale({ attention: 4 })).rejects.toMatchObject({
    ...{ code: 'invalid_request', param: 'attention' },
    message: expect.stringContaining('4 DP groups are more than the 3 that are left of 4: DP group 0 is lost'),
  });
  expect(await pod.scale({ attention: 2 })).toMatchObject({ attention: 2, was: { attention: 1 } });
  expect(await answersOf(pod)).toEqual(right);
  // The second one serves from the first on, the third in place of the first; with the fourth it is on one worker.
  workers.lose(1, 'killed');
  expect(await answersOf(pod)).toEqual(right);
  expect(await pod.scale({ attention: 2 })).toMatchObject({ attention: 2, was: { attention: 1 } });
  expect(await answersOf(pod)).toEqual(right);
  workers.lose(3, 'killed');
  expect(await answersOf(pod)).toEqual(right);
  await expect(pod.scale({ experts: 4 })).rejects.toMatchObject({
    ...{ code: 'invalid_request', param: 'experts' },
    message: expect.stringContaining('4 expert NPUs are more than the 3 that are left of 4: expert NPU 4 is lost'),
  });
  for (const experts of [2, 3]) expect(await pod.scale({ experts })).toMatchObject({ attention: 2, experts });
  expect(await answersOf(pod)).toEqual(right);
  workers.lose(2, 'killed');
  for (const _ of ['under way', 'new']) await expect(answersOf(pod)).rejects.toMatchObject({ message: expect.stringContaining('no DP group is left') });
  await expect(pod.scale({ attention: 1 })).rejects.toMatchObject({ code: 'invalid_request' });
  await expectNothingLeft(pod);
});

it('a change that is asked for during a rehoming waits for it, no longer than its own deadline', async () => {
  for (const [deadline_ms, ends] of [
    [20_000, { attention: 1, was: { attention: 2 } }],
    [1, { code: 'deadline_exceeded', message: expect.stringContaining('the expert map was waited for (claiming)') }],
  ] as const) {
    await using pod = await open({});
    const { control } = pod;
    let end: unknown = null;
    const step = control.step.bind(control);
    control.step = () => {
      if (end === null && control.host.cast.stateOf('expert-map/0') === 'prefetching')
        end = pod.scale({ attention: 1, deadline_ms }).catch(({ code, message }: { code: string; message: string }) => ({ code, message }));
      return step();
    };
    control.workers.lose(control.directory.workerOfNpu(4), 'killed');
    await answersOf(pod);
    expect(await end).toMatchObject(ends);
    await expectNothingLeft(pod);
  }
});

const wish = fc.record({
  attention: fc.option(fc.integer({ min: 1, max: GROUPS }), { nil: undefined }),
  experts: fc.option(fc.integer({ min: EXPERTS.fewest, max: EXPERTS.most }), { nil: undefined }),
});

it('every change should end, with what is left or an error, whichever workers are lost whenever', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  const right = await answersOf(one);
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        seed: fc.nat(1e6),
        respawn: fc.constantFrom(false, false, true),
        expert_balancing: fc.option(
          fc.record({ redundant_slots: fc.constantFrom(3, 32), policy: fc.constantFrom('global', 'native'), period_ms: fc.constant(1e6) }),
          {
            nil: undefined,
          },
        ),
      }),
      fc.array(fc.record({ at: fc.nat(900), worker: fc.nat(5) }), { minLength: 1, maxLength: 3 }),
      fc.array(wish, { minLength: 1, maxLength: 4 }),
      async (options, losses, wishes) => {
        await using pod = await open(options as PodOptions);
        loseAt(pod, losses);
        const answers = Promise.all(
          CALLS.map((call) =>
            pod.complete(...call).then(
              ({ choices }) => choices[0]?.token_ids,
              ({ code }: { code: string }) => code,
            ),
          ),
        );
        for (const wanted of wishes) {
          const began = (await pod.stats()).uptime_seconds;
          const end = await pod.scale(wanted).catch(({ code, message }: { code: string; message: string }) => `${code} ${message}`);
          const { scaling, uptime_seconds } = await pod.stats();
          expect(uptime_seconds - began).toBeLessThan(ENDS_S_MAX);
          expect(scaling?.state).toBe('stable');
          if (typeof end === 'string') expect(end).toMatch(/^(invalid_request|overloaded|worker_failed|deadline_exceeded) ./);
          else expect(end).toMatchObject(JSON.parse(JSON.stringify(wanted)));
        }
        for (const [index, answer] of (await answers).entries())
          if (typeof answer === 'string') expect(['experts_lost', 'groups_lost', 'worker_failed']).toContain(answer);
          else expect(answer).toEqual(right[index]);
        await pod.complete([1, 86], { max_tokens: 40, ignore_eos: true }).catch(() => {});
        const { scaling } = await pod.stats();
        // Who has a successor counts, though it is not there yet.
        const shape = options.respawn ? null : shapeOf(pod);
        if (shape !== null) expect({ attention: scaling?.attention.serving, experts: scaling?.experts?.serving }).toEqual(shape);
        await expectNothingLeft(pod);
      },
    ),
    { numRuns: runs(6) },
  );
});
