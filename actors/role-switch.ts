/**
 * What is done where experts are on no NPU any more, nor is there room for them, and no successor is to come: an attention NPU takes the lost expert NPU's role
 * (ReviveMoE; xDeepServe §6). One of a task executor whose experts are apart.
 *
 *   watching ─▶ claiming ─▶ borrowing ─▶ vacating ─▶ switching ─▶ settling ─▶ watching
 *     ▲ ▲ │         │           │          ▲ │          │ │ ▲            what was lost is back: an entry of the expert map's log tells of it
 *     │ │ └─────────┼───────────┼──────────┼─┼──────────┼─┼─┘            or is back late, or its entry was taken from it at the last moment
 *     ├─┼───────────┴───────────┘          └─┼──────────┘ │              the place was lost, or who began there: the next one's turn
 *     │ └────────────────────────────────────┘            │              nobody is left to be spared: experts are lost
 *     └───────────────────────────────────────────────────┘              too late, or not for now: the map and the groups are given back, and experts are lost until then
 *
 * The decision is ReviveMoE's: what another replica serves, or has room elsewhere, does not come here (policies/rehoming.ts). Where the EP group is small requests wait
 * for the switch, and hear of no loss; where it is large they are served without the lost experts (`degraded`), or fail, and the switch goes on behind.
 *
 * DP groups of the worker that can best be spared (policies/role-places.ts) hand their sequences back; they go on in the others. Then it ends, and in its place the lost
 * one begins anew, with weights from the checkpoint; other experts that it had come back from who has them (expert-map.ts: npu_back). The map is held all the while, and
 * the number of groups borrowed from who changes it (scaling.ts).
 * Every state but watching has a deadline. Whoever waits for the switch hears of the loss when one has passed, or the host says that the lost one cannot begin for now,
 * since its weights cannot be read; and who does without experts is served then. The host goes on with it, and it is an entry once more when the lost one is there.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { serve } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import { mapDone, mapWanted } from '../src/protocol/map-log.ts';
import type { Commands } from '../src/protocol/messages.ts';
import {
  type ExpertsNowhere,
  expertsNowhere,
  giveShape,
  lendShape,
  type RoleSwitchMessage,
  switchOverdue,
  switchRetry,
  switchRole,
} from '../src/protocol/role-switch.ts';
import { arrived, type Begun, type BegunSwitches, isTold, lateOf, leftToHost, toldOf, untold, without } from './policies/begun-switches.ts';
import { names } from './policies/map-writers.ts';
import { type Chosen, type RoleSeats, type Switch, servedOf, switchFor, withoutPlace } from './policies/role-places.ts';
import { placed, reportOf } from './policies/role-reports.ts';
import { isMissed, type Told, toldNow } from './policies/switch-news.ts';

/** Sequences are handed back at the end of the steps that compute them, a long prompt's chunk say. What is left then is computed anew elsewhere. */
const VACATING_MS_MAX = 5_000;
/** Of any other wait: for the map, for the number of groups, for a worker that starts and reads its weights. Requests wait as long. */
export const SWITCH_MS_MAX = 30_000;
/** Somebody has the map who weighs more: loads what there is room for, say. */
const RETRY_MS = 20;

const CONTROL: Address = 'control/0';

type Input = {
  readonly self: Address;
  readonly task_executor: Address;
  readonly expert_map: Address;
  /** Null: the number of groups does not change otherwise. */
  readonly scaling: Address | null;
  readonly seats: RoleSeats;
  /** Groups that serve at first. */
  readonly serving: readonly number[];
  /** Requests wait for a switch; false: they hear of the loss at once. */
  readonly waits: boolean;
};

type RoleSwitch = Input & {
  nowhere: ExpertsNowhere | null;
  /** What the task executor was told. */
  told: Told | null;
  /** There was nobody to be spared, and nothing has happened since. */
  isVain: boolean;
  lost: readonly number[];
  /** Workers in whose places nobody is to be put. */
  refused: readonly number[];
  chosen: Chosen | null;
  /** Before the one at hand. */
  begun: BegunSwitches;
  /** The map was waited for in vain for so long that whoever waits has heard of it. */
  isLate: boolean;
  /** Somebody is back whom a switch has put there: the map has yet to say what is nowhere now. */
  awaitsNews: boolean;
  /** The number of groups is this one's to change. */
  isLent: boolean;
  /** Of the state at hand: its deadline is known by it. */
  turn: number;
  /** Of the last question to the expert map, and of the last one to the task executor. */
  query: number;
  round: number;
  /** Of the map's log, open and this one's; −1: none. */
  entry: number;
  began_ms: number;
};

