/** A rebalance that breaks, in whichever of its states and whatever breaks it: service goes on with the same tokens, the map stays whole, the reason is told. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { NO_EXPERT, replicasOf } from '../../actors/policies/expert-placement/expert-map.ts';
import { expertIn, layersWithExperts, SLOT, SLOT_WORDS } from '../../src/flowserve/expert-slots.ts';
import { createPod, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualControl } from '../../src/platform/virtual-control.ts';
import type { RebalanceReport } from '../../src/protocol/expert-maps.ts';
import type { VirtualPod } from '../../src/virtual-pod.ts';
import { expectNothingLeft } from './pods.ts';

const MAP = 'expert-map/0';
const STATES = ['collecting', 'prefetching', 'disabling', 'loading', 'enabling'] as const;
type State = (typeof STATES)[number];

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
  const npus = control.plan.layouts.length;
  const each = slots / npus;
  for (const [index, layer] of layersWithExperts(control.plan.config).entries()) {
    for (let slot = 0; slot < slots; slot++) {
      const { words, layout } = slotsOf(control, Math.floor(slot / each));
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

const scale: Fault = (pod, told) => {
  told.scale = pod.scale({ attention: 2 });
  return undefined;
};

/** As soon as the map is in that state; and takes it back when it has left it. */
function breakIn(pod: VirtualPod, state: State, fault: Fault, told: Parameters<Fault>[1]): { readonly happened: () => boolean } {
  const { control } = pod;
  const step = control.step.bind(control);
  let phase = 0;
  let undo: (() => void) | undefined;
  control.step = () => {
    const now = control.host.cast.stateOf(MAP);
    if (phase === 0 && now === state) {
      phase = 1;
      undo = fault(pod, told);
    } else if (phase === 1 && now !== state) {
      phase = 2;
      undo?.();
    }
    return step();
  };
  return { happened: () => phase > 0 };
}

const CORRUPT = { outcome: 'rolled_back', cause: 'corrupt', reason: 'are corrupt: their sum is another' } as const;
const TABLE: readonly (readonly [State, string, Fault, { readonly outcome: string; readonly cause: string; readonly reason: string }])[] = STATES.flatMap(
  (state) =>
    [
      [state, 'a worker dies', death, { outcome: 'rolled_back', cause: 'npu_lost', reason: 'npu/1 was lost: worker 1 failed' }] as const,
      [state, 'an NPU says nothing', silence, { outcome: 'rolled_back', cause: 'deadline', reason: `${state}: ` }] as const,
      [state, 'a second one is asked for', second, { outcome: 'installed', cause: 'better', reason: '' }] as const,
      [state, 'a scale is asked for', scale, { outcome: 'aborted', cause: 'another_entry', reason: 'a scale was asked for' }] as const,
      ...(state === 'prefetching' ? [[state, 'weights are corrupt', corruptSources, CORRUPT] as const] : []),
      ...(state === 'loading' ? [[state, 'what is set aside is corrupt', corruptStaged, CORRUPT] as const] : []),
    ] as const,
);

describe('a rebalance, while requests run', () => {
  let expected: unknown[] = [];
  let one: Pod;
  beforeAll(async () => {
    one = await createPod({ clock: 'virtual', kernels: 'hash' });
    expected = await answers(one);
  });
  afterAll(() => one.close());

  it.each(TABLE)('in %s, where %s, should leave a whole map, a reason and the same tokens', async (state, _what, fault, ends) => {
    await using pod = (await createPod(OPTIONS)) as VirtualPod;
    expect(await answers(pod)).toEqual(expected);
    const told: Parameters<Fault>[1] = {};
    const { happened } = breakIn(pod, state, fault, told);
    const [tokens, reports] = await Promise.all([answers(pod), pod.rebalance({ force: true })]);
    expect(happened()).toBe(true);
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
});
