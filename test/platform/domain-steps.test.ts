/** When steps of DP domains begin and end on a virtual clock. */
import { expect, it } from 'vitest';
import { DomainSteps, type WaitingStep } from '../../src/platform/domain-steps.ts';
import { address } from '../../src/protocol/address.ts';
import { deploy, parseTopology } from '../../src/protocol/topology.ts';

type Happening = { readonly at: number; readonly act: () => void };

function makeDomains(topology: string, duration_ns: (npu: number) => number) {
  let now = 0;
  const queue: Happening[] = [];
  const log: string[] = [];
  const nameOf = ({ npu, plan }: WaitingStep): string => `${npu}:${plan.step}`;
  const steps = new DomainSteps(
    { schedule: 'domains', deployment: deploy(parseTopology(topology)) },
    {
      now_ns: () => now,
      later: (delay_ns, act) => queue.push({ at: now + delay_ns, act }),
      durationOf: ({ npu }) => duration_ns(Number(npu.split('/')[1])),
      begin: (together, done_ns) => log.push(`${now}–${done_ns} ${together.map(nameOf).join(' ')}`),
    },
  );
  const launch = (npu: number, step: number): boolean =>
    steps.launch({ npu: address('npu', npu), plan: { step, after: 0, entries: [], detach: [] }, cause: 0 });
  const runUntil = (end: number): void => {
    for (;;) {
      queue.sort((a, b) => a.at - b.at);
      const next = queue[0];
      if (next === undefined || next.at > end) break;
      queue.shift();
      now = next.at;
      next.act();
    }
    now = end;
  };
  return { steps, launch, runUntil, log };
}

it('steps of a domain should begin together, when its iteration has ended, and take as long as the longest; other domains do not wait', () => {
  const { launch, runUntil, log } = makeDomains('moe-attention:domains=2x2,experts=2', (npu) => (npu === 1 ? 100 : 10));
  expect(launch(0, 1)).toBe(true);
  launch(0, 2);
  runUntil(5);
  launch(1, 1);
  launch(2, 1);
  runUntil(400);
  launch(0, 3);
  expect(log).toEqual(['0–10 npu/0:1', '5–15 npu/2:1', '10–110 npu/0:2 npu/1:1', '400–410 npu/0:3']);
});

it('a step should not begin when its NPU has been reset before', () => {
  const { steps, launch, runUntil, log } = makeDomains('moe-attention:domains=1x2,experts=2', () => 10);
  launch(0, 1);
  launch(1, 1);
  launch(0, 2);
  steps.reset('npu/0');
  runUntil(100);
  expect(log).toEqual(['0–10 npu/0:1', '10–20 npu/1:1']);
});

it('NPUs of other executors should not wait for anybody', () => {
  const { launch } = makeDomains('pd:prefill=1,decode=1xdomains1x2experts2', () => 10);
  expect(launch(0, 1)).toBe(false);
  expect(launch(1, 1)).toBe(true);
});
