/** One run of a fault plan: what is survived holds, with each fault's effect told; what is not is found, and told apart. */
import { statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { corrupted } from '../../src/chaos/corruption.ts';
import { deadLoops } from '../../src/chaos/dead-loops.ts';
import { type Fault, parsePlan } from '../../src/chaos/fault-plan.ts';
import { stepFailure } from '../../src/chaos/fault-report.ts';
import { type CallReport, type ChaosPlanInput, chaos, type FaultInput } from '../../src/chaos/index.ts';

import { violationsOfCall } from '../../src/chaos/invariants.ts';
import { struckBy } from '../../src/chaos/struck-part.ts';
import { createVirtualPod } from '../../src/pod/virtual-pod.ts';
import type { Address } from '../../src/protocol/address.ts';
import { deploy, parseTopology } from '../../src/protocol/topology.ts';
import type { Mail } from '../../src/runtime/cast.ts';
import { Directory } from '../../src/runtime/directory.ts';
import { SeededRandom } from '../../src/runtime/seeded-random.ts';
import { traceFolder } from '../trace/files.ts';
import { CALLS, HALVES, plan, SPLIT } from './small-plans.ts';

const CHECKED: ChaosPlanInput['pod'] = { ...SPLIT, weight_checks: 'each-step' };

describe('a fault', () => {
  it.each<[ChaosPlanInput['pod'], FaultInput]>([
    [SPLIT, { kind: 'worker-lost', worker: 1, at: { phase: 'kv-transfer' } }],
    [SPLIT, { kind: 'controllers-lost', worker: 0, at: { phase: 'admission' } }],
    [SPLIT, { kind: 'zombie-writes', worker: 0, at: { phase: 'kv-transfer' } }],
    [HALVES, { kind: 'expert-lost', expert: 3, at: { phase: 'dispatch', nth: 2 } }],
    [SPLIT, { kind: 'thread-pauses', thread: 'control', at: { phase: 'prefill' }, for_ms: 50 }],
    [SPLIT, { kind: 'worker-hangs', worker: 0, at: { phase: 'prefill' }, for_ms: 50 }],
    [HALVES, { kind: 'npu-hangs', npu: 3, at: { phase: 'dispatch' }, for_ms: 5 }],
    [HALVES, { kind: 'worker-lost', worker: 2, at: { phase: 'dispatch', nth: 2 } }],
    [SPLIT, { kind: 'npu-slow', npu: 1, factor: 20, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'npu-jitter', npu: 1, factor: 20, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'step-fails', npu: 0, at: { phase: 'prefill' } }],
    [SPLIT, { kind: 'dp-group-hangs', id: 1, at: { phase: 'kv-transfer' }, for_ms: 50 }],
    [SPLIT, { kind: 'task-executor-hangs', id: 1, at: { ms: 0 }, for_ms: 5 }],
    [SPLIT, { kind: 'job-executor-hangs', id: 1, at: { ms: 0 }, for_ms: 50 }],
    [SPLIT, { kind: 'cluster-manager-hangs', id: 0, at: { ms: 0 }, for_ms: 5_000 }],
    [SPLIT, { kind: 'npu-crashes', npu: 1, at: { phase: 'kv-transfer' } }],
    [HALVES, { kind: 'npu-crashes', npu: 3, at: { phase: 'dispatch', there: true } }],
    [SPLIT, { kind: 'dp-group-crashes', id: 0, at: { phase: 'prefill' } }],
    [SPLIT, { kind: 'job-executor-crashes', id: 1, at: { ms: 0 } }],
    [SPLIT, { kind: 'cluster-manager-crashes', id: 1, at: { phase: 'decode', nth: 2 } }],
    [SPLIT, { kind: 'link-slow', from: 0, to: 1, factor: 1_000, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'link-cut', from: 'control', to: 1, both: true, at: { phase: 'prefill' }, for_ms: 50 }],
    [SPLIT, { kind: 'ring-full', from: 'control', to: 0, frames: 1, every_ms: 1, at: { ms: 0 }, for_ms: 50 }],
    [SPLIT, { kind: 'trace-disk-full', bytes: 1_000, at: { phase: 'prefill' } }],
    [SPLIT, { kind: 'clock-skew', thread: 0, factor: 20, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'message-delayed', delay_ms: 1, share: 0.3, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'message-dropped', share: 0.3, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'message-duplicated', at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'message-duplicated', late_ms: 0.1, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'message-reordered', delay_ms: 1, share: 0.3, at: { ms: 0 }, for_ms: 500 }],
    [SPLIT, { kind: 'message-corrupted', share: 0.3, at: { ms: 0 }, for_ms: 500 }],
    // Until the link is broken, and its worker has a successor.
    [SPLIT, { kind: 'message-dropped', type: 'ENQUEUE', at: { phase: 'admission' }, for_ms: 150 }],
    [SPLIT, { kind: 'kv-bit-flip', npu: 1, bit: 3, at: { phase: 'decode', nth: 4 } }],
    [SPLIT, { kind: 'kv-bit-flip', npu: 0, bit: 3, at: { phase: 'kv-transfer' } }],
    [
      { ...SPLIT, kv_transfer: 'layer', max_batch_tokens: 8 },
      { kind: 'kv-bit-flip', npu: 0, bit: 76, at: { phase: 'prefill', nth: 3 } },
    ],
    [{ topology: 'colocated:dp=1,tp=2' }, { kind: 'kv-bit-flip', npu: 1, block: 1, bit: 3, at: { phase: 'prefill', nth: 2 } }],
    [{ topology: 'colocated:dp=2' }, { kind: 'row-bit-flip', npu: 0, bit: 77, at: { phase: 'dispatch', nth: 2 } }],
    [{ topology: 'colocated:dp=1,tp=2' }, { kind: 'row-bit-flip', npu: 1, bit: 770, at: { phase: 'decode', nth: 2 } }],
    [CHECKED, { kind: 'weights-bit-flip', npu: 0, bit: 3, at: { phase: 'prefill' } }],
    [CHECKED, { kind: 'weights-bit-flip', npu: 1, part: 5, bit: 40, at: { phase: 'decode', nth: 2 } }],
    [
      { ...CHECKED, kv_transfer: 'layer', max_batch_tokens: 8 },
      { kind: 'weights-bit-flip', npu: 0, bit: 3, at: { phase: 'prefill', nth: 2 } },
    ],
    [
      { ...HALVES, weight_checks: 'each-step' },
      { kind: 'weights-bit-flip', npu: 3, part: 1, bit: 7, at: { phase: 'decode' } },
    ],
    [
      { ...HALVES, weight_checks: 'each-step', schedule: 'domains' },
      { kind: 'weights-bit-flip', npu: 2, part: 1, bit: 7, at: { phase: 'decode' } },
    ],
    [
      { topology: 'colocated:dp=2,tp=2', weight_checks: 'each-step', workers: 2 },
      { kind: 'weights-bit-flip', npu: 1, bit: 3, at: { phase: 'decode' } },
    ],
    [
      { topology: 'colocated:dp=2,oproj=2', weight_checks: 'each-step', workers: 2 },
      { kind: 'weights-bit-flip', npu: 1, bit: 3, at: { phase: 'decode' } },
    ],
    [SPLIT, { kind: 'client-gone', call: 2, after_chunks: 2 }],
    [SPLIT, { kind: 'client-gone', call: 1, at: { phase: 'prefill' } }],
    [SPLIT, { kind: 'client-gone', call: 1, at: { phase: 'kv-transfer', there: true } }],
    [SPLIT, { kind: 'client-gone', call: 0, at: { ms: 0.05 } }],
    [SPLIT, { kind: 'client-slow', call: 0, turns: 3 }],
  ])('should be survived, and have changed something: %o %o', async (pod, fault) => {
    const report = await chaos.run(plan(pod, fault));
    expect(report.violations).toEqual([]);
    expect(report.faults).toMatchObject([{ kind: fault.kind, struck: true }]);
    expect(report.faults[0]?.effect).toBeGreaterThan(0);
    const failed = { 'step-fails': 'worker_failed', 'client-gone': 'cancelled' }[fault.kind as string];
    expect(report.calls.filter(({ code }) => code !== 'finished' && code !== failed)).toEqual([]);
  });

  it('that comes to nothing should not count', async () => {
    const { verdict, faults } = await chaos.run(
      plan(
        { topology: 'colocated:dp=1' },
        { kind: 'worker-lost', worker: 0, at: { phase: 'rebalance' } },
        { kind: 'worker-lost', worker: 0, at: { phase: 'decode', nth: 99 } },
        { kind: 'client-gone', call: 0, after_chunks: 99 },
        { kind: 'client-gone', call: 1, at: { ms: 900 } },
        { kind: 'message-dropped', type: 'STEP_DONE', for_ms: 500 },
      ),
    );
    expect(verdict).toBe('held');
    expect(faults.map(({ effect }) => effect)).toEqual([0, 0, 0, 0, 0]);
    // Steps decode, but not so many.
    expect(faults.map(({ struck }) => struck)).toEqual([false, false, true, true, true]);
  });

  it('of KV that two sequences of a step share should be found, though one of them writes in its block', async () => {
    // Who drafts by MTP and begins with the KV of others computes the last position again (seed 5789): the block's sum was cut there, and taken anew unseen.
    const { violations, faults } = await chaos.run({
      seed: 5789,
      pod: { topology: 'colocated:dp=1,tp=2', hash_foreseeable: 0.7, speculative_config: { method: 'mtp', num_speculative_tokens: 1, adaptive: false } },
      calls: [{ key: 5, prompt_tokens: 17, max_tokens: 2, n: 2 }],
      faults: [{ kind: 'kv-bit-flip', npu: 1, block: 20, bit: 732, at: { phase: 'decode', nth: 1, there: true } }],
    });
    expect(violations).toEqual([]);
    expect(faults).toMatchObject([{ struck: true, effect: 1 }]);
  });

  it('of KV that rests in DRAM should be found when it is wanted back', async () => {
    const calls = Array.from({ length: 20 }, (_, index) => ({ key: index % 5, prompt_tokens: 65, max_tokens: 3, ms: 0.7 * Math.floor(index / 5) }));
    const pod = { topology: 'colocated:dp=1', kv_blocks: 9, dram_blocks: 32, dram_bytes_per_s: 1e12 };
    const flips = [0, 3, 6].map((block): FaultInput => ({ kind: 'dram-bit-flip', npu: 0, block, bit: 3, at: { phase: 'decode', nth: 12 } }));
    const { violations, faults } = await chaos.run({ pod, calls, faults: flips });
    expect(violations).toEqual([]);
    expect(faults.some(({ effect }) => effect > 0)).toBe(true);
  });

  it('of weights that nobody has used should be over with all others, and not count', async () => {
    // The step that would have used it failed before. Would the bit stay, calls of the second phase would meet it, and this pod waits for no successor.
    const { violations, faults } = await chaos.run({
      seed: 2359,
      pod: {
        ...{ topology: 'moe-attention:domains=1x2,experts=2', workers: 2, npu_workers: [0, 0, 1, 1, 0, 0, 1, 1] },
        ...{ scale_max: { attention: 4, experts: 4 }, rehome_after_ms: 3, weight_checks: 'each-step' },
      },
      calls: [{ key: 9, prompt_tokens: 1, max_tokens: 1 }],
      faults: [
        { kind: 'weights-bit-flip', npu: 3, part: 12, bit: 466, at: { phase: 'dispatch', nth: 1, there: true } },
        { kind: 'step-fails', npu: 2, at: { phase: 'dispatch', nth: 1, there: true } },
      ],
    });
    expect(violations).toEqual([]);
    expect(faults).toMatchObject([
      { struck: true, effect: 0 },
      { struck: true, effect: 1 },
    ]);
  });

  it('of weights that nobody uses should be found when they are copied, and their NPU end', async () => {
    // Whoever copied an expert alone knew of it: a scale failed, and so did its way back, every 250 ms for three minutes.
    const { violations, faults, virtual_ms } = await chaos.run({
      seed: 1427,
      pod: {
        ...{ topology: 'moe-attention:domains=1x1,experts=3,shared=attention', scale_max: { attention: 3, experts: 4 }, scale_min: { experts: 2 } },
        ...{ expert_balancing: { redundant_slots: 2, period_ms: 10, windows: 1, threshold: 1.2 }, weight_checks: 'each-step' },
      },
      calls: [{ key: 8, prompt_tokens: 1, max_tokens: 6 }],
      shapes: [{ ms: 0.8, attention: 2, experts: 2, deadline_ms: 5 }],
      rebalances: [{ ms: 0.8 }],
      faults: [{ kind: 'weights-bit-flip', npu: 4, part: 17, bit: 70, at: { phase: 'scaling', nth: 1, there: true } }],
    });
    expect(violations).toEqual([]);
    expect(faults).toMatchObject([{ struck: true, effect: 1 }]);
    expect(virtual_ms).toBeLessThan(5_000);
  });

  it('of weights that NPUs of one worker have alike should be loaded anew for all of them', async () => {
    // The second one was not: its sums were cleared before memory was asked whether it had any (seed 104).
    const { violations, faults } = await chaos.run({
      seed: 104,
      pod: { topology: 'pd:prefill=1xdp1,decode=1xdp1', scale_max: { executor: 1, attention: 3 }, kernels: 'real', weight_checks: 'each-step' },
      calls: [
        { key: 8, prompt_tokens: 1, max_tokens: 2 },
        { key: 6, prompt_tokens: 17, stem_tokens: 16, max_tokens: 3, n: 2 },
      ],
      faults: [{ kind: 'weights-bit-flip', npu: 1, part: 54, bit: 502, at: { event: 137 } }],
    });
    expect(violations).toEqual([]);
    expect(faults).toMatchObject([{ struck: true, effect: 1 }]);
  });

  it.each<[string, FaultInput, ChaosPlanInput['pod']?]>([
    // Within a thread nothing goes by a link, and nothing guards it, nor does any real fault touch it.
    ['lost progress', { kind: 'message-dropped', type: 'STEP_DONE', within_threads: true, at: { ms: 0 }, for_ms: 500 }],
    ['crash', { kind: 'message-duplicated', type: 'STEP_DONE', within_threads: true, at: { ms: 0 }, for_ms: 500 }],
    ['wrong result', { kind: 'row-bit-flip', npu: 0, bit: 77, at: { phase: 'decode', nth: 2 } }, { topology: 'colocated:dp=2', row_checks: 'off' }],
    ['wrong result', { kind: 'kv-bit-flip', npu: 1, bit: 3, at: { phase: 'decode', nth: 4 } }, { kv_checks: 'off' }],
    ['wrong result', { kind: 'weights-bit-flip', npu: 1, bit: 3, at: { phase: 'decode' } }, { weight_checks: 'off' }],
  ])('that a pod does not survive should be found: %s by %o %o', async (verdict, fault, options = {}) => {
    expect(await chaos.run(plan({ ...SPLIT, ...options }, fault))).toMatchObject({ verdict });
  });

  it('of a step should explain the failures of those whom its DP group held, and of nobody else', () => {
    const faults: FaultInput[] = [{ kind: 'step-fails', npu: 1 }];
    const failing = [{ kind: 'step-fails', phase: 'time', struck: true, effect: 1, failing: { message: stepFailure(1), calls: ['cmpl-2'] } }] as const;
    const failed = (id: string, npu: number): CallReport => ({ id, code: 'worker_failed', message: stepFailure(npu), tokens: 0, chunks: 0, wrong: [] });
    const violations = (report: CallReport): number => violationsOfCall(parsePlan(plan(SPLIT, ...faults)), failing, 1, report).length;
    expect([violations(failed('cmpl-2', 1)), violations(failed('cmpl-1', 1)), violations(failed('cmpl-2', 0))]).toEqual([0, 1, 1]);
  });

  it('of what the pod does not have should be refused', async () => {
    await expect(chaos.run(plan(SPLIT, { kind: 'worker-lost', worker: 2 }))).rejects.toMatchObject({ code: 'invalid_request', param: 'faults' });
    await expect(chaos.run(plan(SPLIT, { kind: 'link-cut', from: 1, to: 1, for_ms: 1 }))).rejects.toThrow(/from and to are both 1/);
    await expect(chaos.run({ calls: [], faults: [] })).rejects.toMatchObject({ code: 'invalid_request', param: 'calls' });
    await expect(chaos.run(plan(SPLIT, { kind: 'client-gone', call: 3 }))).rejects.toThrow(/client-gone names call 3, and the plan has 3/);
  });
});

it('should be survived by a pod that is changing its shape, and that drafts', async () => {
  const { violations, faults } = await chaos.run({
    ...plan(
      {
        topology: 'moe-attention:domains=1x1,experts=2',
        workers: 2,
        scale_max: { attention: 2, experts: 4 },
        hash_foreseeable: 0.7,
        speculative_config: { method: 'mtp', num_speculative_tokens: 2 },
      },
      { kind: 'worker-lost', worker: 1, at: { phase: 'scaling', nth: 2 } },
    ),
    shapes: [{ ms: 0.05, attention: 2, experts: 4 }],
  });
  expect(violations).toEqual([]);
  expect(faults[0]?.effect).toBeGreaterThan(0);
});

it('what a job executor was to take over that is lost before it has, another takes over', async () => {
  const calls = [33, 1, 1, 1, 33, 33, 1].map((prompt_tokens, key) => ({ key, prompt_tokens, max_tokens: 24 }));
  // The first one is busy with the first loss, so the second loss is the third one's, which is lost.
  const faults: FaultInput[] = [
    { kind: 'message-delayed', type: 'TAKE_OVER', delay_ms: 20, at: { ms: 0 }, for_ms: 500 },
    ...[0.3, 0.4, 0.6].map((ms, worker): FaultInput => ({ kind: 'controllers-lost', worker, at: { ms } })),
  ];
  const report = await chaos.run({ seed: 3, pod: { topology: 'colocated:dp=4', workers: 3, job_executors: 4 }, calls, faults });
  expect(report.violations).toEqual([]);
  expect(report.faults.every(({ effect }) => effect > 0)).toBe(true);
});

it.each([
  ['ends before its prefill does', 2, 5],
  ['decodes when its prefill hands over', 24, 1.83],
  ['computes its prompt when its prefill hands over', 24, 1.81],
])('a decode group that is scaled away before there is a first token hands back what begins anew elsewhere: it %s', async (_, max_tokens, for_ms) => {
  const { violations, calls } = await chaos.run({
    seed: 5822,
    pod: {
      ...{ topology: 'pd:prefill=1xdp2,decode=1xdp2', scale_max: { executor: 1, attention: 3 }, kv_transfer: 'layer' },
      ...{ load_balancing: 'cost_model', long_prompt_groups: 1, long_prompt_tokens: 30 },
    },
    calls: [{ key: 10, prompt_tokens: 33, max_tokens }],
    shapes: [{ ms: 1.8, executor: 1, attention: 1, deadline_ms: 5 }],
    faults: [{ kind: 'npu-hangs', npu: 0, at: { phase: 'admission', there: true }, for_ms }],
  });
  expect(violations).toEqual([]);
  expect(calls[0]).toMatchObject({ code: 'finished', tokens: max_tokens });
});

it('a run leaves its trace, of a model that is read to its end', async () => {
  using folder = traceFolder();
  const record = folder.file('run.trace');
  const { verdict } = await chaos.run({ pod: { kernels: 'real' }, calls: [{ max_tokens: 2 }] }, { record });
  expect(verdict).toBe('held');
  expect(statSync(record).size).toBeGreaterThan(1_000);
});

it('strikes who has just been told, if it is to strike there', () => {
  const { npus, ...deployment } = deploy(parseTopology('pd:prefill=1,decode=2'));
  const directory = new Directory({ deployment: { npus, ...deployment }, workers: 3, spare_workers: 0, worker_of_npu: [0, 1, 2], job_executors: 4 });
  const at = { phase: 'kv-transfer', nth: 1, there: true } as const;
  const mail = { to: 'dp-group/2', from: 'npu/2', message: { type: 'OFFERED' }, cause: 0 } as unknown as Mail;
  const struck = (fault: FaultInput, to: Address = mail.to, from: Address = mail.from): unknown =>
    struckBy(parsePlan({ calls: [{}], faults: [fault] }).faults[0] as Fault, { ...mail, to, from }, directory);
  expect(struck({ kind: 'worker-lost', worker: 0, at })).toMatchObject({ worker: 2 });
  expect(struck({ kind: 'npu-hangs', npu: 0, at, for_ms: 1 })).toMatchObject({ npu: 2 });
  expect(struck({ kind: 'task-executor-hangs', id: 0, at, for_ms: 1 })).toMatchObject({ id: 2 });
  expect(struck({ kind: 'job-executor-hangs', id: 1, at, for_ms: 1 })).toMatchObject({ id: 1 });
  expect(struck({ kind: 'npu-crashes', npu: 0, at })).toMatchObject({ npu: 2 });
  expect(struck({ kind: 'job-executor-crashes', id: 1, at }, 'job-executor/0')).toMatchObject({ id: 0 });
  expect(struck({ kind: 'job-executor-crashes', id: 1, at }, 'job-executor/2')).toMatchObject({ id: 2 });
  expect(struck({ kind: 'link-cut', from: 'control', to: 0, at, for_ms: 1 })).toMatchObject({ from: 'control', to: 0 });
  expect(struck({ kind: 'link-cut', from: 'control', to: 0, at, for_ms: 1 }, 'dp-group/0', 'npu/2')).toMatchObject({ from: 2, to: 0 });
  expect(struck({ kind: 'worker-lost', worker: 0, at }, 'task-executor/2')).toMatchObject({ worker: 0 });
});

it('a message that is corrupted differs in one value, wherever in it that lies', () => {
  const message = { type: 'ENQUEUE', task: 'task/1', sequence: { prompt: [3, 4], sampling: { temperature: 0.5, greedy: false } }, handoff: null };
  const seen = new Set<string>();
  for (let seed = 0; seed < 64; seed++) {
    const random = new SeededRandom(seed, 0);
    const other = corrupted(message as never, (limit) => random.below(limit)) as unknown as typeof message;
    const parts = ({ type, task, sequence: { prompt, sampling }, handoff }: typeof message) => [
      type,
      handoff,
      task,
      ...prompt,
      sampling.temperature,
      sampling.greedy,
    ];
    const changed = parts(message).flatMap((value, index) => (parts(other)[index] === value ? [] : [index]));
    expect(changed).toHaveLength(1);
    seen.add(`${changed}`);
  }
  expect([...seen].sort()).toEqual(['2', '3', '4', '5', '6']);
  expect(corrupted({ type: 'DRAIN' } as never, () => 0)).toBe(null);
});

describe('calls, changes of shape and rebalances', () => {
  it('should come in their time, and a pod that fails meanwhile should be told of to those that come later', async () => {
    const late = { ...plan({ topology: 'colocated:dp=2', expert_balancing: { redundant_slots: 2, period_ms: 1_000 } }), rebalances: [{ ms: 1 }, { ms: 1.01 }] };
    const held = await chaos.run({ ...late, calls: CALLS.map((call, index) => ({ ...call, ms: 3 * index })) });
    expect(held.verdict).toBe('held');
    expect(held.calls_ended_ms).toBeGreaterThan(6);
    const gone = await chaos.run({ ...plan(SPLIT, { kind: 'client-gone', call: 0 }), calls: CALLS.map((call, index) => ({ ...call, ms: index })) });
    expect(gone.calls.map(({ code }) => code)).toEqual(['cancelled', 'finished', 'finished']);
    const failed = await chaos.run({
      ...plan(SPLIT, { kind: 'message-duplicated', type: 'STEP_DONE', within_threads: true, at: { ms: 0 }, for_ms: 500 }),
      calls: CALLS.map((call, index) => ({ ...call, ms: 100 * index })),
    });
    expect(failed.calls.map(({ code }) => code)).toEqual(['finished', 'internal', 'internal']);
  });
});

it('KV that goes layer by layer should come, though controllers beside the NPU that computes it are lost meanwhile', async () => {
  const { violations, faults, virtual_ms } = await chaos.run({
    seed: 266,
    pod: { topology: 'mixed:colocated=1xdp3,prefill=1xdp2oproj2,decode=1xdp2oproj2', workers: 7, kv_transfer: 'layer' },
    calls: [
      { key: 4, ms: 2.79, prompt_tokens: 1, max_tokens: 8, n: 3, top_k: 3 },
      { key: 3, ms: 1.6, prompt_tokens: 1, max_tokens: 2, n: 3 },
    ],
    faults: [{ kind: 'controllers-lost', worker: 3, at: { phase: 'kv-transfer', nth: 2, there: true } }],
  });
  expect(violations).toEqual([]);
  expect(faults).toMatchObject([{ struck: true, effect: 1 }]);
  expect(virtual_ms).toBeLessThan(10_000);
});

describe('a request that had no room for its record', () => {
  it('should be told to have failed when its job executor is lost', async () => {
    const { calls, violations } = await chaos.run({
      seed: 1664,
      pod: { topology: 'pd:prefill=1xdp2,decode=2', workers: 2, kv_fabric: 'tcp', kv_lease_ms: 20, kv_blocks: 17, max_batch_tokens: 8, max_queued: 3 },
      calls: [
        { key: 1, prompt_tokens: 17, max_tokens: 5, n: 2, deadline_ms: 2 },
        { key: 23, prompt_tokens: 3, max_tokens: 5 },
        { key: 22, prompt_tokens: 17, max_tokens: 5 },
        { key: 12, prompt_tokens: 33, max_tokens: 2 },
        { key: 1, prompt_tokens: 33, max_tokens: 2, n: 2 },
      ],
      faults: [{ kind: 'controllers-lost', worker: 1, at: { phase: 'prefill' } }],
    });
    expect(violations).toEqual([]);
    expect(calls.map(({ code }) => code)).toContain('worker_failed');
  });
});

it('a loop that will never look again is found in a pod at rest, and so is one that is amid something', async () => {
  const options = { topology: 'colocated:dp=2', expert_balancing: { period_ms: 10, redundant_slots: 2 } } as const;
  await using pod = await createVirtualPod({ clock: 'virtual', kernels: 'hash', ...options });
  const { control } = pod;
  const after = (ms: number): void => {
    control.host.later(ms * 1e6, () => {});
    while (control.step());
  };
  after(4_000);
  expect(deadLoops(control)).toEqual([]);
  const goOn = control.host.hold(({ message }) => message.type === 'PERIOD_OVER' || message.type === 'LEASE_DUE');
  after(4_000);
  expect(deadLoops(control)).toEqual([
    'expert-map/0 is stable, and will never look again: it has no timer period',
    'cluster-manager/0 is leading, and will never look again: it has no timer lease',
    'cluster-manager/1 is standby, and will never look again: it has no timer lease',
  ]);
  control.host.hold(({ message }) => message.type === 'LOADS_COLLECTED' || message.type === 'STATE_OVERDUE');
  goOn();
  after(100);
  expect(deadLoops(control)).toContain('expert-map/0 is collecting, and nothing is left to happen');
});
