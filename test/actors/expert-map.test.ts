/** The loop that moves experts, with NPUs that answer, fail, die or say nothing in any of its states: service goes on, the map stays whole, the reason is told. */
import { describe, expect, it } from 'vitest';
import { expertMap } from '../../actors/expert-map.ts';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { type ExpertMap, expertMap as toMap } from '../../actors/policies/expert-placement/expert-map.ts';
import { nativeSlots } from '../../actors/policies/expert-placement/native.ts';
import type { PlacementPolicy } from '../../actors/policies/expert-placement/policies.ts';
import { type Address, idOf, roleOf } from '../../src/protocol/address.ts';
import { npuLost } from '../../src/protocol/constructors.ts';
import {
  type ExpertMapMessage,
  type ExpertWork,
  loadsCollected,
  mapInstalled,
  npuBack,
  type RebalanceOutcome,
  rebalance,
  slotDone,
  slotFailed,
  timeTold,
} from '../../src/protocol/expert-maps.ts';
import { type MapGrantMessage, mapDone, mapWanted, placeExperts } from '../../src/protocol/map-log.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import { Cast, type Mail } from '../../src/runtime/cast.ts';

const SELF: Address = 'expert-map/0';
const NPUS = [0, 1, 2, 3];
const SHAPE = { layers: 2, experts: 6, slots: 12, ranks: 4, nodes: 1, groups: 1 };
const PERIOD_MS = 50_000;

type Fault = (npu: number, work: ExpertWork) => 'answer' | 'silence' | 'failure' | 'death';

/** The map's actor alone; its NPUs are these few lines, each of which knows what its slots hold. */
class Group {
  now_ms = 0;
  fault: Fault = () => 'answer';
  readonly outcomes: RebalanceOutcome[] = [];
  readonly unexpected: string[] = [];
  /** By slot of all layers: what it really holds. */
  readonly holds: Int32Array = nativeSlots(SHAPE);
  /** By NPU: the map that it sorts by. */
  readonly maps: ExpertMap[] = NPUS.map(() => toMap(SHAPE, nativeSlots(SHAPE)));
  readonly epochs = NPUS.map(() => 0);
  readonly states = new Set<string>();
  readonly #cast: Cast;
  readonly #mail: Mail[] = [];
  #timers: { readonly due_ms: number; readonly id: string; readonly message: Message }[] = [];
  readonly #staged = new Map<number, { readonly at: number; readonly expert: number }>();

  readonly grants: MapGrantMessage[] = [];

