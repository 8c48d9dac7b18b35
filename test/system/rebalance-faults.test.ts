/** A rebalance that breaks, in whichever of its states and whatever breaks it: service goes on with the same tokens, the map stays whole, the reason is told. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { NO_EXPERT, replicasOf } from '../../actors/policies/expert-placement/expert-map.ts';
import { expertIn, layersWithExperts, SLOT, SLOT_WORDS } from '../../src/flowserve/experts/expert-slots.ts';
import type { ScaleOptions } from '../../src/flowserve/scale-shapes.ts';
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualControl } from '../../src/platform/virtual-control.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import type { RebalanceReport } from '../../src/protocol/expert-maps.ts';
import { cases } from '../property-runs.ts';
import { expectNothingLeft } from './pods.ts';
import { holders } from './shapes.ts';

const MAP = 'expert-map/0';
const STATES = ['collecting', 'prefetching', 'disabling', 'loading', 'enabling'] as const;
type State = (typeof STATES)[number] | 'rollingBack';

const OPTIONS: PodOptions = {
  ...{ clock: 'virtual', kernels: 'hash', topology: 'colocated:dp=3', workers: 3, scale_max: { attention: 3 } },
  expert_balancing: { redundant_slots: 6, period_ms: 1_000_000 },
};
const CALLS = 5;
const answers = async (pod: Pod): Promise<unknown[]> =>
  Promise.all(
    Array.from({ length: CALLS }, async (_, index) => {
      const { choices } = await pod.complete([1, 86, 1461, 613, 531 + index], { max_tokens: 8, seed: index, ignore_eos: true, temperature: index % 2 });
      return choices[0]?.token_ids;
    }),
  );

const balancerOf = ({ host }: VirtualControl): ExpertBalancer => (host.cast.contextOf(MAP) as { balancer: ExpertBalancer }).balancer;

/** Where the words of an NPU's tables lie, and which slots the map gives it. */
function slotsOf({ plan, space }: VirtualControl, npu: number): { readonly words: Int32Array; readonly layout: VirtualControl['plan']['layouts'][number] } {
  const layout = plan.layouts[npu] as VirtualControl['plan']['layouts'][number];
  return { words: space.wordsOf(layout.base), layout };
}

/** What the last good map says lies in each slot lies there; each expert is somewhere. */
function expectMapToHold(control: VirtualControl): void {
  const { map } = balancerOf(control);
  const { slots, experts } = map.shape;
  const { first, npus } = control.plan.hosting.deployment.executors[0]?.experts ?? { first: 0, npus: 0 };
  const each = slots / npus;
  for (const [index, layer] of layersWithExperts(control.plan.config).entries()) {
    for (let slot = 0; slot < slots; slot++) {
      const { words, layout } = slotsOf(control, first + Math.floor(slot / each));
      const expert = map.expertOfSlot[index * slots + slot] as number;
      if (expert !== NO_EXPERT) expect(expertIn(words, layout.expertSlots, layer, slot % each), `layer ${layer}, slot ${slot}`).toBe(expert);
    }
    for (let expert = 0; expert < experts; expert++) expect(replicasOf(map, index, expert).length).toBeGreaterThan(0);
  }
}

/** Returns what takes it back. */
type Fault = (pod: VirtualPod, told: { second?: Promise<readonly RebalanceReport[]>; scale?: Promise<unknown> }) => (() => void) | undefined;

const death: Fault = ({ control }) => {
  control.workers.lose(1, 'killed');
  return undefined;
};

/** What is asked of one NPU never arrives. */
const silence: Fault = ({ control }) => {
  const { cast } = control.host;
  const deliver = cast.deliver.bind(cast);
  cast.deliver = (mail) => (mail.message.type === 'EXPERT_WORK' && mail.to === 'npu/1' ? undefined : deliver(mail));
  return () => {
    cast.deliver = deliver;
  };
};

const offsetIn = (address: number): number => (address % 2 ** 32) >>> 2;

/** Weights are others than they were when they were loaded, as their sums have it: those that are to be copied. */
const corruptSources: Fault = ({ control }) => {
  const flip = (): void => {
    for (const npu of control.plan.layouts.keys()) {
      const { words, layout } = slotsOf(control, npu);
      const { tables, each } = layout.expertSlots;
      for (const table of tables)
        for (let slot = 0; table !== null && slot < each; slot++) {
          const at = offsetIn(table) + slot * SLOT_WORDS + SLOT.sum;
          words[at] = (words[at] as number) ^ 1;
        }
    }
  };
  flip();
  return flip;
};

