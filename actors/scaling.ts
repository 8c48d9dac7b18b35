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
 * More groups: their NPUs get weights from those of the first group that serves, then they are told to take part. Fewer: those that are to stand by hand their sequences back, which go on in the others, and the change is done when
 * nothing is left there. Experts move by their map's own protocol (expert-map.ts), of whose serial log this is an entry: a rebalance that is under way ends for it,
 * and what weighs more is waited for, or ends it. One deadline is the whole change's, another one the way back's: groups that served are there, and those that do not
 * give back are hung or dead workers', whose successors hold nothing; experts that cannot move, since an NPU is lost or somebody else has the map, are asked to again.
 *
 * Who is lost, and has no successor, counts no more: neither is it waited for, nor does it come to serve, and others may take its place (shape-choice.ts). Where it was
 * to serve by a change that is under way, that is undone. So it is for a role switch (role-switch.ts), to which the number of groups is lent meanwhile.
 */
import { assign, setup } from 'xstate';
import { type Address, address } from '../src/protocol/address.ts';
import { clearWeights, furnish, returnOverdue, scaled, scaleOverdue, scaleRetry, sendWeights, serve } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { WeightBroadcast } from '../src/protocol/expert-maps.ts';
import { mapDone, mapWanted, placeExperts } from '../src/protocol/map-log.ts';
import type { Commands } from '../src/protocol/messages.ts';
import { shapeLent } from '../src/protocol/role-switch.ts';
import { NOTHING_FURNISHED, type ScalingMessage, type WeightsFurnished } from '../src/protocol/scaling.ts';
import { type Counts, chosen, countsOf, errorOf, type Failure, type Serving, type Shape, wayOf, wishOf, without } from './policies/shape-choice.ts';

/** A worker that was lost is back in tens of milliseconds, with its weights in seconds. */
export const RETRY_MS = 250;
/** Weights of all experts go back meanwhile, where the map took as long as it may with each of its states. */
const RETURN_MS_MAX = 180_000;

const CONTROL: Address = 'control/0';
const BUSY: ErrorRecord = {
  code: 'overloaded',
  message: 'scale: another change is under way, and there is one at a time; ask again when it is done',
  param: null,
};

type Input = Counts & {
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
  readonly expert_npus: readonly number[];
};

export type Scaling = Omit<Input, keyof Counts> &
  Serving & {
    /** As the change at hand found it, and is to leave it. */
    was: Counts & { readonly holders: readonly number[] };
    wanted: Shape;
    deadline_ms: number;
    /** Of the last question to the expert map, or to the task executor. */
    query: number;
    /** Of its log, open and this one's; −1: none. */
    entry: number;
    /** NPUs that have no weights yet. */
    bare: readonly number[];
    /** Weights that NPUs got so far, for all changes. */
    copied: WeightsFurnished;
    /** Why it is undone; null: it is not. */
    failure: Failure | null;
  };

/** Of the change at hand, as things stand now. */
const undone = (context: Scaling): ErrorRecord | null => errorOf(context.was, context.wanted, countsOf(context), context.failure);
const askedOf = (context: Scaling, event: ScalingMessage): ReturnType<typeof wishOf> | null => (event.type === 'SCALE' ? wishOf(context, event) : null);

const tell = (messageOf: (context: Scaling) => Commands['send']['message']) => ({
  type: 'send' as const,
  params: ({ context }: { context: Scaling }): Commands['send'] => ({ to: CONTROL, message: messageOf(context) }),
});
const tellWith = (messageOf: (context: Scaling, event: ScalingMessage) => Commands['send']['message']) => ({
  type: 'send' as const,
  params: ({ context, event }: { context: Scaling; event: ScalingMessage }): Commands['send'] => ({ to: CONTROL, message: messageOf(context, event) }),
});
const haveDone = (commands: (context: Scaling) => Commands['send'][]) => ({
  type: 'sendEach' as const,
  params: ({ context }: { context: Scaling }) => commands(context),
});
const haveDoneWith = (commands: (context: Scaling, event: ScalingMessage) => Commands['send'][]) => ({
  type: 'sendEach' as const,
  params: ({ context, event }: { context: Scaling; event: ScalingMessage }) => commands(context, event),
});
const serveSo = (of: Scaling, groups: readonly number[]): Commands['send'] => ({ to: of.task_executor, message: serve(of.self, of.query, groups) });
const toMap = ({ expert_map }: Scaling, message: Commands['send']['message']): Commands['send'][] => (expert_map === null ? [] : [{ to: expert_map, message }]);
const placeSo = (context: Scaling, holders: readonly number[]): Commands['send'][] => toMap(context, placeExperts(context.entry, holders));
const ranksOf = ({ groups, ranks }: Scaling, group: number): readonly number[] => ranks[groups.indexOf(group)] as readonly number[];
/** NPUs of the first group that serves have them, rank by rank; where none does any more, those of the first one are asked in vain. */
const sourceOf = (context: Scaling, npu: number): number => {
  const { serving, gone, groups, ranks } = context;
  const rank = (ranks.find((npus) => npus.includes(npu)) as readonly number[]).indexOf(npu);
  return ranksOf(context, without(serving, gone)[0] ?? (groups[0] as number))[rank] as number;
};
/** Those that are to serve as many as did; others for those that are lost. */
const holdersBack = ({ expert_npus, was, gone_holders }: Scaling): number[] => chosen(expert_npus, was.holders, gone_holders, was.experts);
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
/** NPUs of groups that were to serve, or did, and stand by. */
const clearOthers = haveDone((context) =>
  context.clears
    ? without(without(context.wanted.groups, context.serving), context.gone)
        .flatMap((group) => ranksOf(context, group))
        .map((npu) => ({ to: address('npu', npu), message: clearWeights() }))
    : [],
);
const claim = (is_return: boolean) =>
  haveDone((context) => toMap(context, mapWanted(context.self, context.query, 'scale', is_return, wayOf(context.was, context.wanted))));
