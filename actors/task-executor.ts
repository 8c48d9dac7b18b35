/**
 * A task executor: places tasks on its DP groups and answers for the health of its NPUs (xDeepServe §4: the TE-shell dispatches
 * once a request and coordinates health; tokens never pass it).
 *
 *   loading ─▶ announced ─▶ serving ─▶ draining
 *
 * Where groups are chosen by what steps cost, one of them leads: it is told of each task that has no group, and tells the group that it has chosen. When it is
 * lost the next one leads, and is told of those who still wait: nothing else of it was known to the leader alone.
 *
 * Some of its groups may stand by: they hold what they need to serve, and nobody's sequences (scaling.ts says when).
 *
 * A task that finds no serving DP group waits here until one is back. No state has a deadline: the host that
 * starts the workers bounds loading, and reports a thread that dies as NPU_LOST.
 *
 * While it has tasks it asks the masters of its groups, and its NPUs, once a beat whether they live (xDeepServe §6): at once with the first task. An idle one asks
 * when it is asked itself, which is once a beat while others have requests, so that who hangs is found before it is needed. Whoever neither answers nor gets on with its
 * work it tells the host of, which gives the worker up; what follows is what follows when one dies.
 */
import { assign, setup } from 'xstate';
import { type Address, address, roleOf } from '../src/protocol/address.ts';
import type { LongPrompts, StepSample } from '../src/protocol/balancing.ts';
import {
  abandon,
  drain,
  executorLost,
  executorReady,
  expertsLost,
  groupUnwanted,
  groupWanted,
  handBack,
  maskExperts,
  memberLife,
  memberReady,
  npuLost,
  placed,
  rankBack,
  rankLost,
  takePart,
  withdrawn,
} from '../src/protocol/constructors.ts';
import type { MemberLife } from '../src/protocol/controllers.ts';
import { assert, type ErrorRecord } from '../src/protocol/errors.ts';
import { npuBack } from '../src/protocol/expert-maps.ts';
import { pong } from '../src/protocol/heartbeats.ts';
import type { Commands, TaskExecutorMessage } from '../src/protocol/messages.ts';
import type { GroupSeat } from './policies/group-choice.ts';
import { askForProgress, Heartbeats, nextBeat, sendsOf } from './policies/heartbeats.ts';
import { leading, tellLeader } from './policies/leadership.ts';
import { type Balancing, TaskPlacement } from './policies/placement.ts';
import { isSameService, serviceOf } from './policies/service-news.ts';
import { groupNews, npuNews } from './policies/shape-news.ts';
import { giveBack, strandedBy, takePartAgain } from './policies/stranded-groups.ts';

type Input = {
  readonly self: Address;
  readonly managers: readonly Address[];
  readonly groups: readonly GroupSeat[];
  /** Of those, the ones that stand by at first. */
  readonly standby: readonly number[];
  /** Its NPUs that have experts only; and of those the ones that hold any at first: without all of these no group serves. */
  readonly experts: readonly number[];
  readonly holders: readonly number[];
  /** So few of those may be left where it serves on without the experts of others (`degraded`); null: it does not. */
  readonly holders_min: number | null;
  /** Null: its experts stay where they are; and no attention NPU of its takes another role. */
  readonly expert_map: Address | null;
  readonly role_switch: Address | null;
  /** Who says which of its groups serve; null: always all. */
  readonly scaling: Address | null;
  /** NPUs that are lost have successors. */
  readonly respawns: boolean;
  readonly batch_max: number;
  readonly choice: Balancing;
  readonly long: LongPrompts;
};
type TaskExecutor = Pick<Input, 'self' | 'managers' | 'long' | 'expert_map' | 'role_switch' | 'scaling' | 'respawns'> & {
  placement: TaskPlacement;
  heartbeats: Heartbeats;
  /** Job executors that want to hear when this one serves, and in which of their lives they asked. */
  job_executors: readonly MemberLife[];
  /** Whether any group serves, or what nobody serves for; null: its job executors have not heard of it yet. */
  serves: boolean | ErrorRecord | null;
  hasLeader: boolean;
  /** The group that leads; −1: none. */
  leader: number;
  /** NPUs whose experts its groups do without. */
  masked: readonly number[];
  /** How often another has come to lead: groups go by the last that they have heard of. */
  term: number;
  /** Of all its NPUs, as they warmed up. */
  samples: readonly StepSample[];
  /** Whoever changes which groups serve, and waits to hear that it has come to that; null: nobody does. */
  asker: { readonly by: Address; readonly query: number } | null;
  /** As far as is told. */
  gone: readonly number[];
  outbox: readonly Commands['send'][];
};