/** What is set aside is, also where it lies in its slot already, which holds nothing yet. */
const corruptStaged: Fault = ({ control }) => {
  for (const npu of control.plan.layouts.keys()) {
    const { words, layout } = slotsOf(control, npu);
    const { staging, weights, each } = layout.expertSlots;
    const flip = (address: number): void => {
      words[offsetIn(address)] = (words[offsetIn(address)] as number) ^ 1;
    };
    flip(staging);
    for (const [layer, of] of weights.entries())
      for (let slot = 0; of !== null && slot < each; slot++)
        if (expertIn(words, layout.expertSlots, layer, slot) === NO_EXPERT) flip(of.first + slot * of.stride);
  }
  return undefined;
};

const second: Fault = (pod, told) => {
  told.second = pod.rebalance({ force: true });
  return undefined;
};

const scaleTo =
  (shape: ScaleOptions): Fault =>
  (pod, told) => {
    told.scale = pod.scale(shape);
    return undefined;
  };
const scale = scaleTo({ attention: 2 });

/** `until`: the last state of which it is taken back when it is over; missing: the one in which it happens. */
type Break = { readonly state: State; readonly fault: Fault; readonly until?: State };

/** Each as soon as the map is in its state, one after the other. */
function breakIn(pod: VirtualPod, breaks: readonly Break[], told: Parameters<Fault>[1]): { readonly left: () => number } {
  const { control } = pod;
  const step = control.step.bind(control);
  const left = [...breaks];
  const undo: { readonly until: State; readonly act: (() => void) | undefined; hasCome: boolean }[] = [];
  control.step = () => {
    const now = control.host.cast.stateOf(MAP);
    for (const one of undo) {
      one.hasCome ||= now === one.until;
      if (one.hasCome && now !== one.until) undo.splice(undo.indexOf(one), 1)[0]?.act?.();
    }
    const [next] = left;
    if (next?.state === now && next !== undefined) {
      left.shift();
      undo.push({ until: next.until ?? next.state, act: next.fault(pod, told), hasCome: false });
    }
    return step();
  };
  return { left: () => left.length };
}

type Ends = { readonly outcome: string; readonly cause: string; readonly reason: string };
type Row = readonly [State, string, readonly Break[], Ends];

const CORRUPT = { outcome: 'rolled_back', cause: 'corrupt', reason: 'are corrupt: their sum is another' } as const;
const SOURCES = 'weights are corrupt that are to be copied';
const STAGED = 'weights are corrupt that were set aside';
/** While it goes back it goes on going back, for the first reason. */
const rollingBack = (what: string, fault: Fault): Row => [
  'rollingBack',
  what,
  [
    { state: 'prefetching', fault: corruptSources },
    { state: 'rollingBack', fault },
  ],
  CORRUPT,
];

/**
 * What is not in it cannot be. Selecting, settled and ending are over before anything else happens. Weights are read in prefetching and loading alone: what is
 * corrupt before is found there; what becomes so in enabling has been summed already, which is so of all weights that serve.
 */
const TABLE: readonly Row[] = [
  ...STATES.flatMap((state): Row[] => [
    [state, 'a worker dies', [{ state, fault: death }], { outcome: 'rolled_back', cause: 'npu_lost', reason: 'npu/1 was lost: worker 1 failed' }],
    [state, 'an NPU says nothing', [{ state, fault: silence }], { outcome: 'rolled_back', cause: 'deadline', reason: `${state}: npu/1 did not answer` }],
    [state, 'a second one is asked for', [{ state, fault: second }], { outcome: 'installed', cause: 'better', reason: '' }],
    [state, 'a scale is asked for', [{ state, fault: scale }], { outcome: 'aborted', cause: 'another_entry', reason: 'a scale was asked for' }],
  ]),
  ['collecting', SOURCES, [{ state: 'collecting', fault: corruptSources, until: 'prefetching' }], CORRUPT],
  ['prefetching', SOURCES, [{ state: 'prefetching', fault: corruptSources }], CORRUPT],
  ['disabling', STAGED, [{ state: 'disabling', fault: corruptStaged }], CORRUPT],
  ['loading', STAGED, [{ state: 'loading', fault: corruptStaged }], CORRUPT],
  rollingBack('a worker dies', death),
  rollingBack('an NPU says nothing', silence),
  rollingBack('a second one is asked for', second),
  rollingBack('a scale is asked for', scale),
];

