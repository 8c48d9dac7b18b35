/**
 * The expert map of an EP group: where its experts' replicas lie, and the loop that moves them while steps run (xDeepServe §4.5).
 *
 *   stable ─▶ collecting ─▶ selecting ─▶ prefetching ─▶ disabling ─▶ loading ─▶ enabling ─▶ settled ─▶ stable
 *     ▲            │            │             ▲ │            │           │          │           │
 *     │            ▼            ▼             │ │            │           │          │           │
 *     └────────────┴── the present map stays  └─┼── more rounds ─────────────────────────────────┘
 *     └───────────────── rolling back ◀─────────┴────────────┴───────────┴──────────┘
 *
 * Tokens never pass here. A slot is loaded only when every NPU that sorts tokens goes by a map without it; one that is late all the same is refused by who
 * has the slot. Every state but stable has a deadline; whatever fails leads back to the last good map, with a reason in the log. The map's epoch rises with each
 * map that is sent, and NPUs keep the latest: who does not own it any more changes nothing.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { type ExpertMapMessage, periodOver, rebalanced, stateOverdue } from '../src/protocol/expert-maps.ts';
import type { Commands } from '../src/protocol/messages.ts';
import { type BalancerSeat, type BalancerSettings, ExpertBalancer } from './policies/expert-balancer.ts';
import { expertMap as toExpertMap } from './policies/expert-placement/expert-map.ts';
import type { PlacementShape } from './policies/expert-placement/placement-shape.ts';

/** `shape`, `slots`: what slots hold at first. */
type Input = BalancerSeat & {
  readonly settings: BalancerSettings;
  readonly period_ms: number;
  readonly shape: PlacementShape;
  readonly slots: readonly number[];
};
type Context = { self: Address; period_ms: number; balancer: ExpertBalancer; turn: number; state: string; outbox: readonly Commands['send'][] };

const CONTROL: Address = 'control/0';
/** NPUs answer between two parts of a step: milliseconds; a prefill on a crowded machine takes longer. */
const ANSWER_MS_MAX = 10_000;
/** Of weights that are copied beside steps. */
const COPY_MS_MAX = 60_000;