  constructor(policy: PlacementPolicy = 'global', threshold = 1) {
    this.#cast = new Cast({
      birthOf: () => null,
      hands: new Map([
        ['npu', ({ to, message }: Mail) => this.#work(idOf(to), message)],
        ['control', ({ message }: Mail) => void (message.type === 'REBALANCED' && this.outcomes.push(message.outcome))],
        ['scaling', ({ message }: Mail) => void this.grants.push(message as MapGrantMessage)],
      ]),
      send: (mail) => void this.#mail.push(mail),
      startTimer: (_, { id, delay_ms, message }: Commands['after']) => void this.#timers.push({ id, due_ms: this.now_ms + delay_ms, message }),
      cancelTimer: (_, id) => {
        this.#timers = this.#timers.filter((timer) => timer.id !== id);
      },
      cancelTimers: () => {},
      launch: () => {},
      transfer: () => {},
      claim: () => this.tell(timeTold(this.now_ms)),
      onUnexpected: (to, message, state) => this.unexpected.push(`${to} ${message.type} ${state}`),
      witness: ({ to, after }) => void (roleOf(to) === 'expert-map' && after !== null && this.states.add(String(after.value))),
    });
    const settings = { policy, windows: 4, threshold };
    const input = { self: SELF, askers: NPUS, first: 0, settings, period_ms: PERIOD_MS, shape: SHAPE, slots: [...nativeSlots(SHAPE)] };
    this.#cast.spawn(SELF, { machine: expertMap, input });
  }

  get balancer(): ExpertBalancer {
    return (this.#cast.contextOf(SELF) as { balancer: ExpertBalancer }).balancer;
  }

  get state(): string {
    return this.#cast.stateOf(SELF) ?? 'gone';
  }

  tell(message: ExpertMapMessage): void {
    this.#mail.push({ to: SELF, from: 'control/0', message, cause: 0 });
  }

  /** Until `end_ms`, or all mail is delivered. */
  run(end_ms = this.now_ms): void {
    for (;;) {
      for (let mail = this.#mail.shift(); mail !== undefined; mail = this.#mail.shift()) {
        this.#cast.deliver(mail);
        this.check();
      }
      const [next] = this.#timers.filter(({ due_ms }) => due_ms <= end_ms).sort((a, b) => a.due_ms - b.due_ms);
      if (next === undefined) break;
      this.now_ms = next.due_ms;
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.tell(next.message as ExpertMapMessage);
    }
    this.now_ms = Math.max(this.now_ms, end_ms);
  }

  /** Whoever sorts by the map that he has finds in each slot what it says, or is refused since another epoch wrote there: but never finds an expert nowhere. */
  check(): void {
    for (const [npu, map] of this.maps.entries())
      for (let entry = 0; entry < SHAPE.layers * SHAPE.experts; entry++) {
        const layer = Math.floor(entry / SHAPE.experts);
        const replicas = [...map.replicas.subarray(map.firstReplica[entry], map.firstReplica[entry + 1])];
        const isHeld = replicas.some((slot) => this.holds[layer * SHAPE.slots + slot] === entry % SHAPE.experts);
        // Who is lost sorts nothing.
        if (!isHeld && !this.balancer.lost.has(npu)) throw new Error(`expert ${entry % SHAPE.experts} of layer ${layer} is nowhere that a map says`);
      }
  }

  /** Nobody who lives may ask for it any more. */
  #emptied(at: number): void {
    for (const [asker, map] of this.maps.entries()) if (!this.balancer.lost.has(asker)) expect(map.expertOfSlot[at], `npu/${asker}'s map`).toBe(-1);
    this.holds[at] = -1;
  }

  #work(npu: number, message: Message): void {
    if (message.type !== 'EXPERT_WORK') throw new Error(message.type);
    const { work } = message;
    const fault = this.fault(npu, work);
    if (fault === 'silence') return;
    if (fault === 'death') {
      this.tell(npuLost(npu, { code: 'worker_lost', message: 'killed', param: null }) as ExpertMapMessage);
      return;
    }
    if (fault === 'failure' && 'change' in work) this.tell(slotFailed(npu, work.change, { code: 'memory_fault', message: 'corrupt', param: null }));
    else this.#perform(npu, work);
  }

  #perform(npu: number, work: ExpertWork): void {
    if (work.kind === 'collect')
      this.tell(
        loadsCollected(
          npu,
          Array.from({ length: SHAPE.layers * SHAPE.experts }, (_, at) => (at % SHAPE.experts === 2 ? 90 : 4)),
        ),
      );
    else if (work.kind === 'install') {
      const slots = nativeSlots(SHAPE);
      for (const [index, slot] of work.slots.entries()) slots[slot] = work.experts[index] as number;
      if (work.epoch > (this.epochs[npu] as number)) {
        this.maps[npu] = toMap(SHAPE, slots);
        this.epochs[npu] = work.epoch;
      }
      this.tell(mapInstalled(npu, this.epochs[npu] as number));
    } else if (work.kind === 'stage') {
      const at = work.layer * SHAPE.slots + work.slot;
      expect(this.holds[work.layer * SHAPE.slots + work.source]).toBe(work.expert);
      // They go straight there.
      if (work.is_free) this.#emptied(at);
      this.#staged.set(work.change, { at, expert: work.expert });
      this.tell(slotDone(npu, work.change));
    } else if (work.kind === 'empty') {
      this.#emptied(work.layer * SHAPE.slots + work.slot);
      this.tell(slotDone(npu, work.change));
    } else {
      const { at, expert } = this.#staged.get(work.change) as { at: number; expert: number };
      this.#emptied(at);
      this.holds[at] = expert;
      this.tell(slotDone(npu, work.change));
    }
  }
}