const groupAddress = (group: number): Address => address('dp-group', group);
const placedOn = (task: Address, group: number): Commands['send'] => ({ to: task, message: placed(groupAddress(group)) });

/** They run on in their DP groups, which are told to let them go; their answer finds nobody. */
const letGoOfTasks = (executor: TaskExecutor, job_executor: Address): Commands['send'][] =>
  executor.placement
    .releaseAll(job_executor)
    .flatMap(({ task, group }) => [
      ...(group === null ? [] : [{ to: groupAddress(group), message: abandon(task) }]),
      ...tellLeader(executor, [groupUnwanted(task)]),
    ]);

const tell = { type: 'sendEach' as const, params: ({ context }: { context: TaskExecutor }) => context.outbox };
const answer = {
  type: 'send' as const,
  params: ({ context, event }: { context: TaskExecutor; event: TaskExecutorMessage }): Commands['send'] => {
    assert(event.type === 'PING', `${context.self} answers PING alone`);
    return { to: event.from, message: pong(context.self) };
  },
};

export const taskExecutor = setup({
  types: {} as { input: Input; context: TaskExecutor; events: TaskExecutorMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    claim: (_, _command: Commands['claim']) => {},
    markReady: assign({
      samples: ({ context, event }) => (event.type === 'NPU_READY' && context.hasLeader ? [...context.samples, ...event.samples] : context.samples),
      outbox: ({ context: { self, placement, heartbeats, expert_map, role_switch, respawns }, event }) => {
        if (event.type !== 'NPU_READY') return [];
        for (const member of placement.membersAt(event.npu)) heartbeats.watch(member);
        const [group, standby] = [placement.returned(event.npu), placement.standbyLedBy(event.npu)];
        const stranded = respawns ? strandedBy(placement, event.npu) : [];
        const goOn = placement.ready(event.npu);
        return [
          ...(group === null ? [] : [{ to: groupAddress(group), message: rankBack(event.npu) }]),
          ...npuNews([expert_map, role_switch], npuBack(event.npu)),
          ...(standby === null ? [] : [{ to: groupAddress(standby), message: handBack(self, true) }]),
          ...takePartAgain(placement, stranded),
          ...goOn.map(({ task, group }) => placedOn(task, group)),
        ];
      },
    }),
    markLost: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'NPU_LOST') return [];
        for (const member of context.placement.membersAt(event.npu)) context.heartbeats.forget(member);
        const { group, tasks } = context.placement.lost(event.npu, !context.respawns);
        // Who needs its columns would wait for ever.
        const needing = context.respawns ? [] : context.placement.needing(event.npu);
        const told = [
          ...npuNews([context.expert_map, context.role_switch], npuLost(event.npu, event.error)),
          ...needing.map((other) => ({ to: groupAddress(other), message: handBack(context.self, false) })),
        ];
        if (group !== null) {
          const self = address('dp-group', group);
          // Where nobody comes back it steps no more: whoever is on his way there goes elsewhere.
          const giveBack = context.respawns ? [] : [{ to: self, message: handBack(context.self, true) }];
          return [...told, { to: self, message: rankLost(event.npu, event.error) }, ...giveBack];
        }
        return [...told, ...tasks.map((task) => ({ to: task, message: executorLost(event.error) }))];
      },
    }),
    /** Who can do without some experts is told of which; and those that waited for them go on. The groups of an NPU that has just begun know of none. */
    maskExperts: assign(({ context: { placement, masked, outbox }, event }) => {
      const now = placement.masked;
      const isNews = `${now}` !== `${masked}`;
      const groups = isNews ? placement.groups : event.type === 'NPU_READY' && now.length > 0 ? placement.groups : [];
      const placed = isNews || event.type === 'EXPERTS_NOWHERE' ? placement.placeWaiting().map(({ task, group }) => placedOn(task, group)) : [];
      return { masked: now, outbox: [...outbox, ...groups.map((group) => ({ to: groupAddress(group), message: maskExperts(now) })), ...placed] };
    }),
    elect: assign(({ context }) => {
      const { leader, term, sends } = leading(context);
      return { leader, term, outbox: [...context.outbox, ...sends] };
    }),
    noteService: assign(({ context: { self, serves, placement, job_executors, outbox } }) => {
      const now = placement.expertsLost ?? placement.serving.length > 0;
      if (serves === null || isSameService(now, serves)) return {};
      // Those that are there wait for nothing that will come.
      const failed = typeof now === 'boolean' ? [] : placement.takeTasks().map((task) => ({ to: task, message: expertsLost(now) }));
      return { serves: now, outbox: [...outbox, ...job_executors.map(({ member }) => ({ to: member, message: serviceOf(self, now) })), ...failed] };
    }),
    noteGone: assign({
      outbox: ({ context, event }) => {
        if (event.type === 'NPU_GONE') context.placement.gone(event.npu, event.error);
        if (event.type === 'EXPERTS_NOWHERE') context.placement.nowhere(event.error, event.npus);
        if (event.type !== 'NPU_GONE') return [];
        const stranded = context.respawns ? strandedBy(context.placement, event.npu) : [];
        return [...npuNews([context.role_switch], event), ...giveBack(context.self, stranded)];
      },
    }),
    serveGroups: assign({
      asker: ({ context, event }) => (event.type === 'SERVE' ? { by: event.by, query: event.query } : context.asker),
      outbox: ({ context: { self, placement }, event }) => {
        if (event.type !== 'SERVE') return [];
        const { leaving, joining, placed: next } = placement.serve(event.groups);
        return [
          ...leaving.map((group) => ({ to: groupAddress(group), message: handBack(self, roleOf(event.by) === 'scaling') })),
          ...joining.map((group) => ({ to: groupAddress(group), message: takePart() })),
          ...next.map(({ task, group }) => placedOn(task, group)),
        ];
      },
    }),
    noteHolders: assign({
      outbox: ({ context: { placement }, event }) =>
        event.type === 'EXPERTS_HELD' ? placement.hold(event.npus).map(({ task, group }) => placedOn(task, group)) : [],
    }),
    noteLeft: assign({
      outbox: ({ context, event }) => {
        if (event.type === 'GROUP_LEFT') context.placement.left(event.group);
        return [];
      },
    }),
    forgetOutbox: assign({ outbox: [] }),
    noteShape: assign(({ context }) => {
      const { sends, ...told } = groupNews(context);
      return { ...told, outbox: [...context.outbox, ...sends] };
    }),
    placeTask: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'PLACE') return [];
        const error = context.placement.expertsLost;
        if (error !== null) return [{ to: event.task, message: expertsLost(error) }];
        const group = context.placement.place(event);
        if (group !== null) return [placedOn(event.task, group)];
        const unchosen = context.placement.unchosenOf(event.task);
        return unchosen === null ? [] : tellLeader(context, [groupWanted(unchosen)]);
      },
    }),
    takeChosen: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'GROUP_CHOSEN') return [];
        if (context.placement.choose(event.task, event.group)) return [placedOn(event.task, event.group)];
        // It is gone, or the group is: whoever leads reckons with it no more, and begins anew if it waits still.
        const again = context.placement.unchosenOf(event.task);
        return tellLeader(context, [groupUnwanted(event.task), ...(again === null ? [] : [groupWanted(again)])]);
      },
    }),
    letIn: assign({
      // What one of its earlier lives has left nobody asks for any more.
      outbox: ({ context, event }) => (event.type === 'JOIN' ? letGoOfTasks(context, event.member) : []),
      job_executors: ({ context, event }) =>
        event.type === 'JOIN'
          ? [...context.job_executors.filter(({ member }) => member !== event.member), memberLife(event.member, event.life)]
          : context.job_executors,
    }),
    disownTasks: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'DISOWN') return [];
        const known = context.job_executors.find(({ member }) => member === event.lost);
        return known !== undefined && known.life > event.life ? [] : letGoOfTasks(context, event.lost);
      },
    }),
    releaseTask: assign({
      placement: ({ context, event }) => {
        if (event.type === 'RELEASE' || event.type === 'WITHDRAW') context.placement.release(event.task);
        return context.placement;
      },
    }),
    noteAnswer: assign(({ context, event }) => {
      if (event.type === 'PONG') context.heartbeats.heard(event.member);
      return {};
    }),
    beginToBeat: assign(({ context }) => {
      context.heartbeats.isBeating = true;
      return {};
    }),
    endBeating: assign(({ context }) => {
      context.heartbeats.rest();
      return {};
    }),
    beat: assign({
      outbox: ({ context: { self, heartbeats }, event }) => (event.type === 'PROGRESS' ? sendsOf(self, heartbeats.beat(event)) : []),
    }),
    answerWithdrawal: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'WITHDRAW') return [];
        return [{ to: event.task, message: withdrawn() }, ...tellLeader(context, [groupUnwanted(event.task)])];
      },
    }),
  },
  guards: {
    isBeating: ({ context }) => context.heartbeats.isBeating,
    mustBeat: ({ context }) => context.placement.isHolding || context.heartbeats.silent.length > 0,
    isScaling: ({ context }) => context.asker !== null,
    allNpusServe: ({ context }) => context.placement.allServe,
  },
}).createMachine({
  id: 'task-executor',
  context: ({ input }) => ({
    self: input.self,
    managers: input.managers,
    long: input.long,
    expert_map: input.expert_map,
    role_switch: input.role_switch,
    scaling: input.scaling,
    respawns: input.respawns,
    placement: new TaskPlacement(input.groups, input.batch_max, input.choice, input.experts, input.holders, input.standby, input.holders_min),
    heartbeats: new Heartbeats(),
    hasLeader: input.choice === 'cost_model',
    leader: -1,
    masked: [],
    term: 0,
    samples: [],
    serves: null,
    asker: null,
    gone: [],
    job_executors: [],
    outbox: [],
  }),
  initial: 'loading',
  on: {
    NPU_READY: { actions: ['markReady', 'maskExperts', 'elect', 'noteService', 'noteShape', tell] },
    NPU_LOST: { actions: ['markLost', 'maskExperts', 'elect', 'noteService', 'noteShape', tell] },
    EXPERTS_NOWHERE: { actions: ['noteGone', 'maskExperts', 'elect', 'noteService', 'noteShape', tell] },
    NPU_GONE: { actions: ['noteGone', 'maskExperts', 'elect', 'noteService', 'noteShape', tell] },
    PLACE: [{ guard: 'isBeating', actions: ['placeTask', tell] }, { actions: ['placeTask', tell, 'beginToBeat', askForProgress] }],
    PING: [{ guard: 'isBeating', actions: answer }, { actions: [answer, 'beginToBeat', askForProgress] }],
    PONG: { actions: 'noteAnswer' },
    // The timer runs only while there are tasks, or somebody is silent, so that an idle pod sleeps.
    BEAT_DUE: [{ guard: 'mustBeat', actions: askForProgress }, { actions: 'endBeating' }],
    PROGRESS: { actions: ['beat', tell, nextBeat] },
    GROUP_CHOSEN: { actions: ['takeChosen', tell] },
    WITHDRAW: { actions: ['releaseTask', 'answerWithdrawal', 'noteShape', tell] },
    RELEASE: [{ guard: 'isScaling', actions: ['releaseTask', 'forgetOutbox', 'noteShape', tell] }, { actions: 'releaseTask' }],
    SERVE: { actions: ['serveGroups', 'elect', 'noteService', 'noteShape', tell] },
    EXPERTS_HELD: { actions: ['noteHolders', 'maskExperts', 'elect', 'noteService', 'noteShape', tell] },
    GROUP_LEFT: { actions: ['noteLeft', 'noteShape', tell] },
    JOIN: { actions: ['letIn', 'noteShape', tell] },
    DISOWN: { actions: ['disownTasks', 'noteShape', tell] },
  },
  states: {
    loading: {
      always: { guard: 'allNpusServe', target: 'announced' },
    },
    announced: {
      entry: [
        assign({ serves: true }),
        {
          type: 'sendEach',
          params: ({ context: { self, managers, job_executors } }) => [
            ...job_executors.map(({ member }) => ({ to: member, message: executorReady(self) })),
            // It lives as long as the pod: it has one life.
            ...managers.map((manager) => ({ to: manager, message: memberReady(self, 1) })),
          ],
        },
      ],
      always: 'serving',
    },
    serving: {
      on: {
        JOIN: {
          actions: [
            'letIn',
            'noteShape',
            {
              type: 'sendEach',
              params: ({ context, event }) => [
                ...context.outbox,
                { to: event.member, message: executorReady(context.self) },
                ...(context.serves === true || context.serves === null ? [] : [{ to: event.member, message: serviceOf(context.self, context.serves) }]),
              ],
            },
          ],
        },
        DRAIN: 'draining',
      },
    },
    draining: {
      entry: {
        type: 'sendEach',
        params: ({ context }) => context.placement.npus.map((npu) => ({ to: address('npu', npu), message: drain() })),
      },
    },
  },
});
