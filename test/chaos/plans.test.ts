/** Plans: how they are read, what seeds draw, how little is left of one that breaks, and that planted bugs are of what the sources say. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { phaseOf } from '../../src/chaos/fault-kinds.ts';
import { type ChaosPlan, type ChaosPlanInput, cellsOf, chaos, FAULT_KINDS, type Fault } from '../../src/chaos/index.ts';
import { recoveryOf } from '../../src/chaos/recoveries.ts';
import { podOptionsSchema } from '../../src/options/options.ts';
import { isChangeable, ROOT } from '../cli/source-copy.ts';
import { traceFolder } from '../trace/files.ts';
import { PLANTED } from './planted/planted-bugs.ts';

describe('seeds', () => {
  it('should draw every kind of fault at every phase that is one of its own, in pods of every recovery', () => {
    const cells = cellsOf(FAULT_KINDS);
    for (const [seed, { kind, phase, recovery }] of cells.entries()) {
      const { pod, faults } = chaos.planOf(seed);
      const fault = faults[0] as Fault;
      const goesOn = recovery === 'any' ? recovery : recoveryOf(pod);
      expect([seed, fault.kind, phaseOf(fault), goesOn]).toEqual([seed, kind, phase, recovery]);
    }
    for (let seed = 0; seed < 400; seed++) expect(chaos.planOf(seed)).toEqual(chaos.planOf(seed));
    expect(() => chaos.planOf(1, { faults: ['fire'] })).toThrow(/there is no fire/);
    expect(() => chaos.planOf(1, { recoveries: ['prayer'] })).toThrow(/there is no prayer/);
  });
});

it('seeds whose pod begins anew as a whole lose an expert while others take over, and have it still then', async () => {
  const cells = cellsOf(FAULT_KINDS);
  const at = cells.findIndex(({ kind, phase, recovery }) => kind === 'expert-lost' && phase === 'takeover' && recovery === 'restart');
  const effects: boolean[] = [];
  for (let round = 0; round < 6; round++) effects.push(((await chaos.run(chaos.planOf(at + round * cells.length))).faults[0]?.effect ?? 0) > 0);
  expect(effects.filter(Boolean).length).toBeGreaterThan(3);
});

/** Options that no seed draws. */
const NOT_DRAWN = {
  ...{ clock: 'a run is virtual', seed: "it is the plan's own", model: 'there is one that is shipped' },
  ...{
    record: 'it is the run\u2019s',
    record_routing: 'it is told, and changes nothing',
    record_prompts: 'it is of traces',
    record_when_full: 'it is of live pods',
    row_checks: 'with rows unchecked nothing is promised where they go bad on their way',
    weight_scrub_s: 'a look changes nothing while memory is good, and with steps unchecked nothing is promised where it goes bad',
  },
  ...{
    npus: 'short for a topology',
    data_parallel_size: 'short for a topology',
    enable_eplb: 'short for expert_balancing',
    eplb_config: 'short for expert_balancing',
  },
  ...{
    spare_workers: 'it is of live pods',
    average_routing: 'what is generated are not the model\u2019s tokens',
  },
  ...{ segment_bytes: 'where memory lies, which no actor knows', memory_bytes: 'a limit before anything runs' },
};

it('seeds draw every option that has a pod do something else', () => {
  const drawn = new Set(Array.from({ length: 700 }, (_, seed) => chaos.planOf(seed)).flatMap(({ pod }) => Object.keys(pod)));
  const options = Object.keys(podOptionsSchema.shape);
  expect(options.filter((name) => !drawn.has(name) && !Object.hasOwn(NOT_DRAWN, name))).toEqual([]);
  expect(Object.keys(NOT_DRAWN).filter((name) => drawn.has(name) || !options.includes(name))).toEqual([]);
});

it('a campaign finds its canary, and only the loss that it takes is left of the plan', async () => {
  const { canary, verdicts } = await chaos.campaign({ seeds: { first: 1, last: 1 }, jobs: 1, canary: true });
  expect(verdicts).toEqual({ held: 1 });
  expect(canary).toMatchObject({ seeds: { first: 2, last: 201 }, verdict: 'lost progress' });
  expect(canary?.faults.length).toBe(1);
});

it('a plan of a pod that takes in few choices at once asks no more of it when all is healed', async () => {
  for (const max_queued of [1, 2]) expect((await chaos.run({ pod: { max_queued }, calls: [{}] })).violations).toEqual([]);
});

