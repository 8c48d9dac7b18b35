/** The actor of an expert map alone: its NPUs answer, fail, die or say nothing, in any of its states. @module */
import { expect } from 'vitest';
import { expertMap } from '../../actors/expert-map.ts';
import type { ExpertBalancer } from '../../actors/policies/expert-balancer.ts';
import { type ExpertMap, expertMap as toMap } from '../../actors/policies/expert-placement/expert-map.ts';
import { nativeSlots } from '../../actors/policies/expert-placement/native.ts';
import type { PlacementPolicy } from '../../actors/policies/expert-placement/policies.ts';
import { type Address, idOf, roleOf } from '../../src/protocol/address.ts';
import { npuLost } from '../../src/protocol/constructors.ts';
import {
  broadcastFailed,
  type ExpertMapMessage,
  type ExpertWork,
  loadsCollected,
  mapInstalled,
  npuBack,
  type RebalanceOutcome,
  slotDone,
  slotFailed,
  timeTold,
} from '../../src/protocol/expert-maps.ts';
import type { MapGrantMessage } from '../../src/protocol/map-log.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import { Cast, type Mail } from '../../src/runtime/cast.ts';

const SELF: Address = 'expert-map/0';
export const NPUS = [0, 1, 2, 3];
export const SHAPE = { layers: 2, experts: 6, slots: 12, ranks: 4, nodes: 1, groups: 1 };
export const PERIOD_MS = 50_000;
/** Of a slot's weights. */
export const SLOT_BYTES = 1_000;
export const SUCCESSOR_MS = 3_000;

export type Fault = (npu: number, work: ExpertWork) => 'answer' | 'silence' | 'failure' | 'death' | 'no broadcast';

/** The map's actor alone; its NPUs are these few lines, each of which knows what its slots hold. */
export class Group {
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

  /** NPUs that are back, and have not heard of a map yet. */
  readonly #isNew = new Set<number>();
  /** What came from the checkpoint. */
  readonly read: (ExpertWork & { kind: 'stage' })[] = [];
  readonly grants: MapGrantMessage[] = [];
  readonly experts: { readonly to: Address; readonly message: Message }[] = [];
  /** What its task executor was told that nobody can compute; null: nothing any more. */
  readonly nowhere: (string | null)[] = [];

  /** `shared`: NPUs that have the shared expert. */
  constructor(policy: PlacementPolicy = 'global', threshold = 1, shared: readonly number[] = []) {
    this.#cast = new Cast({
      birthOf: () => null,
      hands: new Map([
        ['npu', ({ to, message }: Mail) => this.#work(idOf(to), message)],
        ['control', ({ message }: Mail) => void (message.type === 'REBALANCED' && this.outcomes.push(message.report))],
        ['expert', ({ to, message }: Mail) => void this.experts.push({ to, message })],
        ['scaling', ({ message }: Mail) => void this.grants.push(message as MapGrantMessage)],
        // It is told who holds experts, too.
        ['task-executor', ({ message }: Mail) => void (message.type === 'EXPERTS_NOWHERE' && this.nowhere.push(message.error?.message ?? null))],
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
    const input = {
      self: SELF,
      tells: 'task-executor/0',
      askers: NPUS,
      first: 0,
      shared,
      layers: [3, 5],
      movable: true,
      settings,
      period_ms: PERIOD_MS,
      successor_ms: SUCCESSOR_MS,
      shape: SHAPE,
      slots: [...nativeSlots(SHAPE)],
      scaling: null,
    };
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

  /** Its memory is as it was; it sorts by the first map. */
  lose(npu: number): void {
    this.tell(npuLost(npu, { code: 'worker_lost', message: 'killed', param: null }) as ExpertMapMessage);
    this.run(this.now_ms);
  }

  returns(npu: number): void {
    this.#isNew.add(npu);
    this.epochs[npu] = 0;
    this.maps[npu] = toMap(SHAPE, nativeSlots(SHAPE));
    this.tell(npuBack(npu));
    this.run(this.now_ms);
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
        // Who is lost sorts nothing; who is back is refused until he has heard of a map.
        if (!isHeld && !this.balancer.lost.has(npu) && !this.#isNew.has(npu))
          throw new Error(`expert ${entry % SHAPE.experts} of layer ${layer} is nowhere that a map says`);
      }
  }

  /** Nobody who lives may ask for it any more. */
  #emptied(at: number): void {
    for (const [asker, map] of this.maps.entries())
      if (!this.balancer.lost.has(asker) && !this.#isNew.has(asker)) expect(map.expertOfSlot[at], `npu/${asker}'s map`).toBe(-1);
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
    if (fault === 'no broadcast' && 'change' in work)
      this.tell(broadcastFailed(npu, work.change, { code: 'deadline_exceeded', message: 'it did not come', param: null }));
    else if (fault === 'failure' && 'change' in work) this.tell(slotFailed(npu, work.change, { code: 'memory_fault', message: 'corrupt', param: null }));
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
      this.#isNew.delete(npu);
      if (work.epoch > (this.epochs[npu] as number)) {
        this.maps[npu] = toMap(SHAPE, slots);
        this.epochs[npu] = work.epoch;
      }
      this.tell(mapInstalled(npu, this.epochs[npu] as number));
    } else if (work.kind === 'broadcast') {
      // Who is asked to set them aside gets them from there.
      expect(work.broadcast.npus[0]).toBe(npu);
    } else if (work.kind === 'withdraw' || work.kind === 'look') {
      // Nobody waits for its answer.
    } else if (work.kind === 'stage') {
      const at = work.layer * SHAPE.slots + work.slot;
      if (work.source >= 0) expect(this.holds[work.layer * SHAPE.slots + work.source]).toBe(work.expert);
      else this.read.push(work);
      // They go straight there.
      if (work.is_free) this.#emptied(at);
      this.#staged.set(work.change, { at, expert: work.expert });
      this.tell(slotDone(npu, work.change, SLOT_BYTES));
    } else if (work.kind === 'empty') {
      this.#emptied(work.layer * SHAPE.slots + work.slot);
      this.tell(slotDone(npu, work.change, 0));
    } else {
      const { at, expert } = this.#staged.get(work.change) as { at: number; expert: number };
      this.#emptied(at);
      this.holds[at] = expert;
      this.tell(slotDone(npu, work.change, 0));
    }
  }
}

/** In which state it is when an NPU is asked for that. */
const ASKED_IN = { collecting: 'collect', prefetching: 'stage', disabling: 'install', loading: 'load' } as const;
export type Asked = keyof typeof ASKED_IN | 'enabling';
export const STATES: readonly Asked[] = ['collecting', 'prefetching', 'disabling', 'loading', 'enabling'];

/** The fault, once, at the first NPU that is asked in that state. */
export function once(state: Asked, what: ReturnType<Fault>): Fault {
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
