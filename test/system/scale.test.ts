/** The number of DP groups and of expert NPUs changes while requests run: no request fails, no token changes, and what cannot be done is said before it begins. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { KernelRecomputation } from '../../src/trace/recompute.ts';
import { replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases, runs } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';
import { holders, weightsHeld } from './shapes.ts';

/** Its default. */
const KV_LEASE_MS = 600_000;

type Wish = { readonly start: number; readonly length: number; readonly max_tokens: number };

const callOf = ({ start, length, max_tokens }: Wish, seed: number): [number[], GenerateOptions] => [
  Array.from({ length }, (_, at) => 3 + ((start * 7_919 + at * 104_729) % 1_900)),
  { max_tokens, seed, ignore_eos: true, temperature: seed % 2 },
];

const wish = fc.record({ start: fc.nat(3), length: fc.integer({ min: 1, max: 60 }), max_tokens: fc.integer({ min: 1, max: 40 }) });

/** Waits for so many tokens of any call, on whichever clock. */
async function afterTokens(pod: Pod, count: number, calls: readonly (readonly [number[], GenerateOptions])[]): Promise<void> {
  const [prompt, how] = calls[0] as (typeof calls)[number];
  let seen = 0;
  for await (const _ of pod.generate(prompt, { ...how, max_tokens: count })) if (++seen >= count) break;
}

it('tokens of the hash model should be those of one NPU, whenever its shape changes', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        shape: fc.constantFrom<PodOptions>(
          { topology: 'colocated:dp=2', scale_max: { attention: 4 } },
          { topology: 'colocated:dp=1,tp=2', scale_max: { attention: 4 } },
          { topology: 'moe-attention:domains=1x2,experts=3', scale_max: { attention: 4, experts: 4 }, scale_min: { experts: 2 } },
          { topology: 'pd:prefill=1,decode=1xdomains1x2experts3', scale_max: { executor: 'decode', attention: 4, experts: 4 }, scale_min: { experts: 2 } },
          {
            topology: 'moe-attention:domains=1x2,experts=3',
            scale_max: { attention: 4, experts: 4 },
            scale_min: { experts: 2 },
            expert_balancing: { redundant_slots: 4, period_ms: 10 },
          },
          { topology: 'moe-attention:domains=1x2,experts=3', schedule: 'domains', scale_max: { attention: 4, experts: 4 }, scale_min: { experts: 2 } },
        ),
        seed: fc.integer({ min: 0, max: 1e6 }),
        kv_blocks: fc.integer({ min: 8, max: 40 }),
        max_batch_tokens: fc.constantFrom(7, 64),
        max_batch_requests: fc.constantFrom(2, 64),
        load_balancing: fc.constantFrom('auto' as const, 'round_robin' as const, 'cost_model' as const),
        async_scheduling: fc.boolean(),
        prefix_caching: fc.boolean(),
      }),
      fc.array(wish, { minLength: 1, maxLength: 10 }),
      fc.array(fc.record({ attention: fc.integer({ min: 1, max: 4 }), experts: fc.integer({ min: 2, max: 4 }), after: fc.integer({ min: 1, max: 12 }) }), {
        minLength: 1,
        maxLength: 5,
      }),
      async ({ shape, ...options }, wishes, changes) => {
        await using pod = await createPod({ clock: 'virtual', kernels: 'hash', ...shape, ...options });
        const hasExperts = shape.scale_max?.experts !== undefined;
        const calls = wishes.map(callOf);
        const ends = Promise.all(calls.map(([prompt, how]) => pod.complete(prompt, how)));
        for (const { after, attention, experts } of changes) {
          await afterTokens(pod, after, calls);
          const wanted = { attention, ...(hasExperts && { experts }) };
          expect(await pod.scale(wanted)).toMatchObject(wanted);
          if (hasExperts) expect(await holders(pod)).toEqual(experts);
        }
        const got = await ends;
        expect((await pod.stats()).scaling).toMatchObject({ state: 'stable', attention: { serving: changes.at(-1)?.attention }, last_error: null });
        await expectNothingLeft(pod);
        for (const [index, [prompt, how]] of calls.entries())
          expect(got[index]?.choices[0]?.token_ids).toEqual((await one.complete(prompt, how)).choices[0]?.token_ids);
      },
    ),
    { numRuns: runs(6) },
  );
});

it.each(['request', 'layer'] as const)(
  'decode sequences should go on in another group of their executor, with their KV, however that came there: %s',
  async (kv_transfer) => {
    await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
    await using pod = await createPod({
      ...{ clock: 'virtual', kernels: 'hash', topology: 'pd:prefill=1,decode=1xdp3', kv_transfer },
      ...{ scale_max: { executor: 'decode', attention: 3 }, load_balancing: 'round_robin' },
    });
    const calls = Array.from({ length: 6 }, (_, index) => callOf({ start: index, length: 200, max_tokens: 60 }, index));
    const ends = Promise.all(calls.map(([prompt, how]) => pod.complete(prompt, how)));
    await afterTokens(pod, 12, calls);
    expect(await pod.scale({ attention: 1 })).toMatchObject({ attention: 1, was: { attention: 3 } });
    const tokens = (await ends).map(({ choices }) => choices[0]?.token_ids);
    expect(tokens).toEqual(await Promise.all(calls.map(async ([prompt, how]) => (await one.complete(prompt, how)).choices[0]?.token_ids)));
    // From group to group, beside what prefill had sent.
    const { kv_links } = await pod.stats();
    expect(kv_links.find(({ source, target }) => source === 1 && target === 1)?.done).toBeGreaterThan(1);
    await expectNothingLeft(pod);
  },
);

