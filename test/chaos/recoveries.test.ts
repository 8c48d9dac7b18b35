/** Pods whose lost workers have no successors: what is left goes on, or ends for want of what is lost, and nothing else explains that; what is done without is what is said. */
import { describe, expect, it } from 'vitest';
import { nativeMap } from '../../actors/policies/expert-placement/native.ts';
import { type ChaosCall, type ChaosPlan, parsePlan } from '../../src/chaos/fault-plan.ts';
import { type CallReport, type ChaosPlanInput, chaos, type FaultInput } from '../../src/chaos/index.ts';
import { violationsOfCall } from '../../src/chaos/invariants.ts';
import { Losses } from '../../src/chaos/losses.ts';
import { MaskedSteps, wrongOfMasked } from '../../src/chaos/masked-reference.ts';
import { isRefusedForLoss } from '../../src/chaos/shape-refusals.ts';
import { Undisturbed } from '../../src/chaos/undisturbed.ts';
import type { PodOptions } from '../../src/options/options.ts';
import { deploy, parseTopology } from '../../src/protocol/topology.ts';
import { NS_PER_MS } from '../../src/runtime/virtual-host.ts';

/** Two attention NPUs on worker 0, and an expert NPU on worker 1 and one on worker 2. */
const APART: ChaosPlanInput['pod'] = { topology: 'moe-attention:domains=1x2,experts=2', npu_workers: [0, 0, 1, 2], workers: 3, respawn: false };
const EXPERTS_APART: ChaosPlanInput['pod'] = { topology: 'moe-attention:domains=1x1,experts=2', workers: 3 };
const ROOM: ChaosPlanInput['pod'] = { expert_balancing: { redundant_slots: 32, period_ms: 1_000_000 } };
const CALLS = [
  { key: 1, prompt_tokens: 40, max_tokens: 9 },
  { key: 3, prompt_tokens: 17, max_tokens: 24, n: 2 },
];
const lost = (worker: number): FaultInput => ({ kind: 'worker-lost', worker, at: { phase: 'decode', nth: 2 } });
const run = (pod: ChaosPlanInput['pod'], ...faults: FaultInput[]) => chaos.run({ seed: 3, pod, calls: CALLS, faults });

it.each([{}, { recovery: 'restart' as const }, { respawn: false }])(
  'a worker may be lost while its controllers alone are, and is then: %o',
  async (options) => {
    const { violations, faults } = await run(
      { topology: 'colocated:dp=2', workers: 2, job_executors: 3, ...ROOM, ...options },
      { kind: 'controllers-lost', worker: 1, at: { phase: 'decode', nth: 2 } },
      { kind: 'worker-lost', worker: 1, at: { phase: 'decode', nth: 6 } },
    );
    expect(violations).toEqual([]);
    expect(faults.map(({ effect }) => effect > 0)).toEqual([true, true]);
  },
);

