/** Pods whose DP groups have several ranks, or one output projection for several: the same bits, and when one rank breaks, all of its group begin anew. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import { KernelRecomputation } from '../../src/trace/recompute.ts';
import { replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases, runs } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { endsWhen, expectAnswersOfOneNpu, expectTokensOf, PROMPTS, wishes } from './as-on-one-npu.ts';
import { expectNothingLeft } from './pods.ts';
import { openRig } from './rig.ts';

/** Ranks wait for one another on threads and, in the order that one thread gives, on a virtual clock; how heads and columns are split is the same on both. */
describe('ids and log-probabilities are those of one NPU', () => {
  it('on worker threads', async () => {
    await expectAnswersOfOneNpu({ topology: 'colocated:dp=2,tp=3', workers: 2, npu_workers: [0, 1, 0, 1, 1, 0], kv_blocks: 128, max_batch_tokens: 5 });
  });

  it.each<PodOptions>([
    { topology: 'colocated:dp=1,tp=4' },
    { topology: 'colocated:dp=1,tp=2', max_batch_tokens: 5 },
    { topology: 'mixed:colocated=1xdp1tp4,colocated=1xdp2', async_scheduling: false },
    { topology: 'pd:prefill=1xdp2oproj2,decode=1xdp3oproj3', max_batch_tokens: 7 },
  ])('on a virtual clock: %o', async (options) => {
    await expectAnswersOfOneNpu({ clock: 'virtual', ...options });
  });
});

it('tokens of the hash model are those of one NPU, over groups of any ranks, with KV blocks that run out', async () => {
  const tokensOn = async (options: PodOptions): Promise<(readonly number[])[]> => {
    await using pod = await createPod({ clock: 'virtual', kernels: 'hash', kv_blocks: 12, max_batch_tokens: 24, ...options });
    const calls = Array.from({ length: 12 }, (_, call) =>
      pod.complete([1, 7, 300 + call, ...Array.from({ length: 3 * call }, (_, at) => 5 + at)], { max_tokens: 24, ignore_eos: true, seed: call }),
    );
    const completions = await Promise.all(calls);
    await expectNothingLeft(pod);
    return completions.map(({ choices }) => choices[0]?.token_ids ?? []);
  };
  const expected = await tokensOn({ seed: 1 });
  for (const [seed, topology] of ['colocated:dp=1,tp=2', 'colocated:dp=3,tp=2', 'colocated:dp=1,tp=7', 'mixed:colocated=1xdp1tp3,colocated=1xdp2tp1'].entries())
    expect(await tokensOn({ topology, seed }), topology).toEqual(expected);
});

it('tokens of the hash model are those of one NPU, however output projections are split, whatever is asked', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  const shape = fc.record({ oproj: fc.integer({ min: 1, max: 4 }), groups: fc.integer({ min: 1, max: 2 }) });
  const textOf = ({ oproj, groups }: { readonly oproj: number; readonly groups: number }): string => `dp${oproj * groups}oproj${oproj}`;
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        topology: fc.oneof(
          shape.map((one) => `mixed:colocated=1x${textOf(one)}`),
          fc.tuple(shape, shape).map(([prefill, decode]) => `pd:prefill=1x${textOf(prefill)},decode=1x${textOf(decode)}`),
          fc.tuple(shape, fc.integer({ min: 1, max: 3 })).map(([prefill, tp]) => `pd:prefill=1x${textOf(prefill)},decode=1xdp1tp${tp}`),
        ),
        seed: fc.integer({ min: 0, max: 1e6 }),
        kv_blocks: fc.integer({ min: 8, max: 40 }),
        max_batch_tokens: fc.constantFrom(1, 7, 64),
        async_scheduling: fc.boolean(),
      }),
      wishes,
      (options, wished) => expectTokensOf(one, options, wished),
    ),
    { numRuns: runs(10) },
  );
});

it('a recorded run on threads gives them too, and is replayed with its kernels, whose ranks wait for one another there as well', async () => {
  using folder = traceFolder();
  const path = folder.file('ranks.trace');
  await expectAnswersOfOneNpu({ topology: 'pd:prefill=1xdp1tp2,decode=1xdp3oproj3', workers: 2, npu_workers: [0, 1, 1, 0, 1], kv_blocks: 128, record: path });
  using reader = TraceReader.open(path);
  const header = parseRunHeader(reader.header, path);
  const report = await replayTrace(reader, header, { recompute: await KernelRecomputation.create(header, undefined) });
  expect(report).toMatchObject({ outcome: 'reproduced', divergence: null });
  expect(report.launches).toBeGreaterThan(30);
});

it('more ranks than heads are refused', async () => {
  await expect(createPod({ topology: 'colocated:dp=1,tp=7' })).rejects.toMatchObject({
    code: 'invalid_request',
    param: 'topology',
    message: /tp 7 for 6 attention heads/,
  });
});

describe('a rank that breaks', () => {
  const topology = 'colocated:dp=1,tp=2';
  type Rig = Awaited<ReturnType<typeof openRig>>;
  let ofTwoRanks: Rig;
  beforeAll(async () => {
    ofTwoRanks = await openRig({ topology, workers: 2 });
  });
  afterAll(() => ofTwoRanks[Symbol.asyncDispose]());

  it('with its worker, whichever rank: all ranks forget what the group held, it is computed again, and the tokens are the same', async () => {
    for (const worker of cases([1, 0])) expect(await endsWhen(ofTwoRanks, () => ofTwoRanks.killWorker(worker))).toEqual(PROMPTS.map(() => 'the same'));
  });

  it('of another DP group, with its worker: who splits the output projection with it waits, asks again, and loses nothing', async () => {
    await using rig = await openRig({ topology: 'colocated:dp=2,oproj=2', workers: 2 });
    expect(await endsWhen(rig, () => rig.killWorker(1))).toEqual(PROMPTS.map(() => 'the same'));
  });

  it('in a step, whichever rank, with the other one in the midst of it: what its group held fails, and what comes next is served', async () => {
    for (const npu of cases([1, 0])) {
      const ends = await endsWhen(ofTwoRanks, () => ofTwoRanks.poisonBlockTables(npu));
      expect(ends.filter((end) => end !== 'the same')).not.toEqual([]);
      for (const end of ends) expect(end).toMatch(/^the same$|^worker_failed: memory access out of bounds/);
    }
  });
});
