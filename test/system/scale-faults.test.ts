/** A change of shape that breaks half-way ends in the new shape or in the old one, whatever breaks it in whichever of its states, and no request fails. */
import { describe, expect, it } from 'vitest';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { createPod, type GenerateOptions, type Pod } from '../../src/index.ts';
import type { VirtualControl } from '../../src/platform/virtual-control.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { npuLost, scaleOverdue, scaleRetry } from '../../src/protocol/constructors.ts';
import { npuBack } from '../../src/protocol/expert-maps.ts';
import { mapDone, mapWanted } from '../../src/protocol/map-log.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { expectNothingLeft } from './pods.ts';
import { holders } from './shapes.ts';

const MAP = 'expert-map/0';
const SCALING = 'scaling/0';
/** Of another entry of the map's log, which weighs more. */
const SWITCHING = 'scaling/1';
/** An NPU that has experts before and after; one that only has them where four have. */
const [KEPT, FOURTH] = [4, 7];
const LOST = { code: 'worker_lost', message: 'killed', param: null } as const;

type Fault = (control: VirtualControl) => void;
const tell = ({ host }: VirtualControl, to: typeof MAP | typeof SCALING, message: Message): void => host.send(to, 'control/0', message);
const balancerOf = ({ host }: VirtualControl): ExpertBalancer => (host.cast.contextOf(MAP) as { balancer: ExpertBalancer }).balancer;

const deadline: Fault = (control) => tell(control, SCALING, scaleOverdue());
/** As long as a worker takes to be back. */
const death =
  (npu: number): Fault =>
  (control) => {
    tell(control, MAP, npuLost(npu, LOST));
    control.host.later(3_000_000, () => tell(control, MAP, npuBack(npu)));
  };
const taken: Fault = (control) => {
  tell(control, MAP, mapWanted(SWITCHING, 1, 'role_switch'));
  const end = (): void => {
    const { open } = balancerOf(control).log;
    // Nobody lives there.
    for (const message of ['MAP_GRANTED', 'MAP_TAKEN']) (control.host.cast.unexpected as Map<string, number>).delete(`scaling ${message} gone`);
    if (open?.writer === SWITCHING) tell(control, MAP, mapDone(open.entry, null));
    else control.host.later(1_000_000, end);
  };
  control.host.later(20_000_000, end);
};

/** Once in each of these states, in this order. */
function breakIn({ control }: VirtualPod, faults: readonly (readonly [state: string, fault: Fault])[]): { readonly left: () => number } {
  const left = [...faults];
  const step = control.step.bind(control);
  control.step = () => {
    const [state, fault] = left[0] ?? [];
    if (state !== undefined && fault !== undefined && control.host.cast.stateOf(SCALING) === state) {
      left.shift();
      fault(control);
    }
    return step();
  };
  return { left: () => left.length };
}

const CALLS: readonly [number[], GenerateOptions][] = Array.from({ length: 6 }, (_, index) => [
  Array.from({ length: 4 + 9 * index }, (_, at) => 3 + ((index * 7_919 + at * 104_729) % 1_900)),
  { max_tokens: 40, seed: index, ignore_eos: true, temperature: index % 2 },
]);
const answersOf = async (pod: Pod): Promise<unknown[]> =>
  (await Promise.all(CALLS.map((call) => pod.complete(...call)))).map((one) => one.choices[0]?.token_ids);

const LARGE = { attention: 4, experts: 4 };
const SMALL = { attention: 2, experts: 2 };

it('a deadline and a retry that were cancelled too late should change nothing', async () => {
  await using pod = (await createPod({ clock: 'virtual', kernels: 'hash', npus: 1, scale_max: { attention: 2 } })) as VirtualPod;
  const late = (): void => {
    tell(pod.control, SCALING, scaleOverdue());
    tell(pod.control, SCALING, scaleRetry());
  };
  late();
  const { left } = breakIn(pod, [['changing', (control) => tell(control, SCALING, scaleRetry())]]);
  expect(await pod.scale({ attention: 2 })).toMatchObject({ attention: 2 });
  late();
  await answersOf(pod);
  expect(await pod.scale({ attention: 1 })).toMatchObject({ attention: 1 });
  expect(left()).toBe(0);
  await expectNothingLeft(pod);
});