describe('a pod whose lost workers have no successors', () => {
  it.each<[string, ChaosPlanInput['pod'], number, string]>([
    ['experts find room elsewhere', { ...APART, ...ROOM }, 2, 'finished'],
    ['experts find none', APART, 2, 'experts_lost'],
    ['attention is lost', { ...APART, ...ROOM }, 0, 'groups_lost'],
    ['another group is left', { topology: 'colocated:dp=2', workers: 2, ...ROOM, respawn: false }, 1, 'finished'],
  ])('should go on with what is left, or say what is not, then and afterwards: %s', async (_, pod, worker, code) => {
    const { violations, calls, faults } = await run(pod, lost(worker));
    expect(violations).toEqual([]);
    expect(faults[0]?.effect).toBeGreaterThan(0);
    expect(new Set(calls.map((call) => call.code))).toEqual(new Set([code]));
  });

  it('should undo a step that was launched for who had ended by then, when who waits behind it is let go', async () => {
    const { violations, calls, given_up } = await chaos.run({
      seed: 1862,
      pod: {
        ...{ topology: 'colocated:dp=3', workers: 2, job_executors: 3, hash_foreseeable: 0.7, respawn: false },
        speculative_config: { method: 'mtp', num_speculative_tokens: 2, adaptive: true },
      },
      calls: [
        { ms: 0, key: 0, prompt_tokens: 5, max_tokens: 9 },
        { ms: 0.25, key: 5, prompt_tokens: 10, max_tokens: 5 },
        { ms: 3.1, key: 11, prompt_tokens: 17, max_tokens: 5, n: 2 },
        { ms: 0, key: 9, prompt_tokens: 3, max_tokens: 24 },
        { ms: 0, key: 4, prompt_tokens: 1, max_tokens: 2 },
      ],
      faults: [{ kind: 'worker-hangs', worker: 1, at: { event: 292 }, for_ms: 500 }],
    });
    expect([given_up, calls[2]?.code, violations]).toEqual([1, 'experts_lost', []]);
  });

  it('should keep experts where they found room, when a scale that found fewer of their NPUs is to leave all as it was', async () => {
    // It asked while one was lost and nobody stood in yet: back to that one alone there was no way, and the pod ended by asking for it.
    const { violations, calls, faults } = await chaos.run({
      seed: 398,
      pod: { topology: 'moe-attention:domains=1x2,experts=2', workers: 2, scale_max: { attention: 3, experts: 4 }, scale_min: { experts: 2 }, respawn: false },
      calls: [{ key: 9, prompt_tokens: 1, max_tokens: 5 }],
      shapes: [{ ms: 0.06, attention: 1, experts: 2 }],
      faults: [{ kind: 'cluster-manager-crashes', id: 1, at: { phase: 'dispatch', nth: 2 } }],
    });
    expect([violations, calls[0]?.code, faults[0]?.effect]).toEqual([[], 'finished', 1]);
  });

  it('should compute for want of its group in another one what was to be computed there', async () => {
    const pod = { topology: 'colocated:dp=2', workers: 2, ...ROOM, respawn: false };
    const calls = [{ data_parallel_rank: 1 }, { ms: 2, data_parallel_rank: 1, max_tokens: 4 }];
    const report = await chaos.run({ pod, calls, faults: [{ kind: 'worker-lost', worker: 1, at: { ms: 0.01 } }] });
    expect([report.violations, report.calls.map(({ code }) => code)]).toEqual([[], ['finished', 'finished']]);
  });

  it('should go on in other groups where one has lost columns of its output projections, and end where all have', async () => {
    const pod = { topology: 'colocated:dp=4,oproj=2', workers: 4, ...ROOM, respawn: false };
    const [first, both] = [await run(pod, lost(1)), await run(pod, lost(1), lost(2))];
    expect([first.violations, new Set(first.calls.map(({ code }) => code))]).toEqual([[], new Set(['finished'])]);
    expect([both.violations, new Set(both.calls.map(({ code }) => code))]).toEqual([[], new Set(['groups_lost'])]);
  });

  it.each<[string, ChaosPlanInput['shapes'], FaultInput, string]>([
    ['who stands by has no weights', [{ ms: 30, attention: 2 }], lost(0), 'groups_lost'],
    ['who stood by serves', [{ ms: 0, attention: 2 }], { kind: 'worker-lost', worker: 0, at: { ms: 20 } }, 'finished'],
    ['who stands by is lost', [], lost(1), 'finished'],
  ])('should be left by the groups that serve alone, where their number changes: %s', async (_, shapes, fault, code) => {
    const pod = { ...EXPERTS_APART, workers: 4, scale_max: { attention: 2 }, respawn: false };
    const calls = [...CALLS, { ms: 40 }];
    const report = await chaos.run({ seed: 3, pod, calls, shapes, faults: [fault] });
    expect(report.violations).toEqual([]);
    expect([report.faults[0]?.struck, ...new Set(report.calls.map((call) => call.code))]).toEqual([true, code]);
  });

  it('should be explained by what it lacks, and by nothing else', () => {
    const plan = parsePlan({ pod: { ...APART, ...ROOM }, calls: CALLS, faults: [lost(2)] });
    const wanting: CallReport = { id: 'cmpl-1', code: 'experts_lost', message: '', tokens: 0, chunks: 0, wrong: [] };
    // What groups that are given up had no record of is lost with them.
    const unrecorded: CallReport = {
      ...wanting,
      code: 'worker_failed',
      message: 'the DP group of the request died, and there was no room to record all of it',
    };
    const struck = [{ kind: 'expert-lost', phase: 'decode', struck: true, effect: 0 }] as const;
    const found = (call: CallReport, lacked: boolean): number => violationsOfCall(plan, struck, 0, call, { silent: 0, lacked }).length;
    expect([wanting, unrecorded].flatMap((call) => [found(call, false), found(call, true)])).toEqual([1, 0, 1, 0]);
  });
});

