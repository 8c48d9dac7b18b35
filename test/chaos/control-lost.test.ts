/** Plans that cost a pod its control thread: what runs goes on in the pod that begins in its place, and so does the plan. */
import { expect, it } from 'vitest';
import { type ChaosPlanInput, chaos, type FaultInput } from '../../src/chaos/index.ts';
import { CALLS, HALVES, plan, SPLIT } from './small-plans.ts';

it.each<[ChaosPlanInput['pod'], FaultInput]>([
  [SPLIT, { kind: 'control-lost', at: { phase: 'kv-transfer' } }],
  [HALVES, { kind: 'control-lost', successor_ms: 5, at: { ms: 0.05 } }],
  [SPLIT, { kind: 'task-executor-crashes', id: 1, at: { phase: 'admission' } }],
  [SPLIT, { kind: 'job-executor-crashes', id: 0, at: { ms: 0 } }],
  [SPLIT, { kind: 'task-executor-hangs', id: 0, at: { phase: 'decode' }, for_ms: 60_000 }],
  [SPLIT, { kind: 'job-executor-hangs', id: 0, at: { phase: 'admission' }, for_ms: 60_000 }],
  [SPLIT, { kind: 'cluster-manager-crashes', id: 0, at: { phase: 'prefill' } }],
])('a lost control thread costs no call: %o %o', async (pod, fault) => {
  const { violations, faults, calls } = await chaos.run(plan(pod, fault));
  expect(violations).toEqual([]);
  expect(faults).toMatchObject([{ kind: fault.kind, struck: true }]);
  expect(faults[0]?.effect).toBeGreaterThan(0);
  expect(new Set(calls.map(({ code }) => code))).toEqual(new Set(['finished']));
});

it('what a plan has in store comes in the pod that begins when the control thread is lost, after as long as it had to wait still', async () => {
  const report = await chaos.run({
    ...plan(
      { topology: 'moe-attention:domains=1x1,experts=2', workers: 2, scale_max: { attention: 2, experts: 4 }, expert_balancing: { redundant_slots: 4 } },
      { kind: 'control-lost', successor_ms: 700, at: { ms: 0.1 } },
      { kind: 'npu-slow', npu: 0, factor: 50, at: { ms: 0 }, for_ms: 60_000 },
      { kind: 'npu-slow', npu: 0, factor: 50, at: { ms: 0.12 }, for_ms: 3 },
      { kind: 'controllers-lost', worker: 0, at: { phase: 'takeover' } },
      { kind: 'worker-lost', worker: 1, at: { phase: 'scaling', nth: 2 } },
    ),
    calls: CALLS.map((call, index) => ({ ...call, ms: [0, 1, 702][index] as number })),
    shapes: [{ ms: 1.5, attention: 2, experts: 4 }],
    rebalances: [{ ms: 1.2 }],
  });
  expect(report.violations).toEqual([]);
  expect(report.faults.map(({ struck, effect }) => struck && effect > 0)).toEqual([true, true, true, true, true]);
  expect(report.calls_ended_ms).toBeGreaterThan(702);
  // What was slow when it was lost is so no more.
  expect(report.virtual_ms).toBeLessThan(30_000);
});