describe('a rebalance, while requests run', () => {
  let expected: unknown[] = [];
  let one: Pod;
  beforeAll(async () => {
    one = await createPod({ clock: 'virtual', kernels: 'hash' });
    expected = await answers(one);
  });
  afterAll(() => one.close());

  it.each(cases(TABLE))('in %s, where %s, should leave a whole map, a reason and the same tokens', async (_state, _what, breaks, ends) => {
    await using pod = (await createPod(OPTIONS)) as VirtualPod;
    expect(await answers(pod)).toEqual(expected);
    const told: Parameters<Fault>[1] = {};
    const { left } = breakIn(pod, breaks, told);
    const [tokens, reports] = await Promise.all([answers(pod), pod.rebalance({ force: true })]);
    expect(left()).toBe(0);
    expect(tokens).toEqual(expected);
    expect(reports[0]).toMatchObject({ outcome: ends.outcome, reason: expect.stringContaining(ends.reason) });
    if (ends.outcome !== 'installed') expect(reports[0]?.cause).toBe(ends.cause);
    if (told.second !== undefined)
      expect(await told.second).toMatchObject([{ outcome: 'refused', reason: expect.stringMatching(/^another rebalance is under way, and /) }]);
    if (told.scale !== undefined) expect(await told.scale).toMatchObject({ attention: 2 });
    expect(await answers(pod)).toEqual(expected);
    expectMapToHold(pod.control);
    const [loop] = (await pod.stats()).expert_balancing;
    expect(loop).toMatchObject({ state: 'stable', stalled: false, last: reports[0] && { outcome: reports[0].outcome, reason: reports[0].reason } });
    // It is as able as before.
    expect((await pod.rebalance({ force: true }))[0]?.outcome).toMatch(/^(installed|unchanged)$/);
    expect(await answers(pod)).toEqual(expected);
    expectMapToHold(pod.control);
    await expectNothingLeft(pod);
  });

  it.each(['collecting', 'loading', 'enabling'] as const)(
    'in %s, should end at its last good map for a scale that moves experts, and say so in the log',
    async (state) => {
      const topology = 'moe-attention:domains=1x2,experts=2';
      await using pod = (await createPod({ ...OPTIONS, topology, scale_max: { experts: 4 }, workers: 6 })) as VirtualPod;
      expect(await answers(pod)).toEqual(expected);
      const told: Parameters<Fault>[1] = {};
      const { left } = breakIn(pod, [{ state, fault: scaleTo({ experts: 4 }) }], told);
      const [tokens, [report]] = await Promise.all([answers(pod), pod.rebalance({ force: true })]);
      expect(left()).toBe(0);
      expect(tokens).toEqual(expected);
      const reason = 'a scale was asked for; the last good map stands';
      const aborted = { outcome: 'aborted', cause: 'another_entry', reason };
      expect(report).toMatchObject({ entry: 1, ...aborted });
      expect(await told.scale).toMatchObject({ experts: 4, was: { experts: 2 } });
      expect(await holders(pod)).toBe(4);
      expectMapToHold(pod.control);
      const balancing = (await pod.experts({ measure: false })).task_executors[0]?.balancing;
      expect(balancing).toMatchObject({ state: 'stable', last: { entry: 1, ...aborted }, counts: [{ change: 'rebalance' }, { change: 'scale' }] });
      expect(balancing?.log).toMatchObject([
        { entry: 1, change: 'rebalance', writer: MAP, ...aborted },
        { entry: 2, change: 'scale', writer: 'scaling/0', outcome: 'installed', cause: 'asked', reason: 'experts lie elsewhere' },
      ]);
      const [first, second] = balancing?.log ?? [];
      // Whoever has heard of nothing has nothing to go back from.
      expect(first?.epoch).toBe(state === 'collecting' ? 0 : report?.epoch);
      expect(second?.epoch).toBeGreaterThan(first?.epoch ?? 0);
      expect(await answers(pod)).toEqual(expected);
      await expectNothingLeft(pod);
    },
  );

  it('that breaks again and again should keep no more set aside than there are places for it', async () => {
    await using pod = (await createPod(OPTIONS)) as VirtualPod;
    const { control } = pod;
    let setAside = (): number => 0;
    control.npus.onTurn = (movesOf) => {
      setAside = () => [...control.plan.layouts.keys()].reduce((sum, npu) => sum + movesOf(npu).setAside, 0);
    };
    await answers(pod);
    const kept: number[] = [];
    for (let round = 0; round < 3; round++) {
      breakIn(pod, [{ state: 'disabling', fault: silence }], {});
      expect((await pod.rebalance({ force: true }))[0]?.cause).toBe('deadline');
      kept.push(setAside());
    }
    expect(kept[0]).toBeGreaterThan(0);
    expect(kept[2]).toBe(kept[0]);
  });
});