/** In which state it is when an NPU is asked for that. */
const ASKED_IN = { collecting: 'collect', prefetching: 'stage', disabling: 'install', loading: 'load' } as const;
type Asked = keyof typeof ASKED_IN | 'enabling';
const STATES: readonly Asked[] = ['collecting', 'prefetching', 'disabling', 'loading', 'enabling'];

/** The fault, once, at the first NPU that is asked in that state. */
function once(state: Asked, what: ReturnType<Fault>): Fault {
  let installs = 0;
  let isOver = false;
  return (npu, { kind }) => {
    if (kind === 'install' && npu === 0) installs++;
    const isThere = state === 'enabling' ? kind === 'install' && installs === 2 : kind === ASKED_IN[state];
    if (isOver || !isThere || npu === 0) return 'answer';
    isOver = true;
    return what;
  };
}

describe('the expert map', () => {
  it.each(['global', 'hierarchical', 'fixed_primaries'] as const)('should move experts while everybody goes on, and then be better: %s', (policy) => {
    const group = new Group(policy);
    group.tell(rebalance(1, false));
    group.run();
    const [outcome] = group.outcomes;
    expect(outcome).toMatchObject({ trigger: 'asked', installed: true });
    expect(outcome?.after).toBeLessThan(outcome?.before ?? 0);
    expect([...group.balancer.map.expertOfSlot].filter((expert, at) => expert !== -1 && expert !== group.holds[at])).toEqual([]);
    for (const map of group.maps) expect(map.expertOfSlot).toEqual(group.balancer.map.expertOfSlot);
    expect(group.state).toBe('stable');
    expect(group.unexpected).toEqual([]);
    // The same loads again: nothing is better now.
    group.tell(rebalance(2, false));
    group.run();
    expect(group.outcomes[1]).toMatchObject({ installed: false, slots: 0 });
    expect(group.outcomes[1]?.reason).toContain('no layer is predicted better');
  });

  it('should plan by itself when a period is over, unless imbalance is below the threshold', () => {
    const [eager, patient] = [new Group(), new Group('global', 9)];
    for (const group of [eager, patient]) group.run(PERIOD_MS);
    expect(eager.balancer.outcomes).toMatchObject([{ trigger: 'period', installed: true }]);
    expect(patient.balancer.outcomes).toMatchObject([{ trigger: 'period', installed: false }]);
    expect(patient.balancer.outcomes[0]?.reason).toContain('below the threshold of 9');
    eager.run(5 * PERIOD_MS);
    expect(eager.balancer.progress).toBe(5);
    expect(eager.balancer.progress_ms).toBe(5 * PERIOD_MS);
  });

  const FAULTS = STATES.flatMap((state) =>
    (['silence', 'failure', 'death'] as const)
      .filter((what) => what !== 'failure' || state === 'prefetching' || state === 'loading')
      .map((what) => [state, what] as const),
  );

  it.each(FAULTS)('should go back to the last good map, and say why: in %s, %s', (state, what) => {
    const group = new Group();
    group.fault = once(state, what);
    group.tell(rebalance(1, false));
    group.run(120_000);
    const [outcome] = group.outcomes;
    expect(outcome?.reason).toContain(what === 'silence' ? `${state}: ` : what === 'death' ? 'was lost: killed' : 'corrupt');
    expect(outcome?.reason).toContain('the last good map stands');
    expect(group.state).toBe('stable');
    const { map, lost } = group.balancer;
    expect([...map.expertOfSlot].filter((expert, at) => expert !== -1 && expert !== group.holds[at])).toEqual([]);
    for (const [npu, its] of group.maps.entries()) if (!lost.has(npu)) expect(its.expertOfSlot).toEqual(map.expertOfSlot);
    if (lost.size > 0) {
      expect(group.balancer.outcomes.at(-1)?.reason).toContain('is lost');
      for (const npu of lost) {
        group.epochs[npu] = 0;
        group.maps[npu] = toMap(SHAPE, nativeSlots(SHAPE));
        group.tell(npuBack(npu));
      }
    }
    // It is as able as before.
    group.fault = () => 'answer';
    group.tell(rebalance(2, true));
    group.run();
    expect(group.outcomes.at(-1)).toMatchObject({ trigger: 'asked' });
    expect(group.outcomes.at(-1)?.reason).not.toContain('the last good map stands');
    for (const its of group.maps) expect(its.expertOfSlot).toEqual(group.balancer.map.expertOfSlot);
    expect(group.unexpected).toEqual([]);
  });

  it.each(STATES)('should refuse a second rebalance while one is under way: in %s', (state) => {
    const group = new Group();
    const fault = once(state, 'silence');
    group.fault = fault;
    group.tell(rebalance(1, false));
    group.run();
    expect(group.state).toBe(state);
    group.tell(rebalance(2, true));
    group.run();
    expect(group.outcomes).toMatchObject([{ installed: false, reason: `another rebalance is under way, and ${state}` }]);
    group.run(120_000);
    expect(group.outcomes).toHaveLength(2);
  });
});