it('a request whose decode was handed back before it had pulled anything should end with its last token, not with the lease on what its prefill lent', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  const calls = Array.from({ length: 4 }, (_, index) => callOf({ start: index, length: 3 + 2 * index, max_tokens: 20 + 10 * index }, index));
  const right = await Promise.all(calls.map(async ([prompt, how]) => (await one.complete(prompt, how)).choices[0]?.token_ids));
  for (let moment = 200; moment < 206; moment++) {
    await using pod = (await createPod({
      ...{ clock: 'virtual', kernels: 'hash', seed: moment, topology: 'pd:prefill=1xdp2,decode=1xdomains1x3experts3', workers: 8 },
      scale_max: { executor: 'decode', attention: 4 },
    })) as VirtualPod;
    const { control } = pod;
    let scaled: Promise<unknown> | null = null;
    const step = control.step.bind(control);
    let steps = 0;
    control.step = () => {
      if (steps++ === moment) scaled = pod.scale({ attention: 1 });
      return step();
    };
    const got = await Promise.all(calls.map(([prompt, how]) => pod.complete(prompt, how)));
    expect(got.map(({ choices }) => choices[0]?.token_ids)).toEqual(right);
    expect(await scaled).toMatchObject({ attention: 1 });
    expect(control.host.clock.now_ms()).toBeLessThan(KV_LEASE_MS / 10);
    await expectNothingLeft(pod);
  }
});

const PROMPTS = ['Once upon a time', 'The wolf', 'In the forest there was a little house', 'The king'] as const;
const HOW: GenerateOptions = { ignore_eos: true, max_tokens: 32, logprobs: 1, stop: ['never said'] };

const ask = (pod: Pod): Promise<string[][]> =>
  Promise.all([...PROMPTS, ...PROMPTS].map(async (prompt, seed) => fingerprint(await pod.complete(prompt, { ...HOW, seed, temperature: seed % 2 }))));

let known: Promise<string[][]> | null = null;
/** What one NPU answers. */
const answers = (): Promise<string[][]> => {
  known ??= withPod({ clock: 'virtual' }, ask);
  return known;
};

/** Calls that have begun: so many tokens are out. */
async function underWay(pod: Pod, tokens: number): Promise<{ readonly ends: Promise<string[][]> }> {
  const before = (await pod.stats()).generation_tokens;
  const ends = ask(pod);
  while ((await pod.stats()).generation_tokens < before + tokens) await sleep(1);
  return { ends };
}

describe('on worker threads', () => {
  it.each(
    cases<PodOptions>([
      { topology: 'moe-attention:domains=1x1,experts=2', workers: 2, scale_max: { attention: 2, experts: 4 } },
      { topology: 'moe-attention:domains=1x1,experts=2', schedule: 'domains', workers: 2, scale_max: { attention: 2, experts: 4 } },
      { npus: 1, workers: 2, scale_max: { attention: 2 } },
    ]),
  )('ids and log-probabilities should stay the same, and nobody fail: %o', async (options) => {
    await withPod({ ...options, load_balancing: 'round_robin' }, async (pod) => {
      const [few, many] = 'topology' in options ? [2, 4] : [undefined, undefined];
      const standing = await weightsHeld(pod);
      expect(await pod.scale({ attention: 2 })).toMatchObject({ attention: 2, was: { attention: 1 } });
      expect(await weightsHeld(pod)).toBeGreaterThan(standing);
      const { ends } = await underWay(pod, 24);
      expect(await pod.scale({ attention: 1, experts: many })).toMatchObject({ attention: 1, was: { attention: 2, experts: few ?? null } });
      expect(await pod.scale({ attention: 2, experts: few })).toMatchObject({ attention: 2, was: { attention: 1, experts: many ?? null } });
      expect(await ends).toEqual(await answers());
      const { scaling, requests_finished, kv_links } = await pod.stats();
      const experts = few === undefined ? null : { serving: few, reserved: 4, fewest: few };
      expect(scaling).toMatchObject({ state: 'stable', task_executor: 0, attention: { serving: 2, reserved: 2 }, experts, changes: 3, last_error: null });
      expect(requests_finished).toMatchObject({ length: 8, failed: 0 });
      // Some had been decoding, and went on with their KV.
      expect(kv_links.reduce((sum, { done }) => sum + done, 0)).toBeGreaterThan(0);
      await pod.scale({ attention: 1 });
      expect(await weightsHeld(pod)).toBe(standing);
    });
  });

  it('a group that is lost while it hands over should fail nobody: the change ends, and its successor stands by', async () => {
    await using rig = await openRig({ npus: 2, workers: 2, scale_max: { attention: 2 }, load_balancing: 'round_robin' });
    const { ends } = await underWay(rig.pod, 24);
    const changed = rig.pod.scale({ attention: 1 });
    rig.killWorker(1);
    expect(await changed).toMatchObject({ attention: 1 });
    expect(await ends).toEqual(await answers());
    const { scaling, dp_groups } = await rig.pod.stats();
    expect(scaling).toMatchObject({ state: 'stable', attention: { serving: 1, reserved: 2 } });
    expect(dp_groups[1]).toMatchObject({ requests_running: 0, requests_waiting: 0 });
    expect(await rig.pod.scale({ attention: 2 })).toMatchObject({ attention: 2 });
    await expectNothingLeft(rig.pod);
  });
});

