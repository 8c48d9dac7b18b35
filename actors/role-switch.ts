/**
 * What is done where experts are on no NPU any more, nor is there room for them, and no successor is to come: an attention NPU takes the lost expert NPU's role
 * (ReviveMoE; xDeepServe §6). One of a task executor whose experts are apart.
 *
 *   watching ─▶ claiming ─▶ borrowing ─▶ vacating ─▶ switching ─▶ settling ─▶ watching
 *      ▲            │                      ▲ │           │            what was lost is back: an entry of the expert map's log tells of it
 *      ├────────────┘                      │ │           │
 *      │                                   └─┼───────────┘   the place was lost, or who began there: the next one's turn
 *      └─────────────────────────────────────┘               nobody is left to be spared: experts are lost
 *
 * The decision is ReviveMoE's: what another replica serves, or has room elsewhere, does not come here (policies/rehoming.ts). Where the EP group is small requests wait
 * for the switch, and hear of no loss; where it is large they are served without the lost experts (`degraded`), or fail, and the switch goes on behind.
 *
 * The last DP group that can be spared hands its sequences back; they go on in the others. Then its worker ends, and in its place the lost one begins anew, with
 * weights from the checkpoint; other experts that it had come back from who has them (expert-map.ts: npu_back). The map is held all the while, and the number of groups
 * borrowed from who changes it (scaling.ts). Waiting for the host has no deadline: it starts the worker, and says when its weights cannot be read.
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
  switchRetry,
  switchRole,
  vacatingOverdue,
} from '../src/protocol/role-switch.ts';
import { names } from './policies/map-writers.ts';
import { type RoleSeats, type Switch, switchFor } from './policies/role-places.ts';

/** Sequences are handed back at the end of the steps that compute them, a long prompt's chunk say. What is left then is computed anew elsewhere. */
const VACATING_MS_MAX = 5_000;
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
  told: ErrorRecord | null;
  /** There was nobody to be spared, and nothing has happened since. */
  isVain: boolean;
  lost: readonly number[];
  /** Workers in whose places nobody is to be put. */
  refused: readonly number[];
  chosen: Switch | null;
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
const switchOf = (context: RoleSwitch, serving = context.serving): Switch | null =>
  switchFor(context.seats, { needed: context.nowhere?.needed ?? [], lost: context.lost, serving, refused: context.refused });
/** Somebody who is needed is lost still. */
const isMissed = ({ nowhere, lost }: RoleSwitch): boolean => nowhere?.needed.some((npu) => lost.includes(npu)) ?? false;
const askTime = { type: 'claim' as const, params: { claim: { kind: 'time' as const } } };
const claim = send(({ self, expert_map, query }) => [{ to: expert_map, message: mapWanted(self, query, 'role_switch') }]);
const retry = { type: 'after' as const, params: { id: 'retry', delay_ms: RETRY_MS, message: switchRetry() } };
/** As many groups may serve by now as there are. */
const canSwitch = (context: RoleSwitch): boolean =>
  !context.isVain && isMissed(context) && switchOf(context, context.scaling === null ? context.serving : groupsOf(context.seats)) !== null;
const toldNow = (context: RoleSwitch): ErrorRecord | null => {
  const { nowhere, waits, told } = context;
  if (nowhere === null) return null;
  // They are back, and the map says so in a moment.
  if (nowhere.needed.length > 0 && !isMissed(context)) return told;
  return waits && canSwitch(context) ? null : nowhere.error;
};
/** What is left of groups and places without who goes. */
function remaining({ seats, serving, chosen }: RoleSwitch): Pick<RoleSwitch, 'seats' | 'serving'> {
  const isLeft = (group: number): boolean => !chosen?.place.groups.includes(group);
  const groups = seats.groups.filter(({ group }) => isLeft(group));
  const places = seats.places.filter(({ worker }) => worker !== chosen?.place.worker);
  return { serving: serving.filter(isLeft), seats: { ...seats, groups, places } };
}

const NOBODY: ErrorRecord = { code: 'worker_lost', message: 'no DP group is left that could be spared for lost experts', param: null };
const OVER: ErrorRecord = { code: 'worker_lost', message: 'nobody misses experts any more', param: null };

