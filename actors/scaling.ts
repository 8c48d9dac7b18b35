/**
 * How many DP groups of a task executor serve, and how many NPUs have its experts, where these are apart; and how that changes while requests run: one change at
 * a time, which ends in the new shape or in the old one.
 *
 *   stable ─▶ furnishing ─▶ claiming ─▶ placing (experts) ─▶ changing (groups) ─▶ stable
 *     ▲           │           │              │                    └─▶ regrouping ─┐    it took too long: those that served are to serve again
 *     └───────────┴───────────┘              └─▶ replacing ◀──────────────────────┘    experts go back to the NPUs that had them
 *     └──────────────────────────────────────────┘   ▲ └─▶ reclaiming ─┐
 *                                                    └─────────────────┘
 *
 * More groups: their NPUs get weights from those of the first group, which always serves, then they are told to take part. Fewer: those that are to stand by hand their sequences back, which go on in the others, and the change is done when
 * nothing is left there. Experts move by their map's own protocol (expert-map.ts), of whose serial log this is an entry: a rebalance that is under way ends for it,
 * and what weighs more ends it. One deadline is the whole change's. The way back has none: groups that served are there, and those that do not give back are hung or
 * dead workers', whose successors hold nothing; experts that cannot move, since an NPU is lost or somebody else has the map, are asked to again.
 */
import { assign, setup } from 'xstate';
import { type Address, address } from '../src/protocol/address.ts';
import { clearWeights, furnish, scaled, scaleOverdue, scaleRetry, sendWeights, serve } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { WeightBroadcast } from '../src/protocol/expert-maps.ts';
import { mapDone, mapWanted, placeExperts } from '../src/protocol/map-log.ts';
import type { Commands } from '../src/protocol/messages.ts';
import { NOTHING_FURNISHED, type ScalingMessage, type WeightsFurnished } from '../src/protocol/scaling.ts';

/** A worker that was lost is back in tens of milliseconds, with its weights in seconds. */
export const RETRY_MS = 250;

const CONTROL: Address = 'control/0';
const BUSY: ErrorRecord = {
  code: 'overloaded',
  message: 'scale: another change is under way, and there is one at a time; ask again when it is done',
  param: null,
};

/** `attention`: DP groups; `experts`: NPUs that have the experts, 0: they are not apart, or stay where they are. */
type Shape = { readonly attention: number; readonly experts: number };

type Input = Shape & {
  readonly self: Address;
  readonly task_executor: Address;
  /** Null: experts stay where they are. */
  readonly expert_map: Address | null;
  /** All that there are, in the order in which they come to serve. */
  readonly groups: readonly number[];
  /** By group, in that order: its NPUs. */
  readonly ranks: readonly (readonly number[])[];
  /** Groups that stand by need no weights; false: others compute with them. */
  readonly clears: boolean;
  /** Of the NPUs that may have the experts: so many of those from this one on have them. */
  readonly first_expert: number;
};

type Scaling = Input & {
  wanted: Shape;
  deadline_ms: number;
  /** Of the last question to the expert map. */
  query: number;
  /** Of its log, open and this one's; −1: none. */
  entry: number;
  /** NPUs that have no weights yet. */
  bare: readonly number[];
  /** Weights that NPUs got so far, for all changes. */
  copied: WeightsFurnished;
  /** Why it is undone; null: it is not. */
  error: ErrorRecord | null;
};

const text = ({ attention, experts }: Shape): string => `${attention} DP groups${experts > 0 ? ` and ${experts} expert NPUs` : ''}`;
const failure = (code: ErrorRecord['code'], { attention, experts, wanted }: Scaling, why: string): ErrorRecord => ({
  code,
  message: `scale: from ${text({ attention, experts })} to ${text(wanted)} ${why}; ${text({ attention, experts })} serve, as before`,
  param: null,
});
/** Whoever asked has set it. `waited`: for what, in which state. */
const overdue = (context: Scaling, waited: string): ErrorRecord => ({
  ...failure('deadline_exceeded', context, `took more than ${context.deadline_ms / 1000} s (deadline_ms), which were over while ${waited}`),
  param: 'deadline_ms',
});

