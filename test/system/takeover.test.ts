/** No single controller: job executors and the leading cluster manager may die at any moment, and no caller notices. */
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { Admission } from '../../src/fabric/admission.ts';
import { LeaderLease } from '../../src/fabric/leader-lease.ts';
import { type Completion, createPod, type GenerateOptions, type InspectionEvent, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { runs } from '../property-runs.ts';
import { expectNothingLeft, fingerprint, sleep } from './pods.ts';
import { openRig } from './rig.ts';

const CALLS: readonly { readonly prompt: readonly number[]; readonly options: GenerateOptions }[] = Array.from({ length: 9 }, (_, index) => ({
  prompt: Array.from({ length: 3 + index * 7 }, (_, at) => 5 + ((index * 31 + at * 17) % 900)),
  options: { max_tokens: 5 + index * 4, n: 1 + (index % 3), seed: index, ignore_eos: true },
}));
const RUNS = runs(10);
const SHAPE: PodOptions = { clock: 'virtual', kernels: 'hash', npus: 3, workers: 3 };

const generateAll = (pod: Pod): Promise<Completion[]> => Promise.all(CALLS.map(({ prompt, options }) => pod.complete(prompt, options)));
const openVirtual = async (options: PodOptions): Promise<VirtualPod> => (await createPod({ ...SHAPE, ...options })) as VirtualPod;

let pods: Promise<string[][]> | null = null;
const undisturbed = (): Promise<string[][]> => {
  pods ??= openVirtual({}).then(async (pod) => (await generateAll(pod)).map(fingerprint));
  return pods;
};
afterAll(() => {
  pods = null;
});

/** Callers hear of their end before the last messages about it have arrived. */
async function expectNothingHeld({ control }: VirtualPod): Promise<void> {
  for (let waited = 0; waited < 2_000 && control.choicesHeld > 0; waited++) await sleep(1);
  expect(control.choicesHeld).toBe(0);
}

/** Lets a worker's controllers die after so many events. */
function loseAt(pod: VirtualPod, deaths: readonly { readonly worker: number; readonly event: number }[]): void {
  const { control } = pod;
  const step = control.step.bind(control);
  let count = 0;
  control.step = () => {
    count++;
    for (const { worker, event } of deaths) if (event === count) control.workers.loseControllers(worker);
    return step();
  };
}

describe('job executors that die', () => {
  it('at any moments of a virtual run: the tokens are those of the undisturbed one, and nothing is left', async () => {
    const right = await undisturbed();
    const deaths = fc.array(fc.record({ worker: fc.nat(2), event: fc.integer({ min: 1, max: 2_000 }) }), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(deaths, fc.integer({ min: 2, max: 4 }), fc.nat(1_000), async (all, job_executors, seed) => {
        await using pod = await openVirtual({ seed, job_executors });
        loseAt(pod, all);
        expect((await generateAll(pod)).map(fingerprint)).toEqual(right);
        // A second round, in case something was left behind.
        expect((await generateAll(pod)).map(fingerprint)).toEqual(right);
        await expectNothingLeft(pod);
        await expectNothingHeld(pod);
        expect(pod.control.frontend.recordsUsed).toEqual({ calls: 0, records: 0, pages: 0 });
      }),
      { numRuns: RUNS },
    );
  });

  it('while their callers go away and stop strings are found: each ends once', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1_500 }), fc.nat(1_000), async (event, seed) => {
        await using pod = await openVirtual({ seed, job_executors: 3 });
        loseAt(pod, [
          { worker: 0, event },
          { worker: 1, event: event + 40 },
        ]);
        const ends = CALLS.map(async ({ prompt, options }, index) => {
          const abort = new AbortController();
          const whole = pod.generate(prompt, { ...options, signal: abort.signal });
          let read = 0;
          try {
            for await (const _ of whole) if (++read === 4 && index % 2 === 0) abort.abort();
          } catch (error) {
            return (error as { code: string }).code;
          }
          return 'finished';
        });
        expect(await Promise.all(ends)).toEqual(CALLS.map((_, index) => (index % 2 === 0 ? 'cancelled' : 'finished')));
        await expectNothingLeft(pod);
        await expectNothingHeld(pod);
      }),
      { numRuns: RUNS },
    );
  });
});

describe('the cluster manager that leads', () => {
  it('may die: the other one leads, and has requests taken over that were lost with it', async () => {
    await using rig = await openRig({ npus: 4, workers: 2, job_executors: 3 });
    const lease = new LeaderLease(rig.space.control);
    expect(lease.holding).toMatchObject({ holder: 0, term: 1 });
    const ask = (): Promise<Completion[]> =>
      Promise.all(
        ['Once upon a time', 'The wolf', 'In the forest', 'The king'].map((prompt) =>
          rig.pod.complete(prompt, { temperature: 0, ignore_eos: true, max_tokens: 60 }),
        ),
      );
    const right = (await ask()).map(fingerprint);
    // As if the first had hung for longer than its lease: the second, which lives on worker 1, has it now.
    lease.take(1, 1, 1e9, 2_000_000_000, () => true);
    while (rig.control.managerState !== 'standby') await sleep(20);
    const { generation_tokens } = await rig.pod.stats();
    const calls = ask();
    while ((await rig.pod.stats()).generation_tokens < generation_tokens + 12) await sleep(1);
    rig.killWorker(1);
    expect((await calls).map(fingerprint)).toEqual(right);
    expect(lease.holding).toMatchObject({ holder: 0, term: 3 });
    expect(rig.control.managerState).toBe('leading');
    await expectNothingLeft(rig.pod);
    expect(new Admission(rig.space.control).held).toBe(0);
  });
});

/** However many requests there are. */
const BY_TIME = new Set(['MEASURE_THROUGHPUT', 'PING', 'PONG', 'BEAT_DUE', 'PROGRESS']);

it('task executors and job executors hear of a request a few times, however many tokens it has', async () => {
  const heardOf = async (max_tokens: number): Promise<Record<string, number>> => {
    const heard: Record<string, number> = {};
    const inspect = (event: InspectionEvent): void => {
      const role = (event as { sessionId?: string }).sessionId?.split('/')[0] ?? '';
      const isOfRequests = event.type === '@xstate.event' && !BY_TIME.has(event.event.type);
      if (isOfRequests && ['task-executor', 'job-executor'].includes(role)) heard[role] = (heard[role] ?? 0) + 1;
    };
    await using pod = await openVirtual({ job_executors: 2, inspect });
    await sleep(5);
    for (const role of Object.keys(heard)) heard[role] = 0;
    await Promise.all(Array.from({ length: 5 }, (_, seed) => pod.complete([7, 8, 9], { max_tokens, seed, ignore_eos: true })));
    await expectNothingHeld(pod);
    return heard;
  };
  const few = await heardOf(2);
  expect(await heardOf(120)).toEqual(few);
  // PLACE and RELEASE; ADMIT, CHOICES_GRANTED and LEAVE.
  expect(few).toEqual({ 'task-executor': 10, 'job-executor': 15 });
});