/** The map, and the number of groups. With an error: groups serve as before. */
const givingBack = ({ self, task_executor, expert_map, scaling, entry, round, serving }: RoleSwitch, error: ErrorRecord | null, told: string | null) =>
  [
    ...(entry < 0 ? [] : [{ to: expert_map, message: mapDone(entry, error, told) }]),
    ...(scaling === null ? [] : [{ to: scaling, message: giveShape(serving) }]),
    ...(error === null ? [] : [{ to: task_executor, message: serve(self, round, serving) }]),
  ] satisfies Commands['send'][];
const giveUp = send((context) => givingBack(context, isMissed(context) ? NOBODY : OVER, null));
const finish = {
  type: 'sendEach' as const,
  params: ({ context, event }: { context: RoleSwitch; event: RoleSwitchMessage }) =>
    event.type === 'TIME_TOLD' ? givingBack({ ...context, ...remaining(context) }, null, report(context, event.now_ms)) : [],
};

/** What came of it, for the map's log. */
function report(context: RoleSwitch, now_ms: number): string {
  const { chosen, began_ms, lost } = context;
  if (chosen === null) return '';
  const { home, place } = chosen;
  const switched = `${names(home.npus)} took the place of ${names(place.npus)} (DP group ${place.groups.join(', ')})`;
  const { seats, serving } = remaining(context);
  const served = seats.groups.filter(({ group, npus }) => serving.includes(group) && !npus.some((npu) => lost.includes(npu))).length;
  return `${switched} in ${now_ms - began_ms} ms, since experts were nowhere else; ${served} DP groups are left to serve`;
}