describe("a plan's file", () => {
  const folder = traceFolder();
  afterAll(() => folder[Symbol.dispose]());
  const path = folder.file('plan.yaml');
  const read = (text: string): ChaosPlan => {
    writeFileSync(path, text);
    return chaos.readPlan(path);
  };

  it('should be YAML, as in the docs, or JSON', () => {
    const [, shown = ''] = /^```yaml\n(.*?)^```/ms.exec(readFileSync(new URL('../../docs/chaos.md', import.meta.url), 'utf8')) ?? [];
    const plan = read(shown);
    expect(plan).toMatchObject({ seed: 7, pod: { topology: 'pd:prefill=1,decode=1' }, faults: [{ kind: 'worker-lost', at: { phase: 'kv-transfer' } }] });
    expect(read(JSON.stringify(plan))).toEqual(plan);
    expect(read(JSON.stringify(plan, null, '\t'))).toEqual(plan);
  });

  it.each([
    ['calls: [{}]\nfaults: [}\n', /plan\.yaml is neither YAML nor JSON: line 2, column 10: /],
    ['{ "calls": [{ "key": 1 }', /is neither YAML nor JSON: line 1, column 25: /],
    ['calls: *them', /is neither YAML nor JSON: Unresolved alias .*them/],
    ['calls: [{}]\n---\ncalls: [{}]', /is neither YAML nor JSON: line 2, /],
    ['calls: [{}]\ncalls: [{}]', /line 2, column 1: Map keys must be unique/],
    ['calls: [{ keys: 1 }]', /plan\.yaml: calls\.0\.keys: there is no such field; there are /],
  ])('should be told where it is wrong: %j', (text, why) => {
    expect(() => read(text)).toThrow(why);
  });
});

