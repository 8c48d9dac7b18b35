/** Pods whose attention and experts are on different NPUs: the same bits as one NPU, however they are split, and what breaks on either side is made good. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { KernelRecomputation } from '../../src/trace/recompute.ts';
import { replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { decodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases, runs } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { askFour, endsWhen, expectAnswersOfOneNpu, expectTokensOf, PROMPTS, wishes } from './as-on-one-npu.ts';
import { withPod } from './pods.ts';
import { openRig } from './rig.ts';

/** Who waits for whom differs on threads; where experts lie, and what is shared, is the same on a virtual clock. */
describe('ids and log-probabilities should be those of one NPU', () => {
  it.each(
    cases<PodOptions>([
      { topology: 'pd:prefill=1xdp2,decode=1xdomains1x2experts2shared1', workers: 2, npu_workers: [0, 1, 0, 1, 1, 0], kv_blocks: 128 },
      { topology: 'moe-attention:domains=1x2,experts=3', workers: 2, micro_batches: 2 },
    ]),
  )('on worker threads: %o', async (options) => {
    await expectAnswersOfOneNpu(options);
  });

  it.each<PodOptions>([
    { topology: 'moe-attention:domains=1x3,experts=5,shared=2' },
    { topology: 'moe-attention:domains=2x1,experts=2,shared=attention', enforce_eager: true, max_batch_tokens: 7, load_balancing: 'round_robin' },
    { topology: 'moe-attention:domains=1x2,experts=3' },
  ])('on a virtual clock: %o', async (options) => {
    await expectAnswersOfOneNpu({ clock: 'virtual', ...options });
  });
});

it('tokens of the hash model should be those of one NPU, however many attention and expert NPUs there are, whatever is asked', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  const split = fc
    .record({
      domains: fc.integer({ min: 1, max: 3 }),
      attention: fc.integer({ min: 1, max: 3 }),
      experts: fc.integer({ min: 1, max: 9 }),
      shared: fc.constantFrom('', 'shared1', 'sharedattention'),
    })
    .map(({ domains, attention, experts, shared }) => `domains${domains}x${attention}experts${experts}${shared}`);
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        topology: fc.oneof(
          split.map((text) => `mixed:colocated=1x${text}`),
          fc.tuple(split, fc.integer({ min: 1, max: 2 })).map(([decode, dp]) => `pd:prefill=1xdp${dp},decode=1x${decode}`),
          fc.tuple(split, split).map(([prefill, decode]) => `pd:prefill=1x${prefill},decode=1x${decode}`),
        ),
        seed: fc.integer({ min: 0, max: 1e6 }),
        kv_blocks: fc.integer({ min: 8, max: 40 }),
        max_batch_tokens: fc.constantFrom(1, 7, 19, 64),
        micro_batches: fc.constantFrom(1 as const, 2 as const),
        load_balancing: fc.constantFrom('auto' as const, 'round_robin' as const),
        async_scheduling: fc.boolean(),
      }),
      wishes,
      (options, wished) => expectTokensOf(one, options, wished),
    ),
    { numRuns: runs(10) },
  );
});

it('no message should be sent for what expert NPUs compute but that they began to, however much it is', async () => {
  using folder = traceFolder();
  const path = folder.file('split.trace');
  const topology = 'moe-attention:domains=1x2,experts=3';
  const dispatches = await withPod({ clock: 'virtual', kernels: 'hash', topology, record: path }, async (pod) => {
    await Promise.all(PROMPTS.map((prompt) => pod.complete(prompt, { ignore_eos: true, max_tokens: 200 })));
    return (await pod.stats()).npus.reduce((sum, npu) => sum + npu.dispatches_served, 0);
  });
  expect(dispatches).toBeGreaterThan(1_000);
  using reader = TraceReader.open(path);
  const toExperts = new Map<string, number>();
  for (const { bytes } of reader.records()) {
    const { to, message } = decodeRecord(bytes) as ActRecord;
    if (!['npu/2', 'npu/3', 'npu/4'].includes(to) || message === null || message.type === 'PING') continue;
    toExperts.set(message.type, (toExperts.get(message.type) ?? 0) + 1);
  }
  expect(Object.fromEntries(toExperts)).toEqual({ STARTED: 3, SERVED_DISPATCHES: 3 });
});

it('a recorded run should be replayed with its kernels', async () => {
  using folder = traceFolder();
  const path = folder.file('split.trace');
  await withPod({ clock: 'virtual', topology: 'moe-attention:domains=1x2,experts=2', workers: 2, kv_blocks: 128, record: path }, askFour);
  using reader = TraceReader.open(path);
  const header = parseRunHeader(reader.header, path);
  const report = await replayTrace(reader, header, { recompute: await KernelRecomputation.create(header, undefined) });
  expect(report).toMatchObject({ outcome: 'reproduced', divergence: null });
  expect(report.launches).toBeGreaterThan(10);
});

it('should lay out no attention where experts are, nor experts where attention is', async () => {
  const [whole, split] = await Promise.all(
    ['colocated', 'moe-attention:domains=1x1,experts=1'].map((topology) => withPod({ clock: 'virtual', topology, enforce_eager: true }, (pod) => pod.stats())),
  );
  const bytesOf = (stats: typeof whole): number[] => (stats?.npus ?? []).map(({ hbm_bytes }) => hbm_bytes);
  const [all = 0] = bytesOf(whole);
  const [attention = 0, experts = 0] = bytesOf(split);
  expect(attention).toBeLessThan(all);
  expect(experts).toBeLessThan(all / 2);
  expect(split?.npus.map(({ kind, kv_blocks }) => [kind, kv_blocks > 0])).toEqual([
    ['attention', true],
    ['experts', false],
  ]);
});

it('who has a schedule for NPUs that are not apart should be told', async () => {
  await expect(createPod({ npus: 2, schedule: 'dataflow' })).rejects.toMatchObject({ code: 'invalid_request', param: 'schedule' });
});

describe('an NPU that is lost with its worker', () => {
  it('should be asked again when its successor is there, if it has experts: nothing fails; if it has attention, what it held is computed again', async () => {
    await using rig = await openRig({ topology: 'moe-attention:domains=1x2,experts=2', workers: 2, npu_workers: [0, 0, 1, 1] });
    for (const worker of [1, 0]) expect(await endsWhen(rig, () => rig.killWorker(worker))).toEqual(PROMPTS.map(() => 'the same'));
  });
});