export const roleSwitch = setup({
  types: {} as { input: Input; context: RoleSwitch; events: RoleSwitchMessage },
  actions: {
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    claim: (_, _command: Commands['claim']) => {},
    noteNowhere: assign(({ event }) => (event.type === 'EXPERTS_NOWHERE' ? { nowhere: event.error === null ? null : event, isVain: false } : {})),
    noteLost: assign(({ context: { lost }, event }) => (event.type === 'NPU_LOST' ? { lost: [...new Set([...lost, event.npu])], isVain: false } : {})),
    noteBack: assign(({ context: { lost }, event }) => (event.type === 'NPU_BACK' ? { lost: lost.filter((npu) => npu !== event.npu), isVain: false } : {})),
    noteTold: assign(({ context }) => ({ told: toldNow(context) })),
    noteQuery: assign({ query: ({ context }) => context.query + 1 }),
    noteRound: assign({ round: ({ context }) => context.round + 1 }),
    noteEntry: assign({ entry: ({ context, event }) => (event.type === 'MAP_GRANTED' ? event.entry : context.entry) }),
    noteTaken: assign({ entry: -1 }),
    noteServing: assign({ serving: ({ context, event }) => (event.type === 'SHAPE_LENT' ? event.groups : context.serving) }),
    noteRefused: assign({ refused: ({ context, event }) => (event.type === 'ROLE_REFUSED' ? [...context.refused, event.place] : context.refused) }),
    noteBegan: assign({ began_ms: ({ context, event }) => (event.type === 'TIME_TOLD' && context.began_ms < 0 ? event.now_ms : context.began_ms) }),
    choose: assign({ chosen: ({ context }) => switchOf(context) }),
    // Its groups are no more, whatever comes of it.
    takeOut: assign(({ context }) => remaining(context)),
    forget: assign({ chosen: null, entry: -1, began_ms: -1 }),
    noteVain: assign({ isVain: true }),
  },
  guards: {
    isNews: ({ context }) => toldNow(context)?.message !== context.told?.message,
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
    // The map is held still, or again: that it has become so is an entry.
    isBack: ({ context: { chosen, lost, entry } }) => entry >= 0 && (chosen?.home.npus.every((npu) => !lost.includes(npu)) ?? false),
  },
}).createMachine({
  id: 'role-switch',
  context: ({ input }) => ({
    ...input,
    ...{ nowhere: null, told: null, isVain: false, lost: [], refused: [], chosen: null, query: 0, round: 0, entry: -1, began_ms: -1 },
  }),
  initial: 'watching',
  on: {
    EXPERTS_NOWHERE: { actions: 'noteNowhere' },
    NPU_LOST: { actions: 'noteLost' },
    NPU_BACK: { actions: 'noteBack' },
    // Else of a question that was given up.
    MAP_GRANTED: [
      { guard: 'isLateAnswer', actions: 'noteEntry' },
      { actions: { type: 'sendEach', params: ({ context, event }) => [{ to: context.expert_map, message: mapDone(event.entry, OVER, null) }] } },
    ],
    MAP_REFUSED: [{ guard: 'isLateAnswer', actions: retry }, {}],
    // A rehoming comes first. The switch goes on meanwhile, and is an entry again behind it.
    MAP_TAKEN: [{ guard: 'goesOn', actions: ['noteTaken', retry] }, {}],
    SWITCH_RETRY: [{ guard: 'lacksTheMap', actions: ['noteQuery', claim] }, {}],
    TIME_TOLD: { actions: 'noteBegan' },
    // On their way when the state was over that they are of.
    SERVING: {},
    VACATING_OVERDUE: {},
    ROLE_REFUSED: {},
  },
  states: {
    watching: {
      always: [
        {
          guard: 'isNews',
          actions: [
            send((context) => {
              const told = toldNow(context);
              return [{ to: context.task_executor, message: expertsNowhere(told, told === null ? [] : (context.nowhere?.npus ?? []), []) }];
            }),
            'noteTold',
          ],
        },
        { guard: 'canSwitch', target: 'claiming' },
        // The next switch begins when it is asked for, not when one came to nothing.
        { guard: 'hasBegun', actions: 'forget' },
      ],
    },
    claiming: {
      entry: ['noteQuery', claim, askTime],
      exit: { type: 'cancel', params: { id: 'retry' } },
      on: {
        MAP_GRANTED: { guard: 'isAnswer', target: 'borrowing', actions: 'noteEntry' },
        MAP_REFUSED: { guard: 'isAnswer', actions: retry },
        // Much may have happened: it decides anew.
        SWITCH_RETRY: 'watching',
      },
    },
    borrowing: {
      entry: send(({ self, scaling }) => (scaling === null ? [] : [{ to: scaling, message: lendShape(self) }])),
      always: { guard: 'hasNoScaling', target: 'vacating' },
      on: { SHAPE_LENT: { target: 'vacating', actions: 'noteServing' } },
    },
    vacating: {
      entry: [
        'choose',
        'noteRound',
        { type: 'cancel', params: { id: 'overdue' } },
        send((context) =>
          context.chosen === null ? [] : [{ to: context.task_executor, message: serve(context.self, context.round, remaining(context).serving) }],
        ),
        { type: 'after', params: { id: 'overdue', delay_ms: VACATING_MS_MAX, message: vacatingOverdue() } },
      ],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      always: { guard: 'hasNobody', target: 'watching', actions: [giveUp, 'noteVain', 'forget', { type: 'cancel', params: { id: 'retry' } }] },
      on: {
        NPU_LOST: [{ guard: 'isUpset', target: 'vacating', reenter: true, actions: 'noteLost' }, { actions: 'noteLost' }],
        // Of an earlier choice.
        SERVING: [{ guard: 'isVacated', target: 'switching' }, {}],
        VACATING_OVERDUE: 'switching',
      },
    },
    switching: {
      entry: send(({ self, chosen }) => (chosen === null ? [] : [{ to: CONTROL, message: switchRole(self, chosen.home.worker, chosen.place.worker) }])),
      always: { guard: 'isBack', target: 'settling' },
      on: {
        NPU_LOST: [{ guard: 'isLostAgain', target: 'vacating', actions: ['noteLost', 'takeOut'] }, { actions: 'noteLost' }],
        ROLE_REFUSED: { target: 'vacating', actions: 'noteRefused' },
      },
    },
    // How long it took is told, too.
    settling: {
      entry: askTime,
      on: { TIME_TOLD: { target: 'watching', actions: [finish, 'takeOut', 'forget', { type: 'cancel', params: { id: 'retry' } }] } },
    },
  },
});