const tell = (messageOf: (context: Scaling) => Commands['send']['message']) => ({
  type: 'send' as const,
  params: ({ context }: { context: Scaling }): Commands['send'] => ({ to: CONTROL, message: messageOf(context) }),
});
const haveDone = (commands: (context: Scaling) => Commands['send'][]) => ({
  type: 'sendEach' as const,
  params: ({ context }: { context: Scaling }) => commands(context),
});
const haveDoneWith = (commands: (context: Scaling, event: ScalingMessage) => Commands['send'][]) => ({
  type: 'sendEach' as const,
  params: ({ context, event }: { context: Scaling; event: ScalingMessage }) => commands(context, event),
});
const serveSo = ({ task_executor, groups }: Scaling, count: number): Commands['send'] => ({ to: task_executor, message: serve(groups.slice(0, count)) });
const toMap = ({ expert_map }: Scaling, message: Commands['send']['message']): Commands['send'][] => (expert_map === null ? [] : [{ to: expert_map, message }]);
const holdersOf = ({ first_expert }: Scaling, count: number): number[] => Array.from({ length: count }, (_, index) => first_expert + index);
const placeSo = (context: Scaling, count: number): Commands['send'][] => toMap(context, placeExperts(context.entry, holdersOf(context, count)));
/** NPUs of the first group have them, rank by rank. */
const sourceOf = ({ ranks }: Scaling, npu: number): number => {
  const group = ranks.find((npus) => npus.includes(npu)) as readonly number[];
  return ranks[0]?.[group.indexOf(npu)] as number;
};
/** At once, where several get the same. */
const furnishBare = (context: Scaling): Commands['send'][] =>
  [...new Set(context.bare.map((npu) => sourceOf(context, npu)))].flatMap((source): Commands['send'][] => {
    const targets = context.bare.filter((npu) => sourceOf(context, npu) === source);
    const broadcast: WeightBroadcast | null = targets.length > 1 ? { number: context.query, npus: [source, ...targets] } : null;
    return [
      ...(broadcast === null ? [] : [{ to: address('npu', source), message: sendWeights(broadcast) }]),
      ...targets.map((npu) => ({ to: address('npu', npu), message: furnish(context.self, context.query, source, broadcast) })),
    ];
  });
/** One by one: whoever was lost meanwhile, or hears nothing of the others. */
const furnishAgain = (context: Scaling): Commands['send'][] =>
  context.bare.map((npu) => ({ to: address('npu', npu), message: furnish(context.self, context.query, sourceOf(context, npu), null) }));
/** Of the groups that there are in the larger shape alone, where they are to stand by. */
const clearOthers = haveDone(({ attention, wanted, ranks, clears }) =>
  clears
    ? ranks
        .slice(attention, Math.max(attention, wanted.attention))
        .flat()
        .map((npu) => ({ to: address('npu', npu), message: clearWeights() }))
    : [],
);
const claim = haveDone((context) => toMap(context, mapWanted(context.self, context.query, 'scale')));
/** The entry is over. */
const giveBack = haveDone((context) => (context.entry < 0 ? [] : toMap(context, mapDone(context.entry, context.error))));
const isPlaced = (event: ScalingMessage, { entry, first_expert }: Scaling, count: number): boolean =>
  event.type === 'EXPERTS_PLACED' &&
  event.entry === entry &&
  event.error === null &&
  event.holders.length === count &&
  event.holders.every((npu) => npu < first_expert + count);
const groupsStay = ({ attention, wanted }: Scaling): boolean => attention === wanted.attention;
const expertsStay = ({ experts, wanted }: Scaling): boolean => experts === wanted.experts;
const answer = tell(({ attention, experts, error }) => scaled(attention, experts, error));
const refuse = { actions: tell(({ attention, experts }) => scaled(attention, experts, BUSY)) };
const retry = { type: 'after' as const, params: { id: 'retry', delay_ms: RETRY_MS, message: scaleRetry() } };