const isAnswer = ({ query }: RoleSwitch, event: RoleSwitchMessage): boolean =>
  (event.type === 'MAP_GRANTED' || event.type === 'MAP_REFUSED') && event.query === query;

type Here = { readonly context: RoleSwitch };
const send = (commands: (context: RoleSwitch) => readonly Commands['send'][]) => ({
  type: 'sendEach' as const,
  params: ({ context }: Here) => commands(context),
});
const groupsOf = ({ groups }: RoleSeats): number[] => groups.map(({ group }) => group);
/** Whoever has a place already, and is late, needs no other one. */
function switchOf({ seats, begun, nowhere, lost, serving: now, refused }: RoleSwitch, serving = now): Switch | null {
  const homes = seats.homes.filter(({ worker }) => !lateOf(begun).some(({ chosen }) => chosen.home.worker === worker));
  return switchFor({ ...seats, homes }, { needed: nowhere?.needed ?? [], lost, serving, refused });
}
const askTime = { type: 'claim' as const, params: { claim: { kind: 'time' as const } } };
const claim = send(({ self, expert_map, query, nowhere, lost, chosen }) => {
  const npus = chosen?.home.npus ?? nowhere?.needed.filter((npu) => lost.includes(npu)) ?? [];
  const why = `experts of ${names(npus)} are nowhere else, and an attention NPU takes the place`;
  return [{ to: expert_map, message: mapWanted(self, query, 'role_switch', false, why) }];
});
const within = (delay_ms: number) =>
  [
    'noteTurn',
    { type: 'after' as const, params: ({ context: { turn } }: Here): Commands['after'] => ({ id: 'overdue', delay_ms, message: switchOverdue(turn) }) },
  ] as const;
const inTime = { type: 'cancel' as const, params: { id: 'overdue' } };
const inGoodTime = { type: 'cancel' as const, params: { id: 'late' } };
const retry = { type: 'after' as const, params: { id: 'retry', delay_ms: RETRY_MS, message: switchRetry() } };
/** As many groups may serve by now as there are. */
const canSwitch = (context: RoleSwitch): boolean =>
  !context.isVain && isMissed(context) && switchOf(context, context.scaling === null ? context.serving : groupsOf(context.seats)) !== null;
const news = (context: RoleSwitch): Told | null => toldNow(context, lateOf(context.begun).length > 0, () => canSwitch(context));
const tellNews = [
  send((context) => {
    const told = news(context);
    return [{ to: context.task_executor, message: expertsNowhere(told?.error ?? null, told?.npus ?? [], []) }];
  }),
  'noteTold',
] as const;
/** The one at hand is put among the others. */
const withCurrent = ({ begun, chosen, began_ms, entry }: RoleSwitch, put: (begun: BegunSwitches, one: Begun) => BegunSwitches): BegunSwitches =>
  chosen === null ? begun : put(begun, { chosen, began_ms, entry });
const remaining = ({ seats, serving, chosen }: RoleSwitch): Pick<RoleSwitch, 'seats' | 'serving'> => withoutPlace({ seats, serving }, chosen);

const NOBODY: ErrorRecord = { code: 'worker_lost', message: 'no DP group is left that could be spared for lost experts', param: null };
const OVER: ErrorRecord = { code: 'worker_lost', message: 'nobody misses experts any more', param: null };
const UNASKED: ErrorRecord = { code: 'worker_lost', message: 'nobody waits for the map any more', param: null };
const overdue = (waited: string): ErrorRecord => ({ code: 'deadline_exceeded', message: `took more than ${SWITCH_MS_MAX / 1000} s: ${waited}`, param: null });

/** The map, and the number of groups. `restores`: groups serve as before. */
const givingBack = (
  { self, task_executor, expert_map, scaling, entry, round, serving, isLent }: RoleSwitch,
  { error, told, restores }: { readonly error: ErrorRecord | null; readonly told: string | null; readonly restores: boolean },
) =>
  [
    ...(entry < 0 ? [] : [{ to: expert_map, message: mapDone(entry, error, told) }]),
    ...(scaling === null || !isLent ? [] : [{ to: scaling, message: giveShape(serving) }]),
    ...(isLent && restores ? [{ to: task_executor, message: serve(self, round, serving) }] : []),
  ] satisfies Commands['send'][];