describe('a change that breaks', () => {
  it.each([
    ['furnishing', 'its deadline passes', 'old', [['furnishing', deadline]]],
    ['claiming', 'its deadline passes', 'old', [['claiming', deadline]]],
    ['claiming', 'an NPU dies', 'old', [['claiming', death(FOURTH)]]],
    ['placing', 'its deadline passes', 'old', [['placing', deadline]]],
    ['placing', 'an NPU dies', 'old', [['placing', death(KEPT)]]],
    ['placing', 'the map is taken', 'old', [['placing', taken]]],
    ['changing', 'its deadline passes', 'old', [['changing', deadline]]],
    ['changing', 'the map is taken', 'new', [['changing', taken]]],
    ['changing', 'an NPU dies', 'new', [['changing', death(KEPT)]]],
    [
      'regrouping',
      'the map is taken',
      'old',
      [
        ['changing', deadline],
        ['regrouping', taken],
      ],
    ],
    [
      'regrouping',
      'an NPU dies',
      'old',
      [
        ['changing', deadline],
        ['regrouping', death(FOURTH)],
      ],
    ],
    [
      'replacing',
      'an NPU dies',
      'old',
      [
        ['changing', deadline],
        ['replacing', death(KEPT)],
      ],
    ],
    [
      'replacing',
      'the map is taken',
      'old',
      [
        ['placing', deadline],
        ['replacing', taken],
      ],
    ],
    [
      'reclaiming',
      'an NPU dies',
      'old',
      [
        ['placing', taken],
        ['reclaiming', death(KEPT)],
      ],
    ],
  ] as const)('in %s, where %s, should end in the %s shape', async (_state, _what, ends, faults) => {
    await using one = await createPod({ clock: 'virtual', kernels: 'hash' });
    const right = await answersOf(one);
    for (const [from, to] of [
      [LARGE, SMALL],
      [SMALL, LARGE],
    ] as const) {
      // Fewer groups need nothing more.
      if (faults[0][0] === 'furnishing' && from === LARGE) continue;
      const topology = `moe-attention:domains=1x2,experts=2`;
      await using pod = (await createPod({ clock: 'virtual', kernels: 'hash', topology, load_balancing: 'round_robin', scale_max: LARGE })) as VirtualPod;
      await pod.scale(from);
      const { left } = breakIn(pod, faults);
      const answers = answersOf(pod);
      const stream = pod.generate(...(CALLS[0] as (typeof CALLS)[number]));
      for await (const _ of stream) break;
      const change = pod.scale(to).then(
        () => 'new',
        () => 'old',
      );
      await expect(pod.scale(to)).rejects.toMatchObject({ code: 'overloaded' });
      expect(await change).toBe(ends);
      expect(left()).toBe(0);
      expect(await answers).toEqual(right);
      while (balancerOf(pod.control).log.open !== null) await answersOf(pod);
      const shape = ends === 'new' ? to : from;
      const { scaling, unexpected_messages } = await pod.stats();
      expect(scaling).toMatchObject({ state: 'stable', attention: { serving: shape.attention }, experts: { serving: shape.experts } });
      expect(await holders(pod)).toBe(shape.experts);
      expect(unexpected_messages).toEqual([]);
      // It is as able as before.
      while (balancerOf(pod.control).lost.size > 0) await answersOf(pod);
      expect(await pod.scale(to)).toMatchObject(to);
      expect(await holders(pod)).toBe(to.experts);
      await expectNothingLeft(pod);
    }
  });
});

it('what an NPU that hangs was asked by an older map goes on by the one that has come since, once it is refused', async () => {
  await using pod = (await createPod({
    ...{ clock: 'virtual', kernels: 'hash', topology: 'moe-attention:domains=1x2,experts=2', workers: 2, scale_max: { attention: 2, experts: 4 } },
  })) as VirtualPod;
  const { npus, host } = pod.control;
  const before = balancerOf(pod.control).map;
  const goOn = npus.hang([2, 3]);
  const answer = pod.complete([1, 86], { max_tokens: 4, ignore_eos: true });
  host.later(300_000, () => void pod.scale({ attention: 2, experts: 4 }));
  let hasMoved = false;
  host.later(30_000_000, () => {
    hasMoved = balancerOf(pod.control).map.expertOfSlot.some((expert, slot) => expert !== before.expertOfSlot[slot]);
    goOn();
  });
  const { choices } = await answer;
  expect(hasMoved).toBe(true);
  expect(choices[0]?.token_ids.length).toBe(4);
});