export const scaling = setup({
  types: {} as { input: Input; context: Scaling; events: ScalingMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    noteWanted: assign(({ event }) =>
      event.type === 'SCALE' ? { wanted: { attention: event.attention, experts: event.experts }, deadline_ms: event.deadline_ms, error: null } : {},
    ),
    // From now on what was wanted is there, and what was there is another shape.
    noteShape: assign(({ context: { attention, experts, wanted } }) => ({ ...wanted, wanted: { attention, experts } })),
    noteBare: assign({
      bare: ({ context: { attention, wanted, ranks, clears } }) => (clears ? ranks.slice(attention, Math.max(attention, wanted.attention)).flat() : []),
    }),
    noteFurnished: assign({
      bare: ({ context, context: { bare }, event }) =>
        event.type === 'FURNISHED' && event.query === context.query && event.error === null ? bare.filter((npu) => npu !== event.npu) : bare,
    }),
    noteCopied: assign({
      copied: ({ context: { copied }, event }) =>
        event.type === 'FURNISHED'
          ? {
              broadcast_bytes: copied.broadcast_bytes + event.copied.broadcast_bytes,
              pulled_bytes: copied.pulled_bytes + event.copied.pulled_bytes,
            }
          : copied,
    }),
    noteQuery: assign({ query: ({ context }) => context.query + 1 }),
    noteOverdue: assign({ error: ({ context }, waited: string) => overdue(context, waited) }),
    noteFailure: assign({
      error: ({ context, event }) =>
        'error' in event && event.error !== null ? failure(event.error.code, context, `failed (${event.error.message})`) : context.error,
    }),
    noteEntry: assign({ entry: ({ context, event }) => (event.type === 'MAP_GRANTED' ? event.entry : context.entry) }),
    noteTaken: assign({ entry: -1 }),
  },
  guards: {
    isSo: ({ context, event }) => event.type === 'SCALE' && event.attention === context.attention && event.experts === context.experts,
    groupsStay: ({ context }) => groupsStay(context),
    expertsStay: ({ context }) => expertsStay(context),
    allHaveWeights: ({ context }) => context.bare.length === 0,
    hasNoMap: ({ context }) => context.expert_map === null,
    isTaken: ({ context }) => context.entry < 0,
    isAnswer: ({ context, event }) => (event.type === 'MAP_GRANTED' || event.type === 'MAP_REFUSED') && event.query === context.query,
    arePlaced: ({ context, event }) => isPlaced(event, context, context.wanted.experts),
    areBack: ({ context, event }) => isPlaced(event, context, context.experts),
    // An NPU of theirs is lost for good: they serve where the map has brought them since.
    canNotBeBack: ({ context, event }) =>
      event.type === 'EXPERTS_PLACED' && event.entry === context.entry && event.error !== null && event.error.code === 'worker_lost',
    areNotPlaced: ({ context, event }) => event.type === 'EXPERTS_PLACED' && event.entry === context.entry && event.error !== null,
    isAsWanted: ({ context, event }) => event.type === 'SERVING' && event.groups.length === context.wanted.attention,
    isAsBefore: ({ context, event }) => event.type === 'SERVING' && event.groups.length === context.attention,
  },
}).createMachine({
  id: 'scaling',
  context: ({ input }) => ({
    ...input,
    wanted: { attention: input.attention, experts: input.experts },
    deadline_ms: 0,
    query: 0,
    entry: -1,
    bare: [],
    copied: NOTHING_FURNISHED,
    error: null,
  }),
  initial: 'stable',
  on: {
    // Of a question that was given up.
    MAP_GRANTED: { actions: haveDoneWith((context, event) => (event.type === 'MAP_GRANTED' ? toMap(context, mapDone(event.entry, context.error)) : [])) },
    MAP_REFUSED: {},
    FURNISHED: { actions: 'noteCopied' },
    // Another one comes: for what was asked last.
    EXPERTS_PLACED: {},
    MAP_TAKEN: { actions: 'noteTaken' },
    // On their way when they were cancelled: the state that they are of is over.
    SCALE_RETRY: {},
    SCALE_OVERDUE: {},
  },
  states: {
    stable: {
      entry: [{ type: 'cancel', params: { id: 'overdue' } }, giveBack, 'noteTaken'],
      on: {
        SCALE: [
          { guard: 'isSo', actions: tell(({ attention, experts }) => scaled(attention, experts, null)) },
          {
            target: 'furnishing',
            actions: [
              'noteWanted',
              'noteBare',
              'noteQuery',
              haveDone(furnishBare),
              { type: 'after', params: ({ context: { deadline_ms } }) => ({ id: 'overdue', delay_ms: deadline_ms, message: scaleOverdue() }) },
            ],
          },
        ],
      },
    },
    furnishing: {
      entry: retry,
      exit: { type: 'cancel', params: { id: 'retry' } },
      always: { guard: 'allHaveWeights', target: 'claiming' },
      on: {
        SCALE: refuse,
        FURNISHED: { actions: ['noteFurnished', 'noteCopied'] },
        // Whose worker was lost did not hear of it.
        SCALE_RETRY: { target: 'furnishing', reenter: true, actions: haveDone(furnishAgain) },
        SCALE_OVERDUE: {
          target: 'stable',
          actions: [{ type: 'noteOverdue', params: 'NPUs were given weights (furnishing)' }, clearOthers, answer],
        },
      },
    },
    claiming: {
      entry: ['noteQuery', claim],
      always: { guard: 'hasNoMap', target: 'changing' },
      on: {
        SCALE: refuse,
        MAP_GRANTED: { guard: 'isAnswer', target: 'placing', actions: 'noteEntry' },
        MAP_REFUSED: { guard: 'isAnswer', target: 'stable', actions: ['noteFailure', clearOthers, answer] },
        SCALE_OVERDUE: {
          target: 'stable',
          actions: [{ type: 'noteOverdue', params: 'the expert map was waited for (claiming)' }, clearOthers, answer, 'noteQuery'],
        },
      },
    },
    placing: {
      entry: haveDone((context) => (expertsStay(context) ? [] : placeSo(context, context.wanted.experts))),
      always: { guard: 'expertsStay', target: 'changing' },
      on: {
        SCALE: refuse,
        EXPERTS_PLACED: [{ guard: 'arePlaced', target: 'changing' }, { guard: 'areNotPlaced', target: 'replacing', actions: 'noteFailure' }, {}],
        MAP_TAKEN: { target: 'replacing', actions: ['noteFailure', 'noteTaken'] },
        SCALE_OVERDUE: { target: 'replacing', actions: { type: 'noteOverdue', params: 'experts moved (placing)' } },
      },
    },
    changing: {
      entry: haveDone((context) => (groupsStay(context) ? [] : [serveSo(context, context.wanted.attention)])),
      always: { guard: 'groupsStay', target: 'stable', actions: ['noteShape', clearOthers, answer] },
      on: {
        SCALE: refuse,
        SERVING: { guard: 'isAsWanted', target: 'stable', actions: ['noteShape', clearOthers, answer] },
        SCALE_OVERDUE: { target: 'regrouping', actions: { type: 'noteOverdue', params: 'DP groups came to serve or gave back what they had (changing)' } },
      },
    },
    regrouping: {
      entry: haveDone((context) => [serveSo(context, context.attention)]),
      on: {
        SCALE: refuse,
        // Of the change, said at the last moment.
        SERVING: [{ guard: 'isAsBefore', target: 'replacing' }, {}],
      },
    },
    replacing: {
      // Whoever refused may still be answered late, when it is back by other ways.
      exit: { type: 'cancel', params: { id: 'retry' } },
      entry: [
        { type: 'cancel', params: { id: 'overdue' } },
        haveDone((context) => (expertsStay(context) || context.entry < 0 ? [] : placeSo(context, context.experts))),
      ],
      always: [
        { guard: 'expertsStay', target: 'stable', actions: [clearOthers, answer] },
        { guard: 'isTaken', target: 'reclaiming' },
      ],
      on: {
        SCALE: refuse,
        EXPERTS_PLACED: [
          { guard: 'areBack', target: 'stable', actions: [clearOthers, answer] },
          { guard: 'canNotBeBack', target: 'stable', actions: [clearOthers, answer] },
          { guard: 'areNotPlaced', actions: retry },
          {},
        ],
        MAP_TAKEN: { target: 'reclaiming', actions: 'noteTaken' },
        SCALE_RETRY: { target: 'replacing', reenter: true },
      },
    },
    reclaiming: {
      exit: { type: 'cancel', params: { id: 'retry' } },
      entry: ['noteQuery', claim],
      on: {
        SCALE: refuse,
        MAP_GRANTED: { guard: 'isAnswer', target: 'replacing', actions: 'noteEntry' },
        MAP_REFUSED: { guard: 'isAnswer', actions: retry },
        SCALE_RETRY: { target: 'reclaiming', reenter: true },
      },
    },
  },
});
