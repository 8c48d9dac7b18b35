/** Parts that hang for longer than the deadline are found, and what they held goes on elsewhere; those that come back before are left alone. */
import { describe, expect, it } from 'vitest';
import { chaos } from '../../src/chaos/index.ts';

const CALLS = [1, 2, 3, 4].map((key) => ({ key, prompt_tokens: 17, max_tokens: 9 }));
/** As long as a hang may last in a plan, or longer than any test bears. */
const FOR_EVER_MS = 60_000;
const FOUND_WITHIN_MS = 500;

const HANGS = {
  'a colocated pod': [
    { topology: 'colocated:dp=2', workers: 2 },
    [
      { kind: 'npu-hangs', npu: 1 },
      { kind: 'worker-hangs', worker: 1 },
      { kind: 'dp-group-hangs', id: 1 },
    ],
  ],
  'prefill and decode': [
    { topology: 'pd:prefill=2,decode=2', workers: 4 },
    [
      { kind: 'npu-hangs', npu: 0 },
      { kind: 'worker-hangs', worker: 3 },
      { kind: 'dp-group-hangs', id: 2 },
    ],
  ],
  'experts on NPUs of their own': [
    { topology: 'moe-attention:domains=1x2,experts=2', workers: 2 },
    [
      { kind: 'npu-hangs', npu: 3 },
      { kind: 'npu-hangs', npu: 0 },
      { kind: 'worker-hangs', worker: 0 },
    ],
  ],
} as const;

const run = (pod: object, fault: object, for_ms: number, at: object) => chaos.run({ pod, calls: CALLS, faults: [{ ...fault, at, for_ms }] } as never);

describe.each(Object.entries(HANGS))('%s', (_, [pod, faults]) => {
  it.each(faults.flatMap((fault) => (['admission', 'dispatch'] as const).map((phase) => ({ ...fault, phase }))))(
    'goes on with the same tokens, not waiting for who hangs: %o',
    async ({ phase, ...fault }) => {
      const { violations, faults: reports, given_up, calls_ended_ms } = await run(pod, fault, FOR_EVER_MS, { phase });
      expect(violations).toEqual([]);
      expect(reports[0]?.struck).toBe(true);
      expect(given_up).toBe(1);
      expect(calls_ended_ms).toBeLessThan(FOUND_WITHIN_MS);
    },
  );

  it.each([...faults])('gives nobody up that hangs for a moment: %o', async (fault: object) => {
    const { violations, given_up } = await run(pod, fault, 100, { phase: 'dispatch' });
    expect([violations, given_up]).toEqual([[], 0]);
  });
});

it('a DP group that hangs is given up though the expert map goes on asking its NPU for loads', async () => {
  const pod = { topology: 'colocated:dp=2', workers: 2, expert_balancing: { redundant_slots: 6, period_ms: 10, windows: 1 } };
  const { violations, given_up } = await run(pod, { kind: 'dp-group-hangs', id: 1 }, 500, { phase: 'dispatch' });
  expect([violations, given_up]).toEqual([[], 1]);
});

it('who hangs and has nothing to do is found while others have', async () => {
  const { violations, faults, given_up } = await chaos.run({
    pod: { topology: 'pd:prefill=1,decode=1', workers: 2 },
    calls: [{ key: 1, prompt_tokens: 17, max_tokens: 60 }],
    faults: [
      { kind: 'npu-slow', npu: 1, factor: 1_000, at: { ms: 0 }, for_ms: FOR_EVER_MS },
      { kind: 'worker-hangs', worker: 0, at: { phase: 'decode', nth: 2 }, for_ms: FOR_EVER_MS },
    ],
  });
  expect([violations, given_up, faults[1]?.struck]).toEqual([[], 1, true]);
});

it('a link to a worker that is cut shows as silence, and its worker is given up', async () => {
  const { violations, given_up } = await run({ topology: 'colocated:dp=2', workers: 2 }, { kind: 'link-cut', from: 0, to: 'control', both: true }, 400, {
    phase: 'decode',
  });
  expect([violations, given_up]).toEqual([[], 1]);
});

it('slow NPUs and slow links are not taken for hanging ones', async () => {
  const pod = { topology: 'colocated:dp=2', workers: 2 };
  for (const fault of [
    { kind: 'npu-slow', npu: 0, factor: 1_000 },
    { kind: 'link-slow', from: 0, to: 'control', factor: 1_000 },
  ]) {
    const { violations, given_up, faults } = await run(pod, fault, FOR_EVER_MS, { phase: 'admission' });
    expect([violations, given_up]).toEqual([[], 0]);
    expect(faults[0]?.effect).toBeGreaterThan(0);
  }
});