describe('the log of an expert map', () => {
  const WRITER: Address = 'scaling/0';
  const error = { code: 'deadline_exceeded', message: 'it took too long', param: null } as const;
  /** Where experts lie by the map, all of which are there. */
  const heldBy = (group: Group): number[] => {
    const { map } = group.balancer;
    expect([...map.expertOfSlot].filter((expert, at) => expert !== -1 && expert !== group.holds[at])).toEqual([]);
    for (const its of group.maps) expect(its.expertOfSlot).toEqual(map.expertOfSlot);
    return group.balancer.holders;
  };
  const ask = (group: Group, ...messages: readonly ExpertMapMessage[]): void => {
    for (const message of messages) {
      group.tell(message);
      group.run();
    }
  };

  it.each(['global', 'native'] as const)('should have experts on those alone that an entry names, and back, while everybody goes on: %s', (policy) => {
    const group = new Group(policy);
    ask(group, mapWanted(WRITER, 7, 'scale'), placeExperts(1, [0, 1, 2]));
    expect(group.grants).toEqual([
      { type: 'MAP_GRANTED', query: 7, entry: 1, holders: NPUS },
      { type: 'EXPERTS_PLACED', entry: 1, holders: [0, 1, 2], error: null },
    ]);
    expect(heldBy(group)).toEqual([0, 1, 2]);
    ask(group, mapDone(1, null));
    expect(group.state).toBe('stable');
    // Balanced among those that are there.
    ask(group, rebalance(1, true));
    expect(heldBy(group)).toEqual([0, 1, 2]);
    ask(group, mapWanted(WRITER, 8, 'scale'), placeExperts(3, NPUS), mapDone(3, null));
    expect(heldBy(group)).toEqual(NPUS);
    expect(group.balancer.log.entries.map(({ change, outcome }) => `${change} ${outcome}`)).toEqual([
      'scale installed',
      expect.stringMatching(/^rebalance (installed|unchanged)$/),
      'scale installed',
    ]);
    expect(group.unexpected).toEqual([]);
  });

  it.each(STATES)('should end a rebalance for a scale, at its last good map: in %s', (state) => {
    const group = new Group();
    group.fault = once(state, 'silence');
    ask(group, rebalance(1, true));
    expect(group.state).toBe(state);
    ask(group, mapWanted(WRITER, 7, 'scale'), rebalance(2, true), placeExperts(2, [1, 2, 3]), mapDone(2, null));
    expect(group.outcomes).toMatchObject([
      { outcome: 'aborted', cause: 'another_entry', reason: 'a scale was asked for; the last good map stands' },
      { outcome: 'refused', reason: 'a scale is under way, and held' },
    ]);
    expect(heldBy(group)).toEqual([1, 2, 3]);
    expect(group.state).toBe('stable');
    expect(group.unexpected).toEqual([]);
  });

  const ASKED_OF_SCALE = STATES.filter((state) => state !== 'collecting');

  it.each(ASKED_OF_SCALE)('should tell a scale what went wrong, and take it back where it was: in %s', (state) => {
    for (const what of ['death', 'silence', 'failure'] as const) {
      if (what === 'failure' && state !== 'prefetching' && state !== 'loading') continue;
      const group = new Group();
      group.fault = once(state, what);
      ask(group, mapWanted(WRITER, 7, 'scale'), placeExperts(1, [0, 2, 3]));
      group.run(70_000);
      const [, placed] = group.grants;
      expect(placed).toMatchObject({ type: 'EXPERTS_PLACED', entry: 1, error: { message: expect.stringMatching(/killed|in time|corrupt/) } });
      group.fault = () => 'answer';
      for (const npu of [...group.balancer.lost]) {
        group.epochs[npu] = 0;
        group.maps[npu] = toMap(SHAPE, nativeSlots(SHAPE));
        ask(group, npuBack(npu));
      }
      ask(group, placeExperts(1, NPUS), mapDone(1, error));
      expect(heldBy(group)).toEqual(NPUS);
      expect(group.balancer.log.entries).toMatchObject([{ change: 'scale', outcome: 'rolled_back', reason: 'it took too long' }]);
      expect(group.unexpected).toEqual([]);
    }
  });

  it.each(ASKED_OF_SCALE)('should go to other places, or end, in the middle of a way: in %s', (state) => {
    const [back, over] = [new Group(), new Group()];
    for (const group of [back, over]) {
      group.fault = once(state, 'silence');
      ask(group, mapWanted(WRITER, 7, 'scale'), placeExperts(1, [0, 2, 3]));
      expect(group.state).toBe(state);
    }
    ask(back, placeExperts(1, NPUS));
    expect(back.grants.slice(1)).toEqual([{ type: 'EXPERTS_PLACED', entry: 1, holders: NPUS, error: null }]);
    ask(over, mapDone(1, error));
    expect(over.grants).toHaveLength(1);
    expect([back.state, over.state]).toEqual(['held', 'stable']);
    for (const group of [back, over]) heldBy(group);
  });

  it('should have one writer at a time: what weighs more takes the map from what weighs less, which is then not heard', () => {
    const group = new Group();
    ask(group, mapWanted(WRITER, 1, 'role_switch'), mapWanted(WRITER, 2, 'scale'), mapWanted(WRITER, 3, 'role_switch'), mapWanted(WRITER, 4, 'rehome'));
    expect(group.grants).toMatchObject([
      { type: 'MAP_GRANTED', query: 1, entry: 1 },
      { type: 'MAP_REFUSED', query: 2, error: { code: 'overloaded' } },
      { type: 'MAP_REFUSED', query: 3 },
      { type: 'MAP_TAKEN', entry: 1, error: { code: 'overloaded' } },
      { type: 'MAP_GRANTED', query: 4, entry: 2 },
    ]);
    ask(group, placeExperts(1, [0, 1]), mapDone(1, null));
    expect(group.balancer.holders).toEqual(NPUS);
    expect(group.state).toBe('held');
    // Who says nothing for too long has it no more.
    group.run(130_000);
    expect(group.grants.at(-1)).toMatchObject({ type: 'MAP_TAKEN', entry: 2, error: { code: 'deadline_exceeded' } });
    expect(group.state).toBe('stable');
    expect(group.balancer.log.counts).toContainEqual({ change: 'rehome', outcome: 'aborted', cause: 'deadline', count: 1 });
    expect(group.unexpected).toEqual([]);
  });

  it('should have experts elsewhere than on an NPU that is lost, unless they are there alone', () => {
    const lose = (npu: number): ExpertMapMessage => npuLost(npu, { code: 'worker_lost', message: 'killed', param: null }) as ExpertMapMessage;
    const group = new Group();
    ask(group, mapWanted(WRITER, 1, 'rehome'), placeExperts(1, [0, 1, 2]), lose(3), placeExperts(1, [0, 1]), lose(1), placeExperts(1, [0]));
    const places = group.grants.slice(1).map((message) => (message.type === 'EXPERTS_PLACED' ? (message.error?.message ?? message.holders) : message.type));
    expect(places).toEqual([[0, 1, 2], [0, 1], 'expert NPUs 3, 1 of the group are lost, with experts that are nowhere else']);
    expect(group.balancer.holders).toEqual([0, 1]);
  });
});
