/** Pods whose DP domains are at the experts in turn: the same bits as one NPU, whoever has something to do, and when workers die. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { decodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases, runs } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { endsWhen, expectAnswersOfOneNpu, expectTokensOf, PROMPTS, wishes } from './as-on-one-npu.ts';
import { withPod } from './pods.ts';
import { openRig } from './rig.ts';

describe('ids and log-probabilities should be those of one NPU', () => {
  it.each(
    cases<PodOptions>([
      { topology: 'moe-attention:domains=1x3,experts=2,shared=attention', workers: 2, max_batch_tokens: 7, load_balancing: 'round_robin' },
      { topology: 'pd:prefill=1,decode=1xdomains2x1experts3shared1', workers: 2, kv_blocks: 128, kv_transfer: 'layer' },
    ]),
  )('on worker threads: %o', async (options) => {
    await expectAnswersOfOneNpu({ schedule: 'domains', ...options });
  });
});

it('tokens of the hash model should be those of one NPU, however many domains there are, whatever is asked', async () => {
  await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        domains: fc.integer({ min: 1, max: 3 }),
        attention: fc.integer({ min: 1, max: 3 }),
        experts: fc.integer({ min: 1, max: 9 }),
        shared: fc.constantFrom('', 'shared1', 'sharedattention'),
        role: fc.constantFrom('mixed:colocated', 'pd:prefill=1xdp2,decode'),
        seed: fc.nat(1e6),
        kv_blocks: fc.integer({ min: 8, max: 40 }),
        max_batch_tokens: fc.constantFrom(1, 7, 64),
        async_scheduling: fc.boolean(),
      }),
      wishes,
      ({ domains, attention, experts, shared, role, ...options }, wished) => {
        const topology = `${role}=1xdomains${domains}x${attention}experts${experts}${shared}`;
        return expectTokensOf(one, { schedule: 'domains', topology, load_balancing: 'round_robin', ...options }, wished);
      },
    ),
    { numRuns: runs(5) },
  );
});

it('no message should be sent for rounds but that expert NPUs began to serve, and none to an NPU without a step, however many there are', async () => {
  using folder = traceFolder();
  const path = folder.file('domains.trace');
  const topology = 'moe-attention:domains=1x2,experts=3';
  const fields = await withPod({ clock: 'virtual', kernels: 'hash', schedule: 'domains', topology, record: path }, async (pod) => {
    await pod.complete([5, 6, 7], { ignore_eos: true, max_tokens: 200 });
    return (await pod.stats()).npus.map(({ fields_written }) => fields_written);
  });
  // The other attention NPU takes part in all rounds.
  expect(fields[1]).toBeGreaterThan(1_000);
  using reader = TraceReader.open(path);
  const received = new Map<string, string[]>();
  for (const { bytes } of reader.records()) {
    const { to, message } = decodeRecord(bytes) as ActRecord;
    if (/^npu\/[1-4]$/.test(to) && message !== null && message.type !== 'PING') received.set(to, [...(received.get(to) ?? []), message.type]);
  }
  expect(received.get('npu/1')).toEqual(['STARTED']);
  for (const npu of [2, 3, 4]) expect(received.get(`npu/${npu}`)).toEqual(['STARTED', 'SERVED_DISPATCHES']);
});

it('a worker that dies should end the rounds of its domains, and all of them begin anew: what was under way is computed again', async () => {
  await using rig = await openRig({ topology: 'moe-attention:domains=2x1,experts=2', schedule: 'domains', workers: 2, npu_workers: [0, 0, 1, 1] });
  for (const worker of [1, 0]) expect(await endsWhen(rig, () => rig.killWorker(worker), 24)).toEqual(PROMPTS.map(() => 'the same'));
});
