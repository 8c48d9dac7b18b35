/** What is judged is judged right: what is promised to go wrong is no violation, and what comes later than it may is one. */
import { describe, expect, it } from 'vitest';
import type { Span } from '../../src/chaos/call-times.ts';
import { parsePlan } from '../../src/chaos/fault-plan.ts';
import { FullRing } from '../../src/chaos/full-ring.ts';
import { type CallReport, type ChaosPlanInput, chaos, type FaultInput } from '../../src/chaos/index.ts';
import { violationsOfCall } from '../../src/chaos/invariants.ts';
import { lateEnds } from '../../src/chaos/lateness.ts';
import { type RunOptions, runPlan } from '../../src/chaos/run.ts';
import { Undisturbed } from '../../src/chaos/undisturbed.ts';
import { readTrace, traceFolder } from '../trace/files.ts';

const TWO_GROUPS = { topology: 'colocated:dp=2', workers: 2 };

describe('rows that go bad again and again', () => {
  const flips = (times: number): FaultInput[] => Array.from({ length: times }, () => ({ kind: 'row-bit-flip', npu: 0, at: { ms: 0 } }));

  it.each([
    [8, TWO_GROUPS, 'finished'],
    [9, TWO_GROUPS, 'worker_failed'],
    [64, { topology: 'moe-attention:domains=1x2,experts=2', schedule: 'domains' }, 'worker_failed'],
  ])('%i times in a row, of %o, should have a call end as it is said to: %s', async (times, pod, end) => {
    const { calls, violations } = await chaos.run({ pod, calls: [{ prompt_tokens: 8, max_tokens: 4 }], faults: flips(times) });
    expect([calls.map(({ code }) => code), violations]).toEqual([[end], []]);
  });

  it('should explain no failure if it was more seldom', () => {
    const message = 'rows of NPU 0 were 9 times in one step not what was left there';
    const report: CallReport = { id: 'cmpl-1', code: 'worker_failed', message, tokens: 0, chunks: 0, wrong: [] };
    const violations = (times: number): number => {
      const plan = parsePlan({ pod: TWO_GROUPS, calls: [{}], faults: flips(times) });
      const effective = plan.faults.map(({ kind }) => ({ kind, phase: 'time' as const, struck: true, effect: 1 }));
      return violationsOfCall(plan, effective, 0, report).length;
    };
    expect([violations(8), violations(9)]).toEqual([1, 0]);
  });
});

const run = async (plan: ChaosPlanInput, plant: NonNullable<RunOptions['plant']>) => {
  await using undisturbed = new Undisturbed();
  return await runPlan(parsePlan(plan), undisturbed, { plant });
};

describe('who hangs for a minute and is not given up', () => {
  const hang = (fault: object): ChaosPlanInput => ({
    pod: { ...TWO_GROUPS, job_executors: 2 },
    calls: [1, 2, 3, 4].map((key) => ({ key, prompt_tokens: 17, max_tokens: 9 })),
    faults: [{ at: { phase: 'dispatch' }, for_ms: 60_000, ...fault } as FaultInput],
  });

  it.each([
    { kind: 'worker-hangs', worker: 1 },
    { kind: 'npu-hangs', npu: 1 },
    { kind: 'dp-group-hangs', id: 1 },
    { kind: 'job-executor-hangs', id: 1, at: { phase: 'admission' } },
    { kind: 'task-executor-hangs', id: 0, at: { phase: 'admission' } },
  ])('should be lost progress, though all calls end at last: %o', async (fault) => {
    const { verdict, calls, given_up } = await run(hang(fault), ({ workers }) => {
      workers.suspicions.hear = () => {};
    });
    expect([verdict, given_up, new Set(calls.map(({ code }) => code))]).toEqual(['lost progress', 0, new Set(['finished'])]);
  });

  it('should be none of it where nobody could have told, since whoever asks hangs as long', async () => {
    const { faults = [], ...plan } = hang({ kind: 'worker-hangs', worker: 1 });
    const asker: FaultInput = { kind: 'task-executor-hangs', id: 0, at: { phase: 'dispatch' }, for_ms: 60_000 };
    const { violations } = await chaos.run({ ...plan, faults: [...faults, asker] });
    expect(violations).toEqual([]);
  });
});

describe('a leader that hangs', () => {
  const hung = (for_ms: number): ChaosPlanInput => ({
    pod: TWO_GROUPS,
    calls: [{ max_tokens: 4 }],
    faults: [{ kind: 'cluster-manager-hangs', id: 0, at: { ms: 0 }, for_ms }],
  });
  /** Its lease runs on for weeks, unless it is renewed. */
  const plant: NonNullable<RunOptions['plant']> = ({ space }) => {
    const { words, at } = space.control.lease;
    words[at] = (words[at] as bigint) | (0x7fff_ffffn << 32n);
  };

  it.each([
    [7_000, 'lost progress'],
    [5_000, 'held'],
  ])('for %i ms and that nobody follows should be lost progress where that is long enough: %s', async (for_ms, verdict) => {
    expect((await run(hung(for_ms), plant)).verdict).toBe(verdict);
    expect((await chaos.run(hung(for_ms))).violations).toEqual([]);
  });
});

