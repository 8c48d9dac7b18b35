/**
 * The expert map of an EP group: where its experts' replicas lie, and the loop that moves them while steps run (xDeepServe §4.5).
 *
 *   stable ─▶ collecting ─▶ selecting ─▶ prefetching ─▶ disabling ─▶ loading ─▶ enabling ─▶ settled ─▶ stable, held
 *     ▲ │          │            │         ▲   ▲ │            │           │          │           │
 *     │ │          ▼            ▼         │   │ │            │           │          │           │
 *     │ │ ◀────────┴── the present map    │   └─┼── more rounds ─────────────────────────────────┘
 *     │ ▼                   stays         │     ▼            ▼           ▼          ▼
 *    held ────────▶ placing ──────────────┤    rolling back ─────────────────────────▶ stable, held
 *     └──────────▶ rehoming ──────────────┘     as soon as an NPU is lost that has experts: from stable, held, and where a way has ended
 *
 * Held: somebody else's entry of the map's log is open (src/protocol/map-log.ts), a scale's say, who has experts placed and says when it is over. A rebalance that is
 * under way then goes back to its last good map first.
 *
 * Rehoming: while an NPU is lost, the other replicas of its experts serve, by a map without its own (ReviveMoE); what has no other is waited for, until its successor is
 * there, or none has come for too long: then it is loaded onto those that are left. It is an entry of the log too, which takes the map from whoever has it.
 *
 * Tokens never pass here. A slot is loaded only when every NPU that sorts tokens goes by a map without it; one that is late all the same is refused by who
 * has the slot. Every state but stable has a deadline; whatever fails leads back to the last good map, with a reason in the log. The map's epoch rises with each
 * map that is sent, and NPUs keep the latest: who does not own it any more changes nothing.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { BROADCAST_MS_MAX, broadcastsOverdue, type ExpertMapMessage, npuGone, periodOver, rehomeAgain, stateOverdue } from '../src/protocol/expert-maps.ts';
import type { Commands } from '../src/protocol/messages.ts';
import { ExpertBalancer } from './policies/expert-balancer.ts';
import { expertMap as toExpertMap } from './policies/expert-placement/expert-map.ts';
import type { PlacementShape } from './policies/expert-placement/placement-shape.ts';
import type { BalancerSettings } from './policies/map-plans.ts';
import type { MapSeat } from './policies/map-writers.ts';
import { ShapeNews } from './policies/shape-news.ts';

/**
 * `period_ms`: null: experts move for others' entries alone. `successor_ms`: so long a lost NPU's successor is waited for; 0: there is none to come, null: for ever.
 * `shape`, `slots`: what slots hold at first. `scaling`: who changes how many NPUs have experts; null: nobody does.
 */
type Input = MapSeat & {
  readonly settings: BalancerSettings;
  readonly period_ms: number | null;
  readonly successor_ms: number | null;
  readonly shape: PlacementShape;
  readonly slots: readonly number[];
  readonly scaling: Address | null;
};
type Context = Pick<Input, 'self' | 'period_ms' | 'successor_ms'> & {
  balancer: ExpertBalancer;
  news: ShapeNews;
  turn: number;
  state: string;
  outbox: readonly Commands['send'][];
};

/** NPUs answer between two parts of a step: milliseconds; a prefill on a crowded machine takes longer. */
const ANSWER_MS_MAX = 10_000;
/** Of weights that are copied beside steps. */
const COPY_MS_MAX = 60_000;
/** Whoever holds the map does something with it: a scale has 30 s, and as long again to revert. */
const HELD_MS_MAX = 120_000;

/** Between two tries of a rehoming that fails: of a disk that cannot be read, say. */
const REHOME_AGAIN_MS = 1_000;

/** By state: so long it may wait in it, for somebody else. The others are over at once, but stable, which waits for the period's end. */
export const STATE_MS_MAX = {
  held: HELD_MS_MAX,
  rehoming: ANSWER_MS_MAX,
  collecting: ANSWER_MS_MAX,
  prefetching: COPY_MS_MAX,
  disabling: ANSWER_MS_MAX,
  loading: COPY_MS_MAX,
  enabling: ANSWER_MS_MAX,
  rollingBack: ANSWER_MS_MAX,
} as const;