describe('a pod whose lost workers have successors', () => {
  const pod = { ...EXPERTS_APART, expert_balancing: { redundant_slots: 2, period_ms: 1_000_000 } };

  it.each([
    ['has waited for one for five seconds by its own clock', {}, 600, 'experts_lost'],
    ['has not', {}, 400, 'finished'],
    ['waits as long as it takes', { recovery: 'restart' }, 600, 'finished'],
  ])('should lack what is nowhere else when it %s', async (_, recovery, for_ms, code) => {
    const { violations, calls } = await run(
      { ...pod, ...recovery },
      lost(1),
      // Nobody succeeds anybody before all have heard; and timers run ten times as fast.
      { kind: 'link-cut', from: 2, to: 'control', both: false, at: { ms: 0 }, for_ms },
      { kind: 'clock-skew', thread: 'control', factor: 0.1, at: { ms: 0 }, for_ms: 500 },
    );
    expect([violations, new Set(calls.map((call) => call.code))]).toEqual([[], new Set([code])]);
  });

  it.each([
    ['one is waited for no longer', pod, 1, true],
    ['experts stay where they are, so that all are waited for', EXPERTS_APART, 1, false],
    ['whoever held the experts has just been lost', pod, 0, false],
  ])('should lack nothing before, and six seconds later only what nobody waits for: %s', async (_, options, first, hasLacked) => {
    await using undisturbed = new Undisturbed();
    const { control } = await undisturbed.createPod({ kernels: 'hash', ...options } as PodOptions);
    const losses = new Losses(control);
    const lose = (worker: number): void => {
      control.workers.lose(worker, 'the test killed it');
      losses.note();
    };
    lose(first);
    expect([losses.hasLacked(), losses.lacks]).toEqual([false, first === 1]);
    let isOver = false;
    // Nobody tells `losses` of a successor.
    control.host.later(6_000 * NS_PER_MS, () => {
      isOver = true;
    });
    while (!isOver) control.step();
    lose(1);
    expect([losses.hasLacked(), losses.lacks]).toEqual([hasLacked, true]);
  });
});

describe('a pod whose attention NPUs take the roles of lost expert NPUs', () => {
  const SPARED: ChaosPlanInput['pod'] = { topology: 'moe-attention:domains=1x3,experts=2', workers: 5, npu_workers: [0, 1, 2, 3, 4], respawn: false };

  it.each<[string, ChaosPlanInput['pod'], number[], string]>([
    ['one is lost', SPARED, [3], 'finished'],
    ['both are', SPARED, [3, 4], 'finished'],
    ['an attention NPU is lost, too', SPARED, [3, 0], 'finished'],
    ['both are, and an attention NPU: one alone can be spared', SPARED, [3, 4, 0], 'experts_lost'],
    ['it is not to be', { ...SPARED, role_switch: 'never' }, [3], 'experts_lost'],
  ])('should go on while one can be spared, and else say what is lost: %s', async (_, pod, workers, code) => {
    const { violations, calls } = await run(pod, ...workers.map(lost));
    expect(violations).toEqual([]);
    expect(new Set(calls.map((call) => call.code))).toEqual(new Set([code]));
  });

  it.each<[string, ChaosPlanInput['pod'], number[], boolean[]]>([
    ['one is lost', SPARED, [3], [false, false]],
    ['no request waits for it', { ...SPARED, role_switch: 'background' }, [3], [true, false]],
    ['nobody has a worker of its own', { ...SPARED, npu_workers: [0, 1, 0, 0, 1], workers: 2 }, [1], [true, true]],
    ['two are lost, and two can be spared', SPARED, [3, 4], [false, false]],
    [
      'two are lost, and one can be spared',
      { ...SPARED, topology: 'moe-attention:domains=1x2,experts=2', npu_workers: [0, 1, 2, 3], workers: 4 },
      [2, 3],
      [true, true],
    ],
  ])('should lack nothing that comes back: %s', async (_, pod, workers, lacks) => {
    await using undisturbed = new Undisturbed();
    const { control } = await undisturbed.createPod({ kernels: 'hash', ...pod } as PodOptions);
    const losses = new Losses(control);
    for (const worker of workers) control.workers.lose(worker, 'the test killed it');
    losses.note();
    expect([losses.hasLacked(), losses.lacks]).toEqual(lacks);
  });
});