describe('a call with a deadline', () => {
  const late: ChaosPlanInput = {
    pod: { ...TWO_GROUPS, job_executors: 3 },
    calls: Array.from({ length: 6 }, (_, key) => ({ key, prompt_tokens: 40, max_tokens: 24, deadline_ms: 50 })),
    faults: [{ kind: 'controllers-lost', worker: 0, at: { phase: 'decode', nth: 2 } }],
  };

  it('that goes on elsewhere without a timer should be lost progress, whether or not it ends in time', async () => {
    const { verdict, violations } = await run(late, ({ host }) => {
      const hasTimer = host.hasTimer.bind(host);
      host.hasTimer = (owner, id) => id !== 'deadline' && hasTimer(owner, id);
    });
    expect([verdict, violations[0]?.what]).toEqual(['lost progress', expect.stringMatching(/went on as another request without a timer/)]);
    expect((await chaos.run(late)).violations).toEqual([]);
  });

  it('should have ended soon after it, and what holds it up may make it so much longer', () => {
    const cut = { kind: 'link-cut' as const, from: 0, to: 1, both: true, at: { ms: 0 }, for_ms: 200 };
    const skew = { kind: 'clock-skew' as const, thread: 0, factor: 3, at: { ms: 0 }, for_ms: 500 };
    const violations = (until_ms: number, faults: FaultInput[], struck = true, goes_on_ms = 0, gaps: Span[] = []): number => {
      const span = { since_ms: 10, until_ms };
      const reports = faults.map(() => ({ struck }));
      return lateEnds(parsePlan({ calls: [{ deadline_ms: 50 }], faults }), reports, [{ span, isUnwatched: false }], gaps, goes_on_ms).length;
    };
    expect([violations(62, []), violations(100, []), violations(Number.POSITIVE_INFINITY, [])]).toEqual([0, 1, 1]);
    expect([violations(270, [cut]), violations(270, [cut], false), violations(300, [cut]), violations(300, [cut], true, 40)]).toEqual([0, 1, 1, 0]);
    expect([violations(162, [skew]), violations(200, [skew])]).toEqual([0, 1]);
    // What there was no pod for matters at the end of its time alone, and what is later than the end at that.
    const gap = (since_ms: number, until_ms: number): Span => ({ since_ms, until_ms });
    const endsAt = (until_ms: number, ...gaps: Span[]): number => violations(until_ms, [], true, 0, gaps);
    expect([endsAt(82, gap(20, 55)), endsAt(70, gap(20, 55)), endsAt(1_010, gap(50, 1_000)), endsAt(1_030, gap(50, 1_000))]).toEqual([1, 0, 0, 1]);
    expect([endsAt(1_010, gap(20, 55), gap(75, 1_000)), endsAt(1_010, gap(20, 55), gap(100, 1_000))]).toEqual([0, 1]);
  });

  it('should wait for KV that is on its way, as long as that takes', async () => {
    // Seed 1441: a live pod calls it off; on a virtual clock it lies there already, and is told of later.
    const pod = { topology: 'pd:prefill=1,decode=1', link_bytes_per_s: 20_000 };
    const { calls, violations } = await chaos.run({ pod, calls: [{ prompt_tokens: 1, max_tokens: 2, deadline_ms: 2 }] });
    expect([calls.map(({ code }) => code), violations]).toEqual([['deadline_exceeded'], []]);
  });
});

const split = (...faults: FaultInput[]): ChaosPlanInput => ({
  seed: 5,
  pod: { topology: 'pd:prefill=1,decode=1', workers: 2, job_executors: 3 },
  calls: [
    { key: 1, prompt_tokens: 40, max_tokens: 9 },
    { key: 2, prompt_tokens: 17, max_tokens: 5, n: 2 },
    { key: 3, prompt_tokens: 33, max_tokens: 9 },
  ],
  faults,
});

it('a run whose disk fills up leaves the beginning of its trace, and with room for it all of it', async () => {
  using folder = traceFolder();
  const recorded = async (name: string, ...faults: FaultInput[]) => {
    const report = await chaos.run(split(...faults), { record: folder.file(name) });
    expect(report.violations).toEqual([]);
    return { ...readTrace(folder.file(name)), effects: report.faults.map(({ effect }) => effect) };
  };
  const full = (bytes: number): FaultInput => ({ kind: 'trace-disk-full', bytes, at: { event: 1 } });
  const [all, cut, roomy] = [await recorded('all'), await recorded('cut', full(5_000)), await recorded('roomy', full(1e9))];
  expect([cut.damage?.kind, cut.effects, roomy.damage, roomy.effects]).toEqual(['unfinished', [1], null, [0]]);
  expect(cut.records.length).toBeGreaterThan(0);
  expect(cut.records).toEqual(all.records.slice(0, cut.records.length));
  expect(roomy.identity).toEqual(all.identity);
});

it('what finds no room in a ring waits in its order, and no longer than the ring has little room', () => {
  const ring = new FullRing({ kind: 'ring-full', from: 0, to: 1, frames: 2, every_ms: 1, at: { ms: 0 }, for_ms: 4 }, 0);
  const ms = (at: number): number => ring.takenAt(at * 1e6) / 1e6;
  expect([0, 0, 0, 1.5].map(ms)).toEqual([1, 2, 3, 4]);
  // At first there was room for two; when the fourth came, one had been taken of three.
  expect(ring.waited).toBe(2);
  expect([2, 2, 3.5, 9].map(ms)).toEqual([4, 4, 4, 9]);
});