describe('a plan', () => {
  it.each<[string, Partial<ChaosPlanInput>]>([
    [
      'shapes: 1: attention: 4 DP groups are more than the 3',
      {
        pod: { scale_max: { attention: 3 } },
        shapes: [
          { ms: 0, attention: 2 },
          { ms: 1, attention: 4 },
        ],
      },
    ],
    ['shapes: 0: scale: the pod keeps no room', { shapes: [{ ms: 0, attention: 1 }] }],
    ['rebalances: experts of this pod stay where they are', { rebalances: [{ ms: 0 }] }],
    ['calls: 1: n: 3 choices are more than the pod takes in at once', { pod: { max_queued: 2 }, calls: [{}, { n: 3 }] }],
    ['calls: 0: data_parallel_rank: ', { calls: [{ data_parallel_rank: 9 }] }],
    ['pod.clock: a plan runs in virtual time', { pod: { clock: 'live' } }],
    ["pod.seed: the plan's own seed is the pod's", { pod: { seed: 3 } }],
    ['pod.record: a plan says nothing of files', { pod: { record: 'a.trace' } }],
    ['faults.0.kind: must be one of "worker-lost", "controllers-lost", ', { faults: [{ kind: 'fire' } as never] }],
    ['faults.0.kind: is required, one of "worker-lost"', { faults: [{ worker: 0 } as never] }],
    ['faults.0.at.phase: must be one of "admission", "prefill", ', { faults: [{ kind: 'step-fails', npu: 0, at: { phase: 'lunch' as never } }] }],
    ['faults.0.at: must have one of ms, event, phase', { faults: [{ kind: 'step-fails', npu: 0, at: {} as never }] }],
    ['faults.0.at: must have one of ms, event, phase', { faults: [{ kind: 'step-fails', npu: 0, at: { ms: 1, event: 3 } as never }] }],
    ['faults.0.at: must be an object, not 3', { faults: [{ kind: 'step-fails', npu: 0, at: 3 as never }] }],
    ['faults.0.at.there: must be left out', { faults: [{ kind: 'control-lost', at: { phase: 'decode', there: true } } as never] }],
    ['faults.0.at.there: must be left out', { faults: [{ kind: 'expert-lost', expert: 0, at: { phase: 'decode', there: true } } as never] }],
    ['faults.0.at.there: must be left out', { faults: [{ kind: 'message-dropped', at: { phase: 'decode', there: true }, for_ms: 5 } as never] }],
    ['faults.0.factor: must be more than 1, not 1', { faults: [{ kind: 'npu-slow', npu: 0, factor: 1, for_ms: 5 }] }],
    ['faults.0.factor: must be more than 1, not 1', { faults: [{ kind: 'npu-jitter', npu: 0, factor: 1, for_ms: 5 }] }],
    ['faults.0.factor: must be more than 1, not 1', { faults: [{ kind: 'link-slow', from: 'control', to: 0, factor: 1, for_ms: 5 }] }],
    ['faults.0.factor: must be less or more than 1', { faults: [{ kind: 'clock-skew', thread: 0, factor: 1, for_ms: 5 }] }],
    ['faults.0.for_ms: must be at most 60000 times factor', { faults: [{ kind: 'clock-skew', thread: 0, factor: 0.05, for_ms: 3_001 }] }],
    ['faults.0.factor: must be at least 0.05, not 0.001', { faults: [{ kind: 'clock-skew', thread: 0, factor: 0.001, for_ms: 60_000 }] }],
    ['faults: clock-skew names thread 0 twice', { faults: [0.1, 0.1].map((factor) => ({ kind: 'clock-skew', thread: 0, factor, for_ms: 5 })) }],
    ['faults: job-executor-crashes names job-executor 7, and the pod has 1', { faults: [{ kind: 'job-executor-crashes', id: 7 }] }],
    ['faults: client-gone names call 9, and the plan has 1', { faults: [{ kind: 'client-gone', call: 9 }] }],
    ['faults: client-slow names call 9, and the plan has 1', { faults: [{ kind: 'client-slow', call: 9, turns: 1 }] }],
    ['faults: client-gone names call 0 twice', { faults: [1, 2].map((after_chunks) => ({ kind: 'client-gone', call: 0, after_chunks })) }],
    ['a client leaves after_chunks, or at a time', { faults: [{ kind: 'client-gone', call: 0, after_chunks: 1, at: { ms: 1 } }] }],
    ["faults: trace-disk-full is of one pod's trace", { faults: [{ kind: 'trace-disk-full' }, { kind: 'control-lost' }] }],
    [
      "faults: trace-disk-full is of one pod's trace, and with job",
      { faults: [{ kind: 'trace-disk-full' }, { kind: 'job-executor-hangs', id: 0, for_ms: 10_000 }] },
    ],
    ['faults: expert-lost names copy 99, counted from 0, and of an expert there are 1 at most', { faults: [{ kind: 'expert-lost', expert: 0, copy: 99 }] }],
    ['faults: message-dropped: there is no message NO_SUCH_MESSAGE', { faults: [{ kind: 'message-dropped', type: 'NO_SUCH_MESSAGE', for_ms: 5 }] }],
    ['calls: 0: frequency_penalty cannot be judged', { pod: { topology: 'colocated:dp=2', workers: 2, degraded: true }, calls: [{ frequency_penalty: 1 }] }],
  ])('should be refused where its pod cannot do what it asks: %s', async (why, asked) => {
    await expect((async () => chaos.run({ calls: [{}], ...asked }))()).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringContaining(why),
    });
  });
});

it('a fault long after the last call strikes a pod that has looked after itself meanwhile, and is no lost progress', async () => {
  const pod = {
    topology: 'moe-attention:domains=1x2,experts=2',
    workers: 2,
    expert_balancing: { policy: 'mirrored', redundant_slots: 8, period_ms: 10, windows: 1 },
  };
  const { verdict, events, faults } = await chaos.run({ pod, calls: [{}], faults: [{ kind: 'worker-lost', worker: 1, at: { ms: 180_000 } }] });
  expect({ verdict, struck: faults[0]?.struck }).toEqual({ verdict: 'held', struck: true });
  expect(events).toBeGreaterThan(150_000);
});

describe('a plan that breaks', () => {
  it('should shrink to the fault that breaks it', async () => {
    const broken = chaos.planOf(2, { topologies: ['prefill-decode'] });
    const planted = { kind: 'message-dropped', type: 'STEP_DONE', within_threads: true, at: { ms: 0 }, for_ms: 500 } as const;
    const { plan, report } = await chaos.shrink({ ...broken, faults: [...broken.faults, planted] });
    expect(report.verdict).toBe('lost progress');
    expect(plan.faults).toMatchObject([planted]);
    expect(plan.calls.length).toBe(1);
    expect(plan.pod['topology']).toBe('colocated:dp=1');
  });
});

it('bugs to be planted are of what the sources say', () => {
  expect(PLANTED.filter((bug) => !isChangeable(ROOT, bug)).map(({ file, from }) => `${file}: ${from}`)).toEqual([]);
});