/** The entry is over. */
const giveBack = haveDone((context) => (context.entry < 0 ? [] : toMap(context, mapDone(context.entry, undone(context)))));
const isPlaced = (event: ScalingMessage, entry: number, holders: readonly number[]): boolean =>
  event.type === 'EXPERTS_PLACED' && event.entry === entry && event.error === null && `${event.holders}` === `${holders}`;
const groupsStay = ({ serving, wanted }: Scaling): boolean => `${serving}` === `${wanted.groups}`;
const expertsStay = ({ wanted }: Scaling): boolean => wanted.holders === null;
const scaledAs = (context: Scaling, error: ErrorRecord | null): Commands['send']['message'] => {
  const { attention, experts } = countsOf(context);
  return scaled(attention, experts, error);
};
const answer = tell((context) => scaledAs(context, undone(context)));
const refuse = { actions: tell((context) => scaledAs(context, BUSY)) };
const inTime = { type: 'cancel' as const, params: { id: 'overdue' } };
/** From now on that one counts. */
const goBack = [inTime, { type: 'after' as const, params: { id: 'return', delay_ms: RETURN_MS_MAX, message: returnOverdue() } }] as const;
/** The groups that serve: where a change is under way, those that did before. */
const lend = haveDoneWith(({ serving, gone }, event) =>
  event.type === 'LEND_SHAPE' ? [{ to: event.role_switch, message: shapeLent(without(serving, gone)) }] : [],
);
const retry = { type: 'after' as const, params: { id: 'retry', delay_ms: RETRY_MS, message: scaleRetry() } };