export const expertMap = setup({
  types: {} as { input: Input; context: Context; events: ExpertMapMessage },
  actions: {
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    claim: (_, _command: Commands['claim']) => {},
    begin: assign({
      outbox: ({ context: { balancer }, event }) => {
        if (event.type === 'REBALANCE') balancer.begin('asked', event.query, event.force);
        else balancer.begin('period', -1, false);
        return balancer.hasFailed ? [] : balancer.collect();
      },
    }),
    refuseSecond: assign({
      outbox: ({ context: { balancer, state }, event }) => {
        if (event.type !== 'REBALANCE') return [];
        const reason = `another rebalance is under way, and ${state}`;
        const nothing = { trigger: 'asked', installed: false, reason, before: 0, after: 0, slots: 0, epoch: balancer.epoch } as const;
        return [{ to: CONTROL, message: rebalanced(event.query, nothing) }];
      },
    }),
    take: assign({
      balancer: ({ context: { balancer }, event }) => {
        if (event.type === 'LOADS_COLLECTED') balancer.collected(event.npu, event.tokens);
        else if (event.type === 'MAP_INSTALLED') balancer.installed(event.npu, event.epoch);
        else if (event.type === 'SLOT_DONE') balancer.done(event.change);
        else if (event.type === 'SLOT_FAILED') balancer.failed(event.change, event.error.message);
        else if (event.type === 'NPU_LOST') balancer.lose(event.npu, event.error.message);
        return balancer;
      },
    }),
    giveUp: assign({
      balancer: ({ context: { balancer, state } }) => {
        balancer.overdue(state);
        return balancer;
      },
    }),
    welcome: assign({ outbox: ({ context: { balancer }, event }) => (event.type === 'NPU_BACK' ? balancer.welcome(event.npu) : []) }),
    select: assign({
      balancer: ({ context: { balancer } }) => {
        balancer.select();
        return balancer;
      },
    }),
    stage: assign({ outbox: ({ context: { balancer } }) => balancer.stage() }),
    disable: assign({ outbox: ({ context: { balancer } }) => balancer.disable() }),
    load: assign({ outbox: ({ context: { balancer } }) => balancer.load() }),
    enable: assign({ outbox: ({ context: { balancer } }) => balancer.enable() }),
    rollBack: assign({ outbox: ({ context: { balancer } }) => balancer.rollBack() }),
    settle: assign({
      balancer: ({ context: { balancer } }) => {
        balancer.settle();
        return balancer;
      },
    }),
    finish: assign({
      outbox: ({ context: { balancer } }) => {
        const { query } = balancer;
        const outcome = balancer.finish();
        return query < 0 ? [] : [{ to: CONTROL, message: rebalanced(query, outcome) }];
      },
    }),
    noteTime: assign({
      balancer: ({ context: { balancer }, event }) => {
        if (event.type === 'TIME_TOLD') balancer.progress_ms = event.now_ms;
        return balancer;
      },
    }),
    nextTurn: assign({ turn: ({ context }) => context.turn + 1, state: (_, { state }: { state: string }) => state }),
  },
  guards: {
    hasFailed: ({ context }) => context.balancer.hasFailed,
    allHaveAnswered: ({ context }) => !context.balancer.waits,
    hasRounds: ({ context }) => context.balancer.hasRounds,
    isOfThisState: ({ context, event }) => event.type === 'STATE_OVERDUE' && event.turn === context.turn,
  },
}).createMachine({
  id: 'expert-map',
  context: ({ input: { self, askers, first, settings, period_ms, shape, slots } }) => ({
    self,
    period_ms,
    balancer: new ExpertBalancer({ self, askers, first }, settings, toExpertMap(shape, Int32Array.from(slots))),
    turn: 0,
    state: 'stable',
    outbox: [],
  }),
  initial: 'starting',
  on: {
    LOADS_COLLECTED: { actions: 'take' },
    MAP_INSTALLED: { actions: 'take' },
    SLOT_DONE: { actions: 'take' },
    SLOT_FAILED: { actions: 'take' },
    NPU_LOST: { actions: 'take' },
    NPU_BACK: { actions: ['welcome', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    TIME_TOLD: { actions: 'noteTime' },
    // Of a period that ended while a rebalance was under way: that one is the progress.
    PERIOD_OVER: {},
    STATE_OVERDUE: { guard: 'isOfThisState', actions: 'giveUp' },
    REBALANCE: { actions: ['refuseSecond', { type: 'sendEach', params: ({ context }) => context.outbox }] },
  },
  states: {
    starting: { entry: { type: 'claim', params: { claim: { kind: 'time' } } }, always: 'stable' },
    stable: {
      entry: [
        { type: 'nextTurn', params: { state: 'stable' } },
        { type: 'cancel', params: { id: 'period' } },
        { type: 'after', params: ({ context: { period_ms } }) => ({ id: 'period', delay_ms: period_ms, message: periodOver() }) },
      ],
      on: { PERIOD_OVER: 'collecting', REBALANCE: 'collecting', STATE_OVERDUE: {} },
    },
    collecting: {
      entry: [
        { type: 'nextTurn', params: { state: 'collecting' } },
        'begin',
        { type: 'sendEach', params: ({ context }) => context.outbox },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: ANSWER_MS_MAX, message: stateOverdue(turn) }) },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      always: [
        { guard: 'hasFailed', target: 'ending' },
        { guard: 'allHaveAnswered', target: 'selecting' },
      ],
    },
    // At once: it waits for nobody.
    selecting: {
      entry: 'select',
      always: [{ guard: 'hasRounds', target: 'prefetching' }, { target: 'ending' }],
    },
    prefetching: {
      entry: [
        { type: 'nextTurn', params: { state: 'prefetching' } },
        'stage',
        { type: 'sendEach', params: ({ context }) => context.outbox },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: COPY_MS_MAX, message: stateOverdue(turn) }) },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'disabling' },
      ],
    },
    disabling: {
      entry: [
        { type: 'nextTurn', params: { state: 'disabling' } },
        'disable',
        { type: 'sendEach', params: ({ context }) => context.outbox },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: ANSWER_MS_MAX, message: stateOverdue(turn) }) },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'loading' },
      ],
    },
    loading: {
      entry: [
        { type: 'nextTurn', params: { state: 'loading' } },
        'load',
        { type: 'sendEach', params: ({ context }) => context.outbox },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: COPY_MS_MAX, message: stateOverdue(turn) }) },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'enabling' },
      ],
    },
    enabling: {
      entry: [
        { type: 'nextTurn', params: { state: 'enabling' } },
        'enable',
        { type: 'sendEach', params: ({ context }) => context.outbox },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: ANSWER_MS_MAX, message: stateOverdue(turn) }) },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'settled' },
      ],
    },
    // At once, as is ending.
    settled: {
      entry: 'settle',
      always: [{ guard: 'hasRounds', target: 'prefetching' }, { target: 'ending' }],
    },
    rollingBack: {
      entry: [
        { type: 'nextTurn', params: { state: 'rolling back' } },
        'rollBack',
        { type: 'sendEach', params: ({ context }) => context.outbox },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: ANSWER_MS_MAX, message: stateOverdue(turn) }) },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      // Who has not heard of it goes by an older map: he is refused where that is wrong, and is told again with the next one.
      on: { STATE_OVERDUE: { guard: 'isOfThisState', target: 'ending' } },
      always: { guard: 'allHaveAnswered', target: 'ending' },
    },
    ending: {
      entry: ['finish', { type: 'sendEach', params: ({ context }) => context.outbox }, { type: 'claim', params: { claim: { kind: 'time' } } }],
      always: 'stable',
    },
  },
});