const giveUp = send((context) => givingBack(context, { error: isMissed(context) ? NOBODY : OVER, told: null, restores: true }));
const giveUpLate = send((context) => {
  const error: ErrorRecord = { code: 'worker_lost', message: `${placed(context.chosen, 'took')}, and was lost again`, param: null };
  return givingBack(context, { error, told: null, restores: false });
});
const giveUpBorrowing = send((context) =>
  givingBack(context, { error: overdue(`${context.scaling} did not lend the number of DP groups`), told: null, restores: false }),
);
const finish = {
  type: 'sendEach' as const,
  params: ({ context, event }: { context: RoleSwitch; event: RoleSwitchMessage }) =>
    event.type === 'TIME_TOLD'
      ? givingBack({ ...context, ...remaining(context) }, { error: null, told: reportOf(context, event.now_ms), restores: false })
      : [],
};
/** The host goes on with it. */
const leaveToHost = {
  type: 'sendEach' as const,
  params: ({ context, event }: { context: RoleSwitch; event: RoleSwitchMessage }) => {
    const { code, message } = event.type === 'NPU_GONE' ? event.error : overdue('it has not begun');
    const error: ErrorRecord = { code, message: `${placed(context.chosen, 'was to take')}: ${message}; it is there when it can be`, param: null };
    return givingBack({ ...context, ...remaining(context) }, { error, told: null, restores: false });
  },
};

const leave = [leaveToHost, 'takeOut', 'noteLeft', 'forget', { type: 'cancel' as const, params: { id: 'retry' } }] as const;
const begin = send(({ self, chosen }) => (chosen === null ? [] : [{ to: CONTROL, message: switchRole(self, chosen.home.worker, chosen.place.worker) }]));