export const scaling = setup({
  types: {} as { input: Input; context: Scaling; events: ScalingMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    noteWanted: assign(({ context, event }) => {
      const wish = askedOf(context, event);
      if (event.type !== 'SCALE' || wish === null) return {};
      return { wanted: wish.shape, was: { ...countsOf(context), holders: context.holders }, deadline_ms: event.deadline_ms, failure: null };
    }),
    // From now on the groups that were wanted are there, and those that were there are another shape.
    noteShape: assign(({ context: { serving, wanted } }) => ({ serving: wanted.groups, wanted: { ...wanted, groups: serving } })),
    noteBare: assign({
      bare: ({ context, context: { serving, wanted, clears } }) => (clears ? without(wanted.groups, serving).flatMap((group) => ranksOf(context, group)) : []),
    }),
    // All that has not been given back yet stays as it is.
    keepOthers: assign({ wanted: ({ context: { serving, wanted } }) => ({ ...wanted, groups: serving }) }),
    noteGone: assign({ gone: ({ context, event }) => (event.type === 'GROUPS_GONE' ? event.groups : context.gone) }),
    noteHolders: assign(({ context: { expert_npus }, event }) =>
      event.type === 'EXPERTS_LEFT' && expert_npus.length > 0
        ? { holders: event.holders, gone_holders: expert_npus.filter((npu) => event.gone.includes(npu)) }
        : {},
    ),
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
    noteOverdue: assign({
      // Whoever asked has set it. `waited`: for what, in which state.
      failure: ({ context: { deadline_ms } }, waited: string): Failure => ({
        ...{ code: 'deadline_exceeded', param: 'deadline_ms' },
        why: `took more than ${deadline_ms / 1000} s (deadline_ms), which were over while ${waited}`,
      }),
    }),
    noteFailure: assign({
      failure: ({ context, event }): Failure | null =>
        'error' in event && event.error !== null
          ? { code: event.error.code === 'worker_lost' ? 'worker_failed' : event.error.code, why: `failed (${event.error.message})`, param: null }
          : context.failure,
    }),
    noteLoss: assign({
      failure: ({ context: { wanted, gone } }): Failure => {
        const lost = wanted.groups.filter((group) => gone.includes(group));
        return { code: 'worker_failed', why: `failed (DP group ${lost.join(', ')} was lost meanwhile, and nobody takes its place)`, param: null };
      },
    }),
    noteStuck: assign({
      failure: ({ context: { failure } }) =>
        failure === null ? null : { ...failure, why: `${failure.why}, and the way back took more than ${RETURN_MS_MAX / 1000} s` },
    }),
    noteEntry: assign({ entry: ({ context, event }) => (event.type === 'MAP_GRANTED' ? event.entry : context.entry) }),
    noteTaken: assign({ entry: -1 }),
    noteLent: assign({ failure: { code: 'worker_failed', why: 'gave way to a role switch: experts are nowhere', param: null } satisfies Failure }),
    noteGiven: assign({ serving: ({ context, event }) => (event.type === 'GIVE_SHAPE' ? event.serving : context.serving) }),
  },
  guards: {
    cannotBe: ({ context, event }) => askedOf(context, event)?.error != null,
    isSo: ({ context, event }) => {
      const shape = askedOf(context, event)?.shape;
      return shape?.groups === context.serving && shape.holders === null;
    },
    isWantedGone: ({ context, event }) =>
      event.type === 'GROUPS_GONE' && without(event.groups, context.gone).some((group) => context.wanted.groups.includes(group)),
    groupsStay: ({ context }) => groupsStay(context),
    expertsStay: ({ context }) => expertsStay(context),
    allHaveWeights: ({ context }) => context.bare.length === 0,
    hasNoMap: ({ context }) => context.expert_map === null,
    isTaken: ({ context }) => context.entry < 0,
    isAnswer: ({ context, event }) => (event.type === 'MAP_GRANTED' || event.type === 'MAP_REFUSED') && event.query === context.query,
    arePlaced: ({ context, event }) => isPlaced(event, context.entry, context.wanted.holders ?? []),
    areBack: ({ context, event }) => isPlaced(event, context.entry, holdersBack(context)),
    // They serve where the map has brought them since.
    canNotBeBack: ({ context, event }) =>
      event.type === 'EXPERTS_PLACED' && event.entry === context.entry && event.error !== null && event.error.code === 'worker_lost',
    areNotPlaced: ({ context, event }) => event.type === 'EXPERTS_PLACED' && event.entry === context.entry && event.error !== null,
    isOfThisQuery: ({ context, event }) => event.type === 'SERVING' && event.query === context.query,
  },
}).createMachine({
  id: 'scaling',
  context: ({ input: { attention, experts, ...seat } }) => ({
    ...seat,
    serving: seat.groups.slice(0, attention),
    gone: [],
    holders: seat.expert_npus.slice(0, experts),
    gone_holders: [],
    was: { attention, experts, holders: seat.expert_npus.slice(0, experts) },
    wanted: { groups: seat.groups.slice(0, attention), holders: null },
    deadline_ms: 0,
    query: 0,
    entry: -1,
    bare: [],
    copied: NOTHING_FURNISHED,
    failure: null,
  }),
  initial: 'stable',
  on: {
    // Of a question that was given up.
    MAP_GRANTED: { actions: haveDoneWith((context, event) => (event.type === 'MAP_GRANTED' ? toMap(context, mapDone(event.entry, undone(context))) : [])) },
    MAP_REFUSED: {},
    FURNISHED: { actions: 'noteCopied' },
    // Another one comes: for what was asked last.
    EXPERTS_PLACED: {},
    MAP_TAKEN: { actions: 'noteTaken' },
    // On their way when they were cancelled: the state that they are of is over.
    SCALE_RETRY: {},
    SCALE_OVERDUE: {},
    RETURN_OVERDUE: {},
    // Of a way back that took too long.
    SERVING: {},
    GROUPS_GONE: { actions: 'noteGone' },
    EXPERTS_LEFT: { actions: 'noteHolders' },
    LEND_SHAPE: { target: '.lent', actions: ['noteLent', clearOthers, answer, lend] },
  },
  states: {
    stable: {
      entry: [inTime, { type: 'cancel', params: { id: 'return' } }, giveBack, 'noteTaken'],
      on: {
        LEND_SHAPE: { target: 'lent', actions: lend },
        SCALE: [
          { guard: 'cannotBe', actions: tellWith((context, event) => scaledAs(context, askedOf(context, event)?.error ?? null)) },
          { guard: 'isSo', actions: tell((context) => scaledAs(context, null)) },
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
    // Whoever has it says when it is over.
    lent: {
      entry: [inTime, { type: 'cancel', params: { id: 'return' } }, giveBack, 'noteTaken'],
      on: { SCALE: refuse, GIVE_SHAPE: { target: 'stable', actions: 'noteGiven' } },
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
        GROUPS_GONE: [{ guard: 'isWantedGone', target: 'stable', actions: ['noteGone', 'noteLoss', clearOthers, answer] }, { actions: 'noteGone' }],
      },
    },
    claiming: {
      exit: { type: 'cancel', params: { id: 'retry' } },
      entry: ['noteQuery', claim(false)],
      always: { guard: 'hasNoMap', target: 'changing' },
      on: {
        SCALE: refuse,
        MAP_GRANTED: { guard: 'isAnswer', target: 'placing', actions: 'noteEntry' },
        // A rehoming comes first, or whatever else weighs more.
        MAP_REFUSED: { guard: 'isAnswer', actions: retry },
        SCALE_RETRY: { target: 'claiming', reenter: true },
        SCALE_OVERDUE: {
          target: 'stable',
          actions: [{ type: 'noteOverdue', params: 'the expert map was waited for (claiming)' }, clearOthers, answer, 'noteQuery'],
        },
        GROUPS_GONE: [{ guard: 'isWantedGone', target: 'stable', actions: ['noteGone', 'noteLoss', clearOthers, answer] }, { actions: 'noteGone' }],
      },
    },
    placing: {
      entry: haveDone((context) => (context.wanted.holders === null ? [] : placeSo(context, context.wanted.holders))),
      always: { guard: 'expertsStay', target: 'changing' },
      on: {
        SCALE: refuse,
        EXPERTS_PLACED: [{ guard: 'arePlaced', target: 'changing' }, { guard: 'areNotPlaced', target: 'replacing', actions: ['noteFailure', ...goBack] }, {}],
        MAP_TAKEN: { target: 'replacing', actions: ['noteFailure', 'noteTaken', ...goBack] },
        SCALE_OVERDUE: { target: 'replacing', actions: [{ type: 'noteOverdue', params: 'experts moved (placing)' }, ...goBack] },
        GROUPS_GONE: [{ guard: 'isWantedGone', target: 'replacing', actions: ['noteGone', 'noteLoss', ...goBack] }, { actions: 'noteGone' }],
      },
    },
    changing: {
      entry: ['noteQuery', haveDone((context) => (groupsStay(context) ? [] : [serveSo(context, context.wanted.groups)]))],
      always: { guard: 'groupsStay', target: 'stable', actions: ['noteShape', clearOthers, answer] },
      on: {
        SCALE: refuse,
        SERVING: { guard: 'isOfThisQuery', target: 'stable', actions: ['noteShape', clearOthers, answer] },
        SCALE_OVERDUE: {
          target: 'regrouping',
          actions: [{ type: 'noteOverdue', params: 'DP groups came to serve or gave back what they had (changing)' }, ...goBack],
        },
        GROUPS_GONE: [{ guard: 'isWantedGone', target: 'regrouping', actions: ['noteGone', 'noteLoss', ...goBack] }, { actions: 'noteGone' }],
      },
    },
    regrouping: {
      entry: ['noteQuery', haveDone((context) => [serveSo(context, context.serving)])],
      on: {
        SCALE: refuse,
        // Of the change, said at the last moment.
        SERVING: [{ guard: 'isOfThisQuery', target: 'replacing' }, {}],
        RETURN_OVERDUE: { target: 'replacing', actions: ['keepOthers', ...goBack] },
      },
    },
    replacing: {
      // Whoever refused may still be answered late, when it is back by other ways.
      exit: { type: 'cancel', params: { id: 'retry' } },
      entry: haveDone((context) => (expertsStay(context) || context.entry < 0 ? [] : placeSo(context, holdersBack(context)))),
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
        RETURN_OVERDUE: { target: 'stable', actions: ['noteStuck', clearOthers, answer] },
      },
    },
    reclaiming: {
      exit: { type: 'cancel', params: { id: 'retry' } },
      entry: ['noteQuery', claim(true)],
      on: {
        SCALE: refuse,
        MAP_GRANTED: { guard: 'isAnswer', target: 'replacing', actions: 'noteEntry' },
        MAP_REFUSED: { guard: 'isAnswer', actions: retry },
        SCALE_RETRY: { target: 'reclaiming', reenter: true },
        RETURN_OVERDUE: { target: 'stable', actions: ['noteStuck', clearOthers, answer, 'noteQuery'] },
      },
    },
  },
});