it('a pod whose experts are all lost should wait for what one attention NPU that takes a place has room for, which may be all of them', async () => {
  const pod = { topology: 'moe-attention:domains=1x2,experts=2', workers: 4, ...ROOM, respawn: false };
  const both: FaultInput[] = [
    { kind: 'worker-lost', worker: 1, at: { ms: 0.01 } },
    { kind: 'worker-lost', worker: 3, at: { ms: 0.012 } },
  ];
  const { violations, calls } = await chaos.run({ seed: 2_304, pod, calls: [{ key: 4, prompt_tokens: 3, max_tokens: 5 }], faults: both });
  expect(violations).toEqual([]);
  expect(calls[0]?.code).toBe('finished');
});

it('an attention NPU whose worker has just lost its controllers takes a place when they are back', async () => {
  const pod = { topology: 'moe-attention:domains=2x1,experts=2', workers: 3, npu_workers: [0, 1, 2, 1], job_executors: 4, respawn: false };
  const { violations, calls } = await chaos.run({
    seed: 96,
    pod,
    calls: [{ key: 4, prompt_tokens: 40, max_tokens: 5 }],
    faults: [
      { kind: 'controllers-lost', worker: 0, at: { phase: 'admission' } },
      { kind: 'worker-lost', worker: 2, at: { ms: 0.01 } },
    ],
  });
  expect(violations).toEqual([]);
  expect(calls[0]?.code).toBe('finished');
});

describe('a change to more than is left', () => {
  const refused = (asked: number, left: number, which: string): string =>
    `experts: ${asked} expert NPUs are more than the ${left} that are left of 4: expert NPU${which} lost, and nobody takes the place`;

  it('should be refused, which is no violation', async () => {
    const pod = { ...APART, respawn: true, rehome_after_ms: 1, scale_max: { attention: 2, experts: 2 }, scale_min: { experts: 1 } };
    const calls = [...CALLS, { ms: 5 }];
    const shapes = [{ ms: 4, experts: 2 }];
    const report = await chaos.run({ seed: 3, pod, calls, shapes, faults: [{ kind: 'worker-lost', worker: 2, at: { ms: 2 } }] });
    expect([report.violations, report.faults[0]?.struck]).toEqual([[], true]);
  });

  it('should be explained by the loss of what it names, and by nothing else', () => {
    const losses = { wasLost: (npu: number) => npu === 4, groupWasLost: (group: number) => group === 1, allServingWereLost: () => false };
    const explains = (message: string): boolean => isRefusedForLoss(message, losses);
    expect(explains(refused(4, 3, ' 4 is'))).toBe(true);
    expect(explains('attention: 2 DP groups are more than the 1 that are left of 2: DP group 1 is lost, and nobody takes the place')).toBe(true);
    const others = [refused(4, 3, ' 3 is'), refused(4, 2, 's 3, 4 are'), refused(3, 3, ' 4 is'), refused(4, 2, ' 4 is'), refused(5, 3, ' 4 is')];
    const another = 'attention: 2 DP groups are more than the 1 that are left of 2: DP group 0 is lost, and nobody takes the place';
    expect([...others, another, 'experts: 4 is no number of expert NPUs'].map(explains)).toEqual(Array.from({ length: 7 }, () => false));
  });
});

