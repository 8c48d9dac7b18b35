/** Clients that leave: wherever their request is, what was kept for it is given back. */
import { expect, it } from 'vitest';
import { parsePlan } from '../../src/chaos/fault-plan.ts';
import { chaos, type FaultInput } from '../../src/chaos/index.ts';
import { type RunReport, runPlan } from '../../src/chaos/run.ts';
import { Undisturbed } from '../../src/chaos/undisturbed.ts';

const SPLIT = { topology: 'pd:prefill=1,decode=1', workers: 2, job_executors: 3 };

it.each<[string, Partial<FaultInput>]>([
  ['as soon as it has asked', { after_chunks: 0 }],
  ['while it is asked whether it is let in', { at: { phase: 'admission' } }],
])('a client that leaves %s should meet its request before it is let in, and what admission then leaks be found', async (_, when) => {
  await using undisturbed = new Undisturbed();
  const met: string[] = [];
  const asked = parsePlan({ seed: 5, pod: SPLIT, calls: [{ prompt_tokens: 40 }], faults: [{ kind: 'client-gone', call: 0, ...when } as FaultInput] });
  const run = (leaks: boolean): Promise<RunReport> =>
    runPlan(asked, undisturbed, {
      plant: ({ host }) => {
        host.hold(({ to, message }) => {
          if (to.startsWith('request/') && message.type === 'CANCEL') met.push(host.cast.stateOf(to) as string);
          return leaks && message.type === 'LEAVE' && met.length > 0;
        });
      },
    });
  const { violations, faults } = await run(false);
  expect(violations).toEqual([]);
  expect(faults).toMatchObject([{ struck: true, effect: 1, call: 0 }]);
  expect(met).toEqual(['received']);
  expect((await run(true)).violations).toMatchObject([{ verdict: 'wrong result', what: expect.stringContaining('admission counts') }]);
});

it('a client that is to leave at a step whose DP group is lost at that moment should stay', async () => {
  const lost: FaultInput = { kind: 'expert-lost', executor: 0, expert: 13, copy: 0, at: { phase: 'dispatch', nth: 2 } };
  const gone: FaultInput = { kind: 'client-gone', call: 0, at: { phase: 'dispatch', nth: 2, there: true } };
  const { violations } = await chaos.run({ seed: 9330, calls: [{ prompt_tokens: 1, max_tokens: 2 }], faults: [lost, gone] });
  expect(violations).toEqual([]);
});
