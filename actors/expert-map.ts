/**
 * The expert map of an EP group: where its experts' replicas lie, and the loop that moves them while steps run (xDeepServe §4.5).
 *
 *   stable ─▶ collecting ─▶ selecting ─▶ prefetching ─▶ disabling ─▶ loading ─▶ enabling ─▶ settled ─▶ stable, held
 *     ▲ │          │            │         ▲   ▲ │            │           │          │           │
 *     │ │          ▼            ▼         │   │ │            │           │          │           │
 *     │ │ ◀────────┴── the present map    │   └─┼── more rounds ─────────────────────────────────┘
 *     │ ▼                   stays         │     ▼            ▼           ▼          ▼
 *    held ────────▶ placing ──────────────┘    rolling back ─────────────────────────▶ stable, held
 *
 * Held: somebody else's entry of the map's log is open (src/protocol/map-log.ts), a scale's say, who has experts placed and says when it is over. A rebalance that is
 * under way then goes back to its last good map first.
 *
 * While an NPU is lost, the other replicas of its experts serve, by a map without its own (ReviveMoE); what has no other is waited for, until its successor is there.
 *
 * Tokens never pass here. A slot is loaded only when every NPU that sorts tokens goes by a map without it; one that is late all the same is refused by who
 * has the slot. Every state but stable has a deadline; whatever fails leads back to the last good map, with a reason in the log. The map's epoch rises with each
 * map that is sent, and NPUs keep the latest: who does not own it any more changes nothing.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { BROADCAST_MS_MAX, broadcastsOverdue, type ExpertMapMessage, periodOver, stateOverdue } from '../src/protocol/expert-maps.ts';
import type { Commands } from '../src/protocol/messages.ts';
import { ExpertBalancer } from './policies/expert-balancer.ts';
import { expertMap as toExpertMap } from './policies/expert-placement/expert-map.ts';
import type { PlacementShape } from './policies/expert-placement/placement-shape.ts';
import type { BalancerSettings } from './policies/map-plans.ts';
import type { BalancerSeat } from './policies/reconfiguration.ts';

/** `period_ms`: null: experts move for others' entries alone. `shape`, `slots`: what slots hold at first. */
type Input = BalancerSeat & {
  readonly settings: BalancerSettings;
  readonly period_ms: number | null;
  readonly shape: PlacementShape;
  readonly slots: readonly number[];
};
type Context = { self: Address; period_ms: number | null; balancer: ExpertBalancer; turn: number; state: string; outbox: readonly Commands['send'][] };

/** NPUs answer between two parts of a step: milliseconds; a prefill on a crowded machine takes longer. */
const ANSWER_MS_MAX = 10_000;
/** Of weights that are copied beside steps. */
const COPY_MS_MAX = 60_000;
/** Whoever holds the map does something with it: a scale has 30 s, and as long again to revert. */
const HELD_MS_MAX = 120_000;

/** States in which no round is under way: a map that says who is lost, or is back, disturbs nothing. In all others the way back tells. */
const NO_ROUND: ReadonlySet<string> = new Set(['stable', 'held', 'collecting', 'rolling back']);