export const roleSwitch = setup({
  types: {} as { input: Input; context: RoleSwitch; events: RoleSwitchMessage },
  actions: {
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    afterEach: (_, _commands: Commands['afterEach']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    claim: (_, _command: Commands['claim']) => {},
    noteNowhere: assign(({ event }) =>
      event.type === 'EXPERTS_NOWHERE' ? { nowhere: event.error === null ? null : event, isVain: false, awaitsNews: false } : {},
    ),
    noteLost: assign(({ context: { lost, begun }, event }) =>
      event.type === 'NPU_LOST'
        ? {
            lost: [...new Set([...lost, event.npu])],
            isVain: false,
            // It had begun, and there is no more place for it.
            begun: without(begun, ({ home }) => home.npus.includes(event.npu)),
          }
        : {},
    ),
    noteBack: assign(({ context: { lost }, event }) => (event.type === 'NPU_BACK' ? { lost: lost.filter((npu) => npu !== event.npu), isVain: false } : {})),
    noteTold: assign(({ context }) => ({ told: news(context) })),
    noteQuery: assign({ query: ({ context }) => context.query + 1 }),
    noteRound: assign({ round: ({ context }) => context.round + 1 }),
    noteEntry: assign({ entry: ({ context, event }) => (event.type === 'MAP_GRANTED' ? event.entry : context.entry) }),
    noteTaken: assign({ entry: -1 }),
    noteServing: assign({ serving: ({ context, event }) => (event.type === 'SHAPE_LENT' ? event.groups : context.serving) }),
    noteRefused: assign(({ context: { refused, begun }, event }) =>
      event.type === 'ROLE_REFUSED'
        ? { refused: [...new Set([...refused, event.place])], begun: without(begun, ({ place }) => place.worker === event.place), isVain: false }
        : {},
    ),
    noteBegan: assign({ began_ms: ({ context, event }) => (event.type === 'TIME_TOLD' && context.began_ms < 0 ? event.now_ms : context.began_ms) }),
    choose: assign(({ context }) => {
      const choice = switchOf(context);
      return { chosen: choice === null ? null : { ...choice, served: servedOf(context, context.lost) } };
    }),
    // Its groups are no more, whatever comes of it.
    takeOut: assign(({ context }) => remaining(context)),
    forget: assign({ chosen: null, entry: -1, began_ms: -1, isLate: false, isLent: false, turn: ({ context }) => context.turn + 1 }),
    awaitNews: assign({ awaitsNews: true }),
    awaitNoNews: assign({ awaitsNews: false }),
    noteVain: assign({ isVain: true }),
    noteTurn: assign({ turn: ({ context }) => context.turn + 1 }),
    noteLate: assign({ isLate: true }),
    noteLent: assign({ isLent: true }),
    noteLeft: assign(({ context }) => ({ begun: withCurrent(context, leftToHost) })),
    noteDone: assign(({ context }) => ({ begun: withCurrent(context, toldOf) })),
    // Nobody has heard that it is done.
    noteUndone: assign(({ context: { begun } }) => ({ begun: untold(begun) })),
    resume: assign(({ context }) => {
      const one = arrived(context.begun, context.lost);
      if (one === undefined) return {};
      return { chosen: one.chosen, began_ms: one.began_ms, begun: without(context.begun, (chosen) => chosen === one.chosen) };
    }),
  },
  guards: {
    isNews: ({ context: { told }, context }) => {
      const now = news(context);
      return now?.error.message !== told?.error.message || `${now?.npus}` !== `${told?.npus}`;
    },
    canSwitch: ({ context }) => canSwitch(context),
    isAnswer: ({ context, event }) => isAnswer(context, event),
    isLateAnswer: ({ context, event }) => context.chosen !== null && isAnswer(context, event),
    lacksTheMap: ({ context }) => context.chosen !== null && context.entry < 0,
    hasNoScaling: ({ context }) => context.scaling === null,
    goesOn: ({ context }) => context.chosen !== null,
    hasBegun: ({ context }) => context.began_ms >= 0,
    hasNobody: ({ context }) => context.chosen === null,
    // Who was to go is gone, or who began in his place.
    isVacated: ({ context, event }) => event.type === 'SERVING' && event.query === context.round,
    isUpset: ({ context: { chosen }, event }) => event.type === 'NPU_LOST' && chosen !== null && chosen.place.npus.includes(event.npu),
    isLostAgain: ({ context: { chosen }, event }) => event.type === 'NPU_LOST' && chosen !== null && chosen.home.npus.includes(event.npu),
    isLateGone: ({ context: { chosen }, event }) => event.type === 'NPU_GONE' && chosen !== null && chosen.home.npus.includes(event.npu),
    isRefused: ({ context: { chosen, isLent }, event }) => event.type === 'ROLE_REFUSED' && isLent && event.place === chosen?.place.worker,
    isOfThisTurn: ({ context, event }) => event.type === 'SWITCH_OVERDUE' && event.turn === context.turn,
    isLastUndone: ({ context: { begun }, event }) => event.type === 'MAP_TAKEN' && isTold(begun, event.entry),
    isLateThere: ({ context: { begun, lost } }) => arrived(begun, lost) !== undefined,
    // After its place was given away, which was told of.
    isLostOnceMore: ({ context: { chosen, isLent }, event }) => event.type === 'NPU_LOST' && !isLent && (chosen?.home.npus.includes(event.npu) ?? false),
    // The map is held still, or again: that it has become so is an entry.
    isBack: ({ context: { chosen, lost, entry } }) => entry >= 0 && (chosen?.home.npus.every((npu) => !lost.includes(npu)) ?? false),
  },
}).createMachine({
  id: 'role-switch',
  context: ({ input }) => ({
    ...input,
    ...{ nowhere: null, told: null, isVain: false, isLate: false, awaitsNews: false, isLent: false, lost: [], refused: [], chosen: null, begun: [] },
    ...{ query: 0, round: 0, turn: 0, entry: -1, began_ms: -1 },
  }),
  initial: 'watching',
  on: {
    EXPERTS_NOWHERE: { actions: 'noteNowhere' },
    NPU_LOST: { actions: 'noteLost' },
    NPU_BACK: { actions: 'noteBack' },
    // Else of a question that was given up.
    MAP_GRANTED: [
      { guard: 'isLateAnswer', actions: 'noteEntry' },
      { actions: { type: 'sendEach', params: ({ context, event }) => [{ to: context.expert_map, message: mapDone(event.entry, UNASKED, null) }] } },
    ],
    MAP_REFUSED: [{ guard: 'isLateAnswer', actions: retry }, {}],
    // A rehoming comes first. The switch goes on meanwhile, and is an entry again behind it.
    MAP_TAKEN: [{ guard: 'isLastUndone', actions: 'noteUndone' }, { guard: 'goesOn', actions: ['noteTaken', retry] }, {}],
    SWITCH_RETRY: [{ guard: 'lacksTheMap', actions: ['noteQuery', claim] }, {}],
    TIME_TOLD: { actions: 'noteBegan' },
    // On their way when the state was over that they are of.
    SERVING: {},
    SWITCH_OVERDUE: {},
    NPU_GONE: {},
    ROLE_REFUSED: { actions: 'noteRefused' },
    // It was given up; what is lent a second time is given back once.
    SHAPE_LENT: {
      actions: {
        type: 'sendEach',
        params: ({ context: { scaling, isLent }, event }) => (scaling === null || isLent ? [] : [{ to: scaling, message: giveShape(event.groups) }]),
      },
    },
  },
  states: {
    watching: {
      exit: ['awaitNoNews', inTime],
      on: { EXPERTS_NOWHERE: { actions: ['noteNowhere', inTime] }, SWITCH_OVERDUE: [{ guard: 'isOfThisTurn', actions: 'awaitNoNews' }, {}] },
      always: [
        { guard: 'isNews', actions: tellNews },
        { guard: 'isLateThere', target: 'switching', actions: ['resume', retry] },
        {
          guard: 'canSwitch',
          target: 'claiming',
          // One for all its questions.
          actions: {
            type: 'afterEach',
            params: ({ context: { turn, began_ms } }) => (began_ms < 0 ? [{ id: 'late', delay_ms: SWITCH_MS_MAX, message: switchOverdue(turn) }] : []),
          },
        },
        // The next switch begins when it is asked for, not when one came to nothing.
        { guard: 'hasBegun', actions: ['forget', inGoodTime] },
      ],
    },
    claiming: {
      entry: ['noteQuery', claim, askTime],
      exit: { type: 'cancel', params: { id: 'retry' } },
      on: {
        MAP_GRANTED: { guard: 'isAnswer', target: 'borrowing', actions: ['noteEntry', inGoodTime] },
        MAP_REFUSED: { guard: 'isAnswer', actions: retry },
        // Much may have happened: it decides anew.
        SWITCH_RETRY: 'watching',
        SWITCH_OVERDUE: [{ guard: 'isOfThisTurn', actions: ['noteLate', ...tellNews] }, {}],
      },
    },
    borrowing: {
      entry: [send(({ self, scaling }) => (scaling === null ? [] : [{ to: scaling, message: lendShape(self) }])), ...within(SWITCH_MS_MAX)],
      exit: inTime,
      always: { guard: 'hasNoScaling', target: 'vacating', actions: 'noteLent' },
      on: {
        SHAPE_LENT: { target: 'vacating', actions: ['noteServing', 'noteLent'] },
        SWITCH_OVERDUE: [{ guard: 'isOfThisTurn', target: 'watching', actions: [giveUpBorrowing, 'noteVain', 'forget'] }, {}],
      },
    },
    vacating: {
      entry: [
        'choose',
        'noteRound',
        inTime,
        send((context) =>
          context.chosen === null ? [] : [{ to: context.task_executor, message: serve(context.self, context.round, remaining(context).serving) }],
        ),
        ...within(VACATING_MS_MAX),
      ],
      exit: inTime,
      always: { guard: 'hasNobody', target: 'watching', actions: [giveUp, 'noteVain', 'forget', { type: 'cancel', params: { id: 'retry' } }] },
      on: {
        NPU_LOST: [{ guard: 'isUpset', target: 'vacating', reenter: true, actions: 'noteLost' }, { actions: 'noteLost' }],
        // Of an earlier choice.
        SERVING: [{ guard: 'isVacated', target: 'switching', actions: begin }, {}],
        SWITCH_OVERDUE: [{ guard: 'isOfThisTurn', target: 'switching', actions: begin }, {}],
      },
    },
    switching: {
      entry: [...within(SWITCH_MS_MAX)],
      exit: inTime,
      always: { guard: 'isBack', target: 'settling' },
      on: {
        NPU_LOST: [
          { guard: 'isLostOnceMore', target: 'watching', actions: ['noteLost', giveUpLate, 'forget', { type: 'cancel', params: { id: 'retry' } }] },
          { guard: 'isLostAgain', target: 'vacating', actions: ['noteLost', 'takeOut'] },
          { actions: 'noteLost' },
        ],
        ROLE_REFUSED: [{ guard: 'isRefused', target: 'vacating', actions: 'noteRefused' }, { actions: 'noteRefused' }],
        NPU_GONE: [{ guard: 'isLateGone', target: 'watching', actions: leave }, {}],
        SWITCH_OVERDUE: [{ guard: 'isOfThisTurn', target: 'watching', actions: leave }, {}],
      },
    },
    // How long it took is told, too.
    settling: {
      entry: [askTime, ...within(SWITCH_MS_MAX)],
      exit: inTime,
      on: {
        TIME_TOLD: {
          target: 'watching',
          actions: [finish, 'takeOut', 'noteDone', 'forget', { type: 'cancel', params: { id: 'retry' } }, 'awaitNews', ...within(SWITCH_MS_MAX)],
        },
        MAP_TAKEN: { target: 'switching', actions: ['noteTaken', retry] },
        SWITCH_OVERDUE: [{ guard: 'isOfThisTurn', target: 'settling', reenter: true }, {}],
      },
    },
  },
});