describe('a pod that does without lost experts', () => {
  it('should be held against one that has them masked', async () => {
    const { violations, calls } = await run({ ...APART, degraded: true }, lost(2));
    expect(violations).toEqual([]);
    expect(calls.every(({ code }) => code === 'finished')).toBe(true);
    const marked = calls.flatMap(({ told = [] }) => told.map(({ isMarked }) => isMarked.indexOf(true)));
    expect(marked).toHaveLength(3);
    expect(marked.some((from) => from > 0)).toBe(true);
  });

  it.each<[string, ChaosPlanInput['pod'], FaultInput[]]>([
    ['executors of unequal numbers of NPUs', { topology: 'pd:prefill=1xdp2,decode=1xdp3', workers: 5 }, [{ kind: 'worker-lost', worker: 1 }]],
    ['experts in several places', { ...EXPERTS_APART, expert_balancing: { redundant_slots: 10, policy: 'mirrored', period_ms: 10 } }, [lost(1)]],
    ['drafts that MTP layers make', { ...APART, hash_foreseeable: 0.7, speculative_config: { method: 'mtp', num_speculative_tokens: 2 } }, [lost(1)]],
  ])('should be held against one that has those experts masked that it lacks: %s', async (_, pod, faults) => {
    const report = await chaos.run({ seed: 3, pod: { ...pod, respawn: false, degraded: true }, calls: CALLS, faults });
    expect([report.violations, report.calls.some(({ told = [] }) => told.some(({ isMarked }) => isMarked.includes(true)))]).toEqual([[], true]);
  });

  it('should be held against what goes on from the same prompt, where the hash model has tokens that can be foreseen', async () => {
    const { violations, calls } = await chaos.run({
      seed: 10_381,
      pod: { topology: 'moe-attention:domains=3x1,experts=3', workers: 2, hash_foreseeable: 0.7, respawn: false, degraded: true },
      calls: [
        { key: 1, prompt_tokens: 17, max_tokens: 2, n: 3 },
        { key: 2, ms: 0.91, prompt_tokens: 1, max_tokens: 8 },
      ],
      faults: [{ kind: 'worker-lost', worker: 0, at: { ms: 0.96 } }],
    });
    expect(violations).toEqual([]);
    expect(calls[1]?.told?.[0]?.isMarked.indexOf(true)).toBeGreaterThan(0);
  });

  it('should go on from what its caller was told, where the request’s earlier owner has told more since another took it over', async () => {
    const { violations, calls } = await chaos.run({
      seed: 960,
      pod: { ...APART, ...{ topology: 'moe-attention:domains=2x1,experts=2', npu_workers: [0, 1, 0, 1], workers: 2 }, job_executors: 3, degraded: true },
      calls: [
        { key: 11, prompt_tokens: 33, max_tokens: 5, top_k: 2 },
        { key: 2, prompt_tokens: 40, max_tokens: 2 },
      ],
      faults: [
        { kind: 'expert-lost', executor: 0, expert: 2, copy: 1, at: { phase: 'decode', nth: 2 } },
        { kind: 'task-executor-hangs', id: 0, at: { phase: 'takeover', nth: 3 }, for_ms: 500 },
      ],
    });
    expect(violations).toEqual([]);
    // The one that took it over was let go of, and a third went on.
    expect(calls[0]?.told?.[0]?.attempts).toEqual([0, 0, 2, 2, 2]);
  });

  it('should be computed by all experts in the pod that begins when the control thread is lost, and marked on', async () => {
    const { violations, calls, faults } = await run(
      { ...APART, degraded: true },
      lost(2),
      { kind: 'control-lost', successor_ms: 5, at: { phase: 'decode', nth: 12 } },
      { ...lost(1), at: { phase: 'decode', nth: 18 } } as FaultInput,
    );
    expect(violations).toEqual([]);
    expect(faults.every(({ effect }) => effect > 0)).toBe(true);
    const attempts = new Set(calls.flatMap(({ told = [] }) => told.flatMap((one) => one.attempts)));
    expect([...attempts].some((attempt) => attempt >= 4)).toBe(true);
  });

  it('should be held against what it was, where a prefix is found that was computed before', async () => {
    const { violations, calls } = await chaos.run({
      seed: 10_552,
      pod: { topology: 'colocated:dp=4', workers: 4, job_executors: 4, load_balancing: 'cost_model', respawn: false, degraded: true },
      calls: [
        { key: 8, prompt_tokens: 20, stem_tokens: 16, max_tokens: 1 },
        { key: 0, prompt_tokens: 2, max_tokens: 1 },
        { key: 0, prompt_tokens: 1, max_tokens: 1, priority: -2 },
        { key: 11, prompt_tokens: 17, stem_tokens: 16, max_tokens: 2, n: 2, data_parallel_rank: 1 },
      ],
      faults: [
        { kind: 'npu-hangs', npu: 0, at: { phase: 'takeover', nth: 3, there: true }, for_ms: 500 },
        { kind: 'worker-lost', worker: 1, at: { phase: 'decode', nth: 2 } },
      ],
    });
    expect(violations).toEqual([]);
    // One group had computed all of it without some experts; the next one had the stem.
    expect(calls[3]?.told?.map(({ isMarked }) => isMarked)).toContainEqual([false, true]);
  });

  it('should compute all of a sequence anew where memory goes bad, since what lay there alone would be computed without other experts than it was', async () => {
    const { violations, calls, faults } = await chaos.run({
      seed: 498,
      pod: { topology: 'colocated:dp=3', workers: 3, job_executors: 3, respawn: false, degraded: true },
      calls: [
        { prompt_tokens: 1, max_tokens: 1 },
        { key: 4, prompt_tokens: 17, max_tokens: 6 },
      ],
      faults: [
        { kind: 'kv-bit-flip', npu: 0, block: 10, bit: 717, at: { phase: 'takeover' } },
        { kind: 'worker-lost', worker: 1, at: { phase: 'decode', nth: 3 } },
      ],
    });
    expect(violations).toEqual([]);
    expect([faults[0]?.effect, calls[1]?.told?.[0]?.isMarked.indexOf(true)]).toEqual([1, 3]);
  });

  it('should be found where it says something else, or does not say what it is', async () => {
    await using undisturbed = new Undisturbed();
    const plan: ChaosPlan = parsePlan({ pod: { ...APART, degraded: true }, calls: [{ key: 1, prompt_tokens: 3, max_tokens: 6 }] });
    const [call] = plan.calls as [ChaosCall];
    const map = nativeMap({ layers: 4, experts: 32, slots: 32, ranks: 2, nodes: 1, groups: 1 });
    const program = { resolve: (planned: unknown) => planned, start: () => {}, batches: { routing: { map } } };
    const npus = {
      programOf: () => program,
      launch: (launches: { readonly work: { readonly plan: unknown } }[]) => {
        for (const { work } of launches) (program.start as (planned: unknown) => void)(work.plan);
      },
    };
    const steps = new MaskedSteps({ npus, plan: { hosting: { deployment: deploy(parseTopology(APART['topology'] as string)) } } } as never);
    const attach = { request: 1, choice: 0, prompt: [1, 1, 1] };
    const step = (start: number, tokens: number, masked: number[]): void => {
      const entries = [
        { slot: 0, start, tokens: Array.from({ length: tokens }, () => 1), samples: true, shared: 0, drafts: 0, attach: start === 0 ? attach : null },
      ];
      (npus.launch as (launches: unknown) => void)([{ npu: 'npu/0', work: { kind: 'step', plan: { entries, detach: [], masked } }, cause: 0 }]);
    };
    step(0, 3, []);
    for (let position = 3; position < 8; position++) step(position, 1, position > 4 ? [3] : []);
    // NPU 3 has all experts of odd numbers.
    const odd = Array.from({ length: 16 }, (_, index) => 2 * index + 1).join();
    const masks = Array.from({ length: 8 }, (_, position) => (position > 4 ? Array.from({ length: 4 }, () => odd).join('|') : ''));
    const [whole] = await undisturbed.answerOf(plan, call);
    const prompt = Array.from({ length: 3 }, (_, position) => 3 + ((2 * 7_919 + position * 104_729) % 1_500));
    const [right] = await undisturbed.masked(plan, call, prompt, masks);
    expect(right?.tokens.slice(0, 3)).toEqual(whole?.tokens.slice(0, 3));
    expect(right?.tokens).not.toEqual(whole?.tokens);
    const isMarked = [false, false, false, true, true, true];
    const wrong = (tokens: readonly number[], marks: readonly boolean[]): Promise<string[]> =>
      wrongOfMasked(plan, call, 'cmpl-1', 0, { tokens: [...tokens], isMarked: [...marks], attempts: [], finish: right?.finish ?? null }, steps, undisturbed);
    const tokens = right?.tokens ?? [];
    expect(await wrong(tokens, isMarked)).toEqual([]);
    expect(await wrong(whole?.tokens ?? [], isMarked)).not.toEqual([]);
    expect(await wrong(tokens.slice(0, 4), isMarked.slice(0, 4))).not.toEqual([]);
    expect(
      (
        await wrong(
          tokens,
          isMarked.map(() => false),
        )
      ).join(),
    ).toContain('token 3 hangs on masked experts, and is not marked');
  });
});