type Here = { readonly context: Context };
const enter = (state: string) => ({ type: 'nextTurn' as const, params: { state } });
const askTime = { type: 'claim' as const, params: { claim: { kind: 'time' as const } } };
const tell = { type: 'sendEach' as const, params: ({ context }: Here) => context.outbox };
const overdueIn = (state: keyof typeof STATE_MS_MAX) => ({
  type: 'after' as const,
  params: ({ context: { turn } }: Here): Commands['after'] => ({ id: 'overdue', delay_ms: STATE_MS_MAX[state], message: stateOverdue(turn) }),
});
const inTime = { type: 'cancel' as const, params: { id: 'overdue' } };
/** Where a plan leads. */
const planned = [{ guard: 'hasFailed', target: 'ending' }, { guard: 'hasRounds', target: 'prefetching' }, { target: 'ending' }] as const;
const awaitSuccessor = {
  type: 'afterEach' as const,
  params: ({ context: { balancer, successor_ms }, event }: { context: Context; event: ExpertMapMessage }): Commands['afterEach'] =>
    event.type === 'NPU_LOST' && successor_ms !== null && successor_ms > 0 && balancer.moves.holds(event.npu)
      ? [{ id: `successor-${event.npu}`, delay_ms: successor_ms, message: npuGone(event.npu) }]
      : [],
};

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
        if (event.type === 'MAP_DONE') balancer.done(event.error, event.told);
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
      balancer: ({ context: { balancer, successor_ms }, event }) => {
        if (event.type === 'LOADS_COLLECTED') balancer.collected(event.npu, event.tokens);
        else if (event.type === 'MAP_INSTALLED') balancer.moves.installed(event.npu, event.epoch);
        else if (event.type === 'SLOT_DONE') balancer.slotDone(event.change, event.bytes);
        else if (event.type === 'SLOT_FAILED') balancer.slotFailed(event.change, event.error);
        else if (event.type === 'NPU_LOST') balancer.lose(event.npu, event.error.message, successor_ms === 0);
        else if (event.type === 'NPU_GONE') balancer.gone(event.npu);
        else if (event.type === 'REHOME_AGAIN') balancer.rehoming.again();
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
    spareLost: assign({ outbox: ({ context: { balancer } }) => balancer.moves.spareLost() }),
    welcome: assign({ outbox: ({ context: { balancer }, event }) => (event.type === 'NPU_BACK' ? balancer.back(event.npu) : []) }),
    noteShape: assign({ outbox: ({ context: { balancer, news } }) => news.take(balancer) }),
    beginRehoming: assign({ outbox: ({ context: { balancer } }) => balancer.beginRehoming() }),
    planRehoming: assign({
      balancer: ({ context: { balancer } }) => {
        balancer.planRehoming();
        return balancer;
      },
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
    // Whoever hears that experts are where he wanted them has heard who has them.
    finish: assign({
      outbox: ({ context: { balancer, news } }) => {
        const told = balancer.finish();
        return [...news.take(balancer), ...told];
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
    allHaveAnswered: ({ context }) => !context.balancer.moves.waits,
    hasRounds: ({ context }) => context.balancer.moves.hasRounds,
    mustRehome: ({ context }) => context.balancer.mustRehome,
    isWanted: ({ context }) => context.balancer.isWanted,
    isHeld: ({ context }) => context.balancer.isHeld,
    hasToPlace: ({ context }) => context.balancer.hasToPlace,
    isOfOpenEntry: ({ context, event }) => (event.type === 'PLACE_EXPERTS' || event.type === 'MAP_DONE') && context.balancer.log.isOpen(event.entry),
    isOfThisState: ({ context, event }) => (event.type === 'STATE_OVERDUE' || event.type === 'BROADCASTS_OVERDUE') && event.turn === context.turn,
  },
}).createMachine({
  id: 'expert-map',
  context: ({ input: { settings, period_ms, successor_ms, shape, slots, scaling, ...seat } }) => {
    const { self } = seat;
    const balancer = new ExpertBalancer(seat, settings, toExpertMap(shape, Int32Array.from(slots)));
    return { self, period_ms, successor_ms, balancer, news: new ShapeNews(scaling, balancer), turn: 0, state: 'stable', outbox: [] };
  },
  initial: 'starting',
  on: {
    LOADS_COLLECTED: { actions: 'take' },
    MAP_INSTALLED: { actions: 'take' },
    SLOT_DONE: { actions: 'take' },
    SLOT_FAILED: { actions: 'take' },
    BROADCAST_FAILED: { actions: ['pullInstead', tell] },
    NPU_LOST: { actions: ['take', 'noteShape', tell, awaitSuccessor] },
    NPU_GONE: { actions: ['take', 'noteShape', tell] },
    REHOME_AGAIN: { actions: 'take' },
    NPU_BACK: {
      actions: ['welcome', tell, 'noteShape', tell, { type: 'cancel', params: ({ event }) => ({ id: `successor-${event.npu}` }) }],
    },
    TIME_TOLD: { actions: 'noteTime' },
    // Of a period that ended while a rebalance was under way: that one is the progress.
    PERIOD_OVER: {},
    STATE_OVERDUE: { guard: 'isOfThisState', actions: 'giveUp' },
    BROADCASTS_OVERDUE: [{ guard: 'isOfThisState', actions: ['pullInstead', tell] }, {}],
    REBALANCE: { actions: ['refuseSecond', tell] },
    MAP_WANTED: { actions: ['want', tell] },
    // Of an entry that is over: its writer is not heard.
    PLACE_EXPERTS: [{ guard: 'isOfOpenEntry', actions: 'place' }, {}],
    MAP_DONE: [{ guard: 'isOfOpenEntry', actions: 'giveUpPlacing' }, {}],
  },
  states: {
    starting: { entry: askTime, always: 'stable' },
    stable: {
      entry: [
        enter('stable'),
        { type: 'cancel', params: { id: 'period' } },
        {
          type: 'afterEach',
          params: ({ context: { period_ms } }) => (period_ms === null ? [] : [{ id: 'period', delay_ms: period_ms, message: periodOver() }]),
        },
      ],
      on: { PERIOD_OVER: 'collecting', REBALANCE: 'collecting', STATE_OVERDUE: {} },
      always: [
        { guard: 'mustRehome', target: 'rehoming' },
        { guard: 'isWanted', target: 'granting' },
      ],
    },
    // At once, as is placing.
    granting: {
      entry: ['grant', tell, askTime],
      always: 'held',
    },
    held: {
      entry: [enter('held'), overdueIn('held')],
      exit: inTime,
      on: {
        PLACE_EXPERTS: [{ guard: 'isOfOpenEntry', target: 'placing', actions: 'place' }, {}],
        MAP_DONE: [{ guard: 'isOfOpenEntry', target: 'stable', actions: 'release' }, {}],
        STATE_OVERDUE: [{ guard: 'isOfThisState', target: 'stable', actions: ['abandon', tell] }, {}],
      },
      // Who is back waits for the end of what others do.
      always: [
        { guard: 'mustRehome', target: 'rehoming' },
        { guard: 'isWanted', target: 'granting' },
      ],
    },
    rehoming: {
      entry: [enter('rehoming'), askTime, 'beginRehoming', tell, overdueIn('rehoming')],
      exit: inTime,
      // As when it goes back: who has not heard of it is refused, and is told again.
      on: { STATE_OVERDUE: { guard: 'isOfThisState', target: 'replanning' } },
      always: [
        { guard: 'mustRehome', target: 'rehoming', reenter: true },
        { guard: 'allHaveAnswered', target: 'replanning' },
      ],
    },
    // At once.
    replanning: {
      entry: 'planRehoming',
      always: planned,
    },
    placing: {
      entry: 'planPlacement',
      always: planned,
    },
    collecting: {
      entry: [enter('collecting'), askTime, 'begin', tell, overdueIn('collecting')],
      exit: inTime,
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
        enter('prefetching'),
        askTime,
        'stage',
        tell,
        overdueIn('prefetching'),
        {
          type: 'afterEach',
          params: ({ context: { balancer, turn } }) =>
            balancer.moves.broadcasts.size > 0 ? [{ id: 'broadcasts', delay_ms: BROADCAST_MS_MAX, message: broadcastsOverdue(turn) }] : [],
        },
      ],
      exit: [inTime, { type: 'cancel', params: { id: 'broadcasts' } }],
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'disabling' },
      ],
    },
    disabling: {
      entry: [enter('disabling'), askTime, 'disable', tell, overdueIn('disabling')],
      exit: inTime,
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'loading' },
      ],
    },
    loading: {
      entry: [enter('loading'), askTime, 'load', tell, overdueIn('loading')],
      exit: inTime,
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'enabling' },
      ],
    },
    enabling: {
      entry: [enter('enabling'), askTime, 'enable', tell, overdueIn('enabling')],
      exit: inTime,
      always: [
        { guard: 'hasFailed', target: 'rollingBack' },
        { guard: 'allHaveAnswered', target: 'settled' },
      ],
    },
    // At once, as is ending.
    settled: {
      entry: ['settle', tell],
      always: [{ guard: 'hasRounds', target: 'prefetching' }, { target: 'ending' }],
    },
    rollingBack: {
      entry: [enter('rolling back'), askTime, 'rollBack', tell, overdueIn('rollingBack')],
      exit: inTime,
      on: {
        // Who has not heard of it goes by an older map: he is refused where that is wrong, and is told again with the next one.
        STATE_OVERDUE: { guard: 'isOfThisState', target: 'ending' },
        NPU_LOST: { actions: ['take', 'spareLost', tell, 'noteShape', tell, awaitSuccessor] },
      },
      always: { guard: 'allHaveAnswered', target: 'ending' },
    },
    ending: {
      entry: [
        'finish',
        tell,
        askTime,
        {
          type: 'afterEach',
          params: ({ context: { balancer } }) => (balancer.mustTryAgain ? [{ id: 'rehome', delay_ms: REHOME_AGAIN_MS, message: rehomeAgain() }] : []),
        },
      ],
      always: [
        { guard: 'mustRehome', target: 'rehoming' },
        { guard: 'isWanted', target: 'granting' },
        { guard: 'hasToPlace', target: 'placing' },
        { guard: 'isHeld', target: 'held' },
        { target: 'stable' },
      ],
    },
  },
});