/** Asks again while a rehoming has the expert map. */
async function whenMapIsFree<Result>(ask: () => Promise<Result>): Promise<Result> {
  for (;;)
    try {
      return await ask();
    } catch (error) {
      if ((error as { code?: string }).code !== 'overloaded') throw error;
      await sleep(20);
    }
}

describe('a worker that is lost while experts move', () => {
  it('should fail nobody: the shape is the new or the old one, and can be changed again', async () => {
    await using rig = await openRig({ topology: 'moe-attention:domains=1x2,experts=2', workers: 2, scale_max: { experts: 4 } });
    const { ends } = await underWay(rig.pod, 24);
    const changed = rig.pod.scale({ experts: 4 }).then(
      ({ experts }) => experts,
      ({ code }: { code: string }) => code,
    );
    rig.killWorker(1);
    // Its rehoming takes the map, where that comes first.
    expect([4, 'worker_failed', 'overloaded']).toContain(await changed);
    expect(await ends).toEqual(await answers());
    for (const experts of [4, 2]) {
      expect(await whenMapIsFree(() => rig.pod.scale({ experts }))).toMatchObject({ experts });
      expect(await holders(rig.pod)).toBe(experts);
    }
    expect((await rig.pod.stats()).scaling).toMatchObject({ state: 'stable', last_error: null });
    await expectNothingLeft(rig.pod);
  });
});

describe('what cannot be done', () => {
  it('should be said before it begins, with what was reserved', async () => {
    await withPod({ clock: 'virtual', kernels: 'hash', npus: 2, scale_max: { attention: 3 } }, async (pod) => {
      await expect(pod.scale({ attention: 4 })).rejects.toMatchObject({
        code: 'invalid_request',
        param: 'attention',
        message: expect.stringContaining('3 that memory was reserved for'),
      });
      await expect(pod.scale({ experts: 4 })).rejects.toMatchObject({ code: 'invalid_request', param: 'experts' });
      const [first, second] = await Promise.allSettled([pod.scale({ attention: 3 }), pod.scale({ attention: 1 })]);
      expect([first.status, second.status]).toEqual(['fulfilled', 'rejected']);
      expect(second).toMatchObject({ reason: { code: 'overloaded' } });
    });
    await withPod({ clock: 'virtual', kernels: 'hash', npus: 2 }, (pod) =>
      expect(pod.scale({ attention: 1 })).rejects.toMatchObject({ code: 'invalid_request', message: expect.stringContaining('scale_max') }),
    );
  });

  it.each([
    { topology: 'pd', scale_max: { attention: 2 } },
    { topology: 'pd:prefill=2,decode=1', scale_max: { executor: 'prefill', attention: 2 } },
    { topology: 'pd', scale_max: { executor: 2, attention: 2 } },
    { npus: 2, scale_max: { experts: 3 } },
    { topology: 'moe-attention:domains=1x2,experts=2', scale_max: { experts: 1 } },
    { npus: 3, scale_max: { attention: 2 } },
    { topology: 'moe-attention:domains=2x1,experts=2', scale_max: { attention: 3 } },
  ] satisfies PodOptions[])('should be refused when the pod is made: %o', async (options) => {
    await expect(createPod({ clock: 'virtual', ...options })).rejects.toMatchObject({ code: 'invalid_request', param: 'scale_max' });
  });
});

it('a recorded run with changes should be replayed with its kernels', async () => {
  using folder = traceFolder();
  const path = folder.file('scale.trace');
  const options: PodOptions = { clock: 'virtual', npus: 1, scale_max: { attention: 2 }, load_balancing: 'round_robin', kv_blocks: 128, record: path };
  await withPod(options, async (pod) => {
    await pod.scale({ attention: 2 });
    const calls = [0, 1, 2].map((seed) => callOf({ start: seed, length: 20, max_tokens: 24 }, seed));
    const ends = Promise.all(calls.map(([prompt, how]) => pod.complete(prompt, how)));
    await afterTokens(pod, 6, calls);
    await pod.scale({ attention: 1 });
    await ends;
  });
  using reader = TraceReader.open(path);
  const header = parseRunHeader(reader.header, path);
  const report = await replayTrace(reader, header, { recompute: await KernelRecomputation.create(header, undefined) });
  expect(report).toMatchObject({ outcome: 'reproduced', divergence: null });
});