export const expertMap = setup({
  types: {} as { input: Input; context: Context; events: ExpertMapMessage },
  actions: {
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    afterEach: (_, _commands: Commands['afterEach']) => {},
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
      outbox: ({ context: { balancer, state }, event }) => (event.type === 'REBALANCE' ? balancer.refuse(event.query, state) : []),
    }),
    want: assign({ outbox: ({ context: { balancer }, event }) => (event.type === 'MAP_WANTED' ? balancer.want(event) : []) }),
    grant: assign({ outbox: ({ context: { balancer } }) => balancer.grant() }),
    place: assign({
      balancer: ({ context: { balancer }, event }) => {
        if (event.type === 'PLACE_EXPERTS') balancer.place(event.holders);
        return balancer;
      },
    }),
    planPlacement: assign({
      balancer: ({ context: { balancer } }) => {
        balancer.planPlacement();
        return balancer;
      },
    }),
    release: assign({
      balancer: ({ context: { balancer }, event }) => {
        if (event.type === 'MAP_DONE') balancer.done(event.error);
        return balancer;
      },
    }),
    abandon: assign({
      outbox: ({ context: { balancer } }) => balancer.release('aborted', 'deadline', `its writer held it for more than ${HELD_MS_MAX / 1000} s`),
    }),
    giveUpPlacing: assign({
      balancer: ({ context: { balancer }, event }) => {
        if (event.type === 'MAP_DONE') balancer.leave(event.error);
        return balancer;
      },
    }),
    take: assign({
      balancer: ({ context: { balancer }, event }) => {
        if (event.type === 'LOADS_COLLECTED') balancer.collected(event.npu, event.tokens);
        else if (event.type === 'MAP_INSTALLED') balancer.moves.installed(event.npu, event.epoch);
        else if (event.type === 'SLOT_DONE') balancer.slotDone(event.change, event.bytes);
        else if (event.type === 'SLOT_FAILED') balancer.slotFailed(event.change, event.error);
        else if (event.type === 'NPU_LOST') balancer.lose(event.npu, event.error.message);
        return balancer;
      },
    }),
    pullInstead: assign({
      outbox: ({ context: { balancer }, event }) =>
        event.type === 'BROADCAST_FAILED' ? balancer.broadcastFailed(event.change, event.error.message) : balancer.broadcastsOverdue(),
    }),
    giveUp: assign({
      balancer: ({ context: { balancer, state } }) => {
        balancer.overdue(state);
        return balancer;
      },
    }),
    spareLost: assign({ outbox: ({ context: { balancer, state } }) => (NO_ROUND.has(state) ? balancer.moves.spareLost() : []) }),
    welcome: assign({
      outbox: ({ context: { balancer, state }, event }) => (event.type === 'NPU_BACK' ? balancer.moves.welcome(event.npu, NO_ROUND.has(state)) : []),
    }),
    select: assign({
      balancer: ({ context: { balancer } }) => {
        balancer.select();
        return balancer;
      },
    }),
    stage: assign({ outbox: ({ context: { balancer } }) => balancer.moves.stage() }),
    disable: assign({ outbox: ({ context: { balancer } }) => balancer.moves.disable() }),
    load: assign({ outbox: ({ context: { balancer } }) => balancer.moves.load() }),
    enable: assign({ outbox: ({ context: { balancer } }) => balancer.moves.enable() }),
    rollBack: assign({ outbox: ({ context: { balancer } }) => balancer.moves.rollBack() }),
    settle: assign({ outbox: ({ context: { balancer } }) => balancer.moves.settle() }),
    finish: assign({ outbox: ({ context: { balancer } }) => balancer.finish() }),
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
    allHaveAnswered: ({ context }) => !context.balancer.moves.waits,
    hasRounds: ({ context }) => context.balancer.moves.hasRounds,
    isWanted: ({ context }) => context.balancer.isWanted,
    isHeld: ({ context }) => context.balancer.isHeld,
    hasToPlace: ({ context }) => context.balancer.hasToPlace,
    isOfOpenEntry: ({ context, event }) => (event.type === 'PLACE_EXPERTS' || event.type === 'MAP_DONE') && context.balancer.log.isOpen(event.entry),
    isOfThisState: ({ context, event }) => (event.type === 'STATE_OVERDUE' || event.type === 'BROADCASTS_OVERDUE') && event.turn === context.turn,
  },
}).createMachine({
  id: 'expert-map',
  context: ({ input: { self, askers, first, needed, layers, settings, period_ms, shape, slots } }) => ({
    self,
    period_ms,
    balancer: new ExpertBalancer({ self, askers, first, needed, layers }, settings, toExpertMap(shape, Int32Array.from(slots))),
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
    BROADCAST_FAILED: { actions: ['pullInstead', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    NPU_LOST: { actions: ['take', 'spareLost', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    NPU_BACK: { actions: ['welcome', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    TIME_TOLD: { actions: 'noteTime' },
    // Of a period that ended while a rebalance was under way: that one is the progress.
    PERIOD_OVER: {},
    STATE_OVERDUE: { guard: 'isOfThisState', actions: 'giveUp' },
    BROADCASTS_OVERDUE: [{ guard: 'isOfThisState', actions: ['pullInstead', { type: 'sendEach', params: ({ context }) => context.outbox }] }, {}],
    REBALANCE: { actions: ['refuseSecond', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    MAP_WANTED: { actions: ['want', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    // Of an entry that is over: its writer is not heard.
    PLACE_EXPERTS: [{ guard: 'isOfOpenEntry', actions: 'place' }, {}],
    MAP_DONE: [{ guard: 'isOfOpenEntry', actions: 'giveUpPlacing' }, {}],
  },
  states: {
    starting: { entry: { type: 'claim', params: { claim: { kind: 'time' } } }, always: 'stable' },
    stable: {
      entry: [
        { type: 'nextTurn', params: { state: 'stable' } },
        { type: 'cancel', params: { id: 'period' } },
        {
          type: 'afterEach',
          params: ({ context: { period_ms } }) => (period_ms === null ? [] : [{ id: 'period', delay_ms: period_ms, message: periodOver() }]),
        },
      ],
      on: { PERIOD_OVER: 'collecting', REBALANCE: 'collecting', STATE_OVERDUE: {} },
      always: { guard: 'isWanted', target: 'granting' },
    },
    // At once, as is placing.
    granting: {
      entry: ['grant', { type: 'sendEach', params: ({ context }) => context.outbox }, { type: 'claim', params: { claim: { kind: 'time' } } }],
      always: 'held',
    },
    held: {
      entry: [
        { type: 'nextTurn', params: { state: 'held' } },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: HELD_MS_MAX, message: stateOverdue(turn) }) },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      on: {
        PLACE_EXPERTS: [{ guard: 'isOfOpenEntry', target: 'placing', actions: 'place' }, {}],
        MAP_DONE: [{ guard: 'isOfOpenEntry', target: 'stable', actions: 'release' }, {}],
        STATE_OVERDUE: [{ guard: 'isOfThisState', target: 'stable', actions: ['abandon', { type: 'sendEach', params: ({ context }) => context.outbox }] }, {}],
      },
      always: { guard: 'isWanted', target: 'granting' },
    },
    placing: {
      entry: 'planPlacement',
      always: [{ guard: 'hasFailed', target: 'ending' }, { guard: 'hasRounds', target: 'prefetching' }, { target: 'ending' }],
    },
    collecting: {
      entry: [
        { type: 'nextTurn', params: { state: 'collecting' } },
        { type: 'claim', params: { claim: { kind: 'time' } } },
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
        { type: 'claim', params: { claim: { kind: 'time' } } },
        'stage',
        { type: 'sendEach', params: ({ context }) => context.outbox },
        { type: 'after', params: ({ context: { turn } }) => ({ id: 'overdue', delay_ms: COPY_MS_MAX, message: stateOverdue(turn) }) },
        {
          type: 'afterEach',
          params: ({ context: { balancer, turn } }) =>
            balancer.moves.broadcasts.size > 0 ? [{ id: 'broadcasts', delay_ms: BROADCAST_MS_MAX, message: broadcastsOverdue(turn) }] : [],
        },
      ],
      exit: [
        { type: 'cancel', params: { id: 'overdue' } },
        { type: 'cancel', params: { id: 'broadcasts' } },
      ],
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'disabling' },
      ],
    },
    disabling: {
      entry: [
        { type: 'nextTurn', params: { state: 'disabling' } },
        { type: 'claim', params: { claim: { kind: 'time' } } },
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
        { type: 'claim', params: { claim: { kind: 'time' } } },
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
        { type: 'claim', params: { claim: { kind: 'time' } } },
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
      entry: ['settle', { type: 'sendEach', params: ({ context }) => context.outbox }],
      always: [{ guard: 'hasRounds', target: 'prefetching' }, { target: 'ending' }],
    },
    rollingBack: {
      entry: [
        { type: 'nextTurn', params: { state: 'rolling back' } },
        { type: 'claim', params: { claim: { kind: 'time' } } },
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
      always: [
        { guard: 'isWanted', target: 'granting' },
        { guard: 'hasToPlace', target: 'placing' },
        { guard: 'isHeld', target: 'held' },
        { target: 'stable' },
      ],
    },
  },
});
