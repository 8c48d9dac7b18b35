/** Workers die in turn, each when the one before has a successor: no request fails of it, whoever dies, and the tokens stay the same. */
import { describe, expect, it } from 'vitest';
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { cases } from '../property-runs.ts';
import { expectNothingLeft } from './pods.ts';

const MTP = { method: 'mtp', num_speculative_tokens: 2 } as const;
const CALLS = 8;
const DEATHS = 6;
/** Its successor is there 30 ms later. */
const PAUSE_NS = 35_000_000;
/** Steps take so long that calls live through all of it. */
const SLOWNESS = 30;

/** What becomes of calls that are asked all at once: their tokens, or why they failed. */
const endsOf = (pod: Pod, options: GenerateOptions): Promise<unknown[]> =>
  Promise.all(
    Array.from({ length: CALLS }, async (_, index) => {
      try {
        const { choices } = await pod.complete([1, 86, 1461, 531 + index], { ...options, seed: index, temperature: index % 2, ignore_eos: true });
        return choices[0]?.token_ids;
      } catch (error) {
        return String(error);
      }
    }),
  );

describe('in virtual time', () => {
  it.each(
    cases<PodOptions>(
      (['dataflow', 'domains'] as const).flatMap((schedule): PodOptions[] => [
        { schedule, topology: 'moe-attention:domains=1x2,experts=2', workers: 4, hash_foreseeable: 0.7, speculative_config: MTP },
        { schedule, topology: 'moe-attention:domains=1x2,experts=2', workers: 2, npu_workers: [0, 1, 0, 1] },
        { schedule, topology: 'pd:prefill=1,decode=1xdomains2x2experts2', workers: 7 },
      ]),
    ),
  )('%o', async ({ hash_foreseeable, ...options }) => {
    const long = { max_tokens: 300 };
    const model = { clock: 'virtual', kernels: 'hash', ...(hash_foreseeable !== undefined && { hash_foreseeable }) } as const;
    await using one = await createPod(model);
    const right = await endsOf(one, long);
    await using pod = (await createPod({ ...model, ...options })) as VirtualPod;
    const { host, workers } = pod.control;
    host.disturbance = { meet: () => {}, transmit: () => null, timer_ms: (_, ms) => ms, step_ns: (_, ns) => SLOWNESS * ns };
    let deaths = 0;
    const kill = (): void => {
      if (workers.lose(deaths % (options.workers as number), 'killed')) deaths++;
      if (deaths < DEATHS) host.later(PAUSE_NS, kill);
    };
    host.later(5_000_000, kill);
    expect(await endsOf(pod, long)).toEqual(right);
    expect(deaths).toBe(DEATHS);
    await expectNothingLeft(pod);
  });
});

it('tokens that experts were asked for are counted once, whoever dies while they are', async () => {
  const tokensIn = async (deaths: number): Promise<number[]> => {
    const options: PodOptions = { schedule: 'domains', topology: 'moe-attention:domains=1x2,experts=2', workers: 2, npu_workers: [0, 0, 1, 1] };
    await using pod = (await createPod({ clock: 'virtual', kernels: 'hash', ...options })) as VirtualPod;
    const { host, workers } = pod.control;
    for (let death = 0; death < deaths; death++) host.later(5_300_000 + death * PAUSE_NS, () => expect(workers.lose(1, 'killed')).toBe(true));
    await endsOf(pod, { max_tokens: 200 });
    return (await pod.experts()).task_executors.flatMap(({ layers }) => layers.map(({ tokens }) => tokens));
  };
  expect(await tokensIn(3)).toEqual(await tokensIn(0));
});

it.each(['dataflow', 'domains'] as const)('an expert NPU that dies of what it is asked, each time, ends who asks and not the pod: %s', async (schedule) => {
  const options: PodOptions = { schedule, topology: 'moe-attention:domains=1x2,experts=2', workers: 2, npu_workers: [0, 0, 1, 1] };
  await using pod = (await createPod({ clock: 'virtual', kernels: 'hash', ...options })) as VirtualPod;
  const right = await endsOf(pod, { max_tokens: 20 });
  const { host, workers, npus } = pod.control;
  // It answers nothing before it is lost.
  const heal = npus.hang([2]);
  let deaths = 0;
  const kill = (): void => {
    if (workers.lose(1, 'killed')) deaths++;
    if (deaths < 5) host.later(PAUSE_NS, kill);
    else heal();
  };
  host.later(5_000_000, kill);
  const ends = await endsOf(pod, { max_tokens: 20 });
  const failed = ends.filter((end) => typeof end === 'string');
  // Those whose step asked it; who waited meanwhile goes on.
  expect(failed.length).toBeGreaterThan(0);
  expect(failed.length).toBeLessThan(CALLS);
  for (const end of failed) expect(end).toMatch(/5 losses in one step, which may be its own doing|NPU 2 failed at its part of layer/);
  expect(ends.map((end, index) => (typeof end === 'string' ? right[index] : end))).toEqual(right);
  expect(await endsOf(pod, { max_tokens: 20 })).toEqual(right);
  await expectNothingLeft(pod);
});
