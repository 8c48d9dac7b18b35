/**
 * A DP group: one attention replica with its own scheduler and KV blocks, on one NPU, or on several as the ranks of its tensor parallelism; it shares nothing
 * with another (xDeepServe §4).
 *
 *   idle ⇄ stepping
 *    ▲        │ a rank fails, is lost, or finds something else than the others
 *    └─ rolling back: all ranks forget what they hold (the life of a group with several ranks begins here)
 *
 * Each turn of `stepping` is one step of the NPU, or the same step of all ranks: plan, launch, retire. Its tokens go to its own output process, one message a step, and from there straight to the frontend (the output shortcut).
 * While it steps, the NPU has the next step before the one that runs has ended (asynchronous scheduling, DeepServe §4.2). The first step after idling has none
 * ahead of it, and is planned behind all mail that waits (STEP_DUE): a burst is not kept waiting by a step for the first of it alone.
 *
 * Where tasks wait for a group in one queue, one group leads (prefill-leader.ts): it asks the others, and tells the task executor which it has chosen. Every
 * group answers whoever leads: when it is asked, when it has got a task, and, if it had no room, when it has again.
 * One that is to stand by gives back what it has (handing-back.ts), and lives on in whichever state it is.
 * A step has no deadline of its own: the NPU reports its failure, the host the death of their thread, and who hangs does not answer its task executor's PING.
 */
import { assign, setup } from 'xstate';
import { type Address, address, idOf } from '../src/protocol/address.ts';
import { choiceStopped, groupChosen, leaseExpired, prefixLent, releaseSlots, reset, statusWanted, step } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import { pong } from '../src/protocol/heartbeats.ts';
import { type Commands, choiceOfTask, type DpGroupMessage, type KvOffer } from '../src/protocol/messages.ts';
import { stepDue } from '../src/protocol/steps.ts';
import { withRoomTold, withStatus } from './policies/group-status.ts';
import { HANDED_LEASE_MS, HandingBack } from './policies/handing-back.ts';
import { givingUp, lettingGo, mask, retiring } from './policies/letting-go.ts';
import { type Orders, PrefillLeader } from './policies/prefill-leader.ts';
import { PREFIX_LEASE_MS } from './policies/prefix-loans.ts';
import { answerOf } from './policies/prefix-wants.ts';
import { RankReports } from './policies/rank-reports.ts';
import type { SchedulerLimits } from './policies/scheduler-limits.ts';
import { StepScheduler } from './policies/step-scheduler.ts';

type DpGroup = {
  self: Address;
  /** By rank. */
  npus: readonly Address[];
  limits: SchedulerLimits;
  /** How long KV is lent: a decode side that is silent loses it. Only this group's own clock counts. */
  lease_ms: number;
  scheduler: StepScheduler;
  handing: HandingBack;
  ranks: RankReports;
  /** If it leads. */
  leading: PrefillLeader | null;
  /** For whom it leads. */
  task_executor: Address;
  /** Who leads, as far as it was asked, and in which term. */
  leader: Address | null;
  term: number;
  /** It had no room when it was asked last. */
  owesStatus: boolean;
  outbox: readonly Commands['send'][];
  transfers: Commands['transferEach'];
  timers: Commands['afterEach'];
};

const sendsOf = ({ self, task_executor, term }: DpGroup, { ask, assignments }: Orders): Commands['send'][] => [
  ...ask.map((group) => ({ to: address('dp-group', group), message: statusWanted(self, term) })),
  ...assignments.map(({ task, group }) => ({ to: task_executor, message: groupChosen(task, group) })),
];

/** The next steps, up to `count`, behind what is to be told before; where there is nothing to do, what the NPUs may free meanwhile. */
function stepsOf({ scheduler, npus, handing }: DpGroup, count: number, sends: Commands['send'][] = []): Commands['send'][] {
  if (handing.isUnderWay) return sends; // what it has is given back
  // One by one: to spread lists is code of V8's own, which no cache holds after a step's kernels.
  for (const send of scheduler.receive()) sends.push(send);
  for (let planned = 0; planned < count; planned++) {
    const next = scheduler.plan();
    for (const send of next?.messages ?? scheduler.takeUntold()) sends.push(send);
    if (next !== null) for (const npu of npus) sends.push({ to: npu, message: step(next.plan) });
  }
  for (const send of releasesOf(scheduler, npus)) sends.push(send);
  return sends;
}

/** Slots that no step will name any more. */
function releasesOf(scheduler: StepScheduler, npus: readonly Address[]): Commands['send'][] {
  const slots = scheduler.isStepping ? [] : scheduler.takeDetached();
  return slots.length === 0 ? [] : npus.map((npu) => ({ to: npu, message: releaseSlots(slots) }));
}

const resetOf = ({ npu, reset: number }: { readonly npu: number; readonly reset: number }): Commands['send'] => ({
  to: address('npu', npu),
  message: reset(number),
});

const DIVERGED: ErrorRecord = {
  code: 'internal',
  message: 'the ranks of the DP group found different tokens or activations in one step; the request may be sent again',
  param: null,
};

function leaseTime_ms({ scheduler, lease_ms, handing }: DpGroup, id: number): number {
  if (handing.isUnderWay) return Math.min(lease_ms, HANDED_LEASE_MS);
  return scheduler.handoffs.loans.has(id) ? Math.min(lease_ms, PREFIX_LEASE_MS) : lease_ms;
}
const leaseOf = (transfer: number): string => `lease-${transfer}`;
const cancelPrefix = { type: 'cancel' as const, params: ({ event }: { event: { readonly task: Address } }) => ({ id: answerOf(event.task) }) };
const cancelLease = { type: 'cancel' as const, params: ({ event }: { event: { readonly id: number } }) => ({ id: leaseOf(event.id) }) };

/** What an event led to: what to tell whom, which blocks to move, and what to be told of when time is up. */
type Asked = Pick<DpGroup, 'outbox' | 'transfers' | 'timers'>;
function asked({ scheduler, handing, npus }: DpGroup, outbox: readonly Commands['send'][]): Asked {
  const given = handing.isUnderWay ? [...handing.take(scheduler), ...releasesOf(scheduler, npus)] : [];
  // What it did to blocks that are kept is told as one.
  scheduler.cache.events.endBatch();
  const { sends, timers } = scheduler.coming.wants.take();
  return { outbox: sends.length + given.length === 0 ? outbox : [...outbox, ...given, ...sends], transfers: scheduler.takeTransfers(), timers };
}

const offeredIn = ({ scheduler: { handoffs } }: DpGroup, id: number, offer: KvOffer): readonly Commands['send'][] =>
  handoffs.loans.has(id) ? handoffs.loans.offered(id, offer) : handoffs.lending.offered(id, offer);

/** The answer of a group that was asked for a prefix, or that there is none in time: it tells nobody by itself. */
function hearPrefix({ scheduler: { coming } }: DpGroup, event: DpGroupMessage, mayPull: boolean): Pick<DpGroup, 'outbox'> {
  if (event.type === 'PREFIX_LENT') coming.lent(event.from, event.task, event.offer, mayPull);
  if (event.type === 'PREFIX_OVERDUE') coming.overdue(event.task);
  return { outbox: [] };
}

/** A stop string in what it has shown of one that it has given back meanwhile ends that wherever it is. */
const stopOf = ({ handing, scheduler }: DpGroup, task: Address): readonly Commands['send'][] => {
  if (!handing.wasHanded(task)) return scheduler.stop(task);
  const { request, choice } = choiceOfTask(idOf(task));
  return [{ to: address('job', request), message: choiceStopped(choice) }];
};

const prefixOf = ({ handing, scheduler, self }: DpGroup, wanted: DpGroupMessage & { readonly type: 'PREFIX_WANTED' }): readonly Commands['send'][] =>
  handing.isUnderWay ? [{ to: wanted.from, message: prefixLent(self, wanted.task, null) }] : scheduler.handoffs.loans.lend(wanted);

/** Blocks first: what is lent must be held before their slots are given up. */
const perform = [
  { type: 'transferEach' as const, params: ({ context }: { context: DpGroup }) => context.transfers },
  { type: 'sendEach' as const, params: ({ context }: { context: DpGroup }) => context.outbox },
  { type: 'afterEach' as const, params: ({ context }: { context: DpGroup }) => context.timers },
] as const;
const NO_LEADER = { leading: null, task_executor: 'task-executor/0', leader: null, term: 0, owesStatus: false } as const;

const callStep = { type: 'sendEach' as const, params: ({ context }: { context: DpGroup }) => [{ to: context.self, message: stepDue() }] };

/** Where nothing is moved. */
const tellAll = { type: 'sendEach' as const, params: ({ context }: { context: DpGroup }) => context.outbox };

export const dpGroup = setup({
  types: {} as { input: { self: Address; npus: readonly Address[]; limits: SchedulerLimits; lease_ms: number }; context: DpGroup; events: DpGroupMessage },
  actions: {
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    afterEach: (_, _commands: Commands['afterEach']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    transferEach: (_, _transfers: Commands['transferEach']) => {},
    enqueue: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'ENQUEUE') return [];
        context.handing.arrive(event.task);
        return context.scheduler.enqueue(event.task, event.sequence, event.stage, event.handoff);
      },
    }),
    tellLeader: assign(({ context, event }) => withStatus(context, context.outbox, event.type === 'ENQUEUE' ? event.task : null)),
    tellLeaderOfRoom: assign(({ context }) => withRoomTold(context, context.outbox)),
    noteLeader: assign(({ event }) => (event.type === 'STATUS_WANTED' ? { leader: event.leader, term: event.term, outbox: [] } : {})),
    lead: assign(({ context, event }) => {
      if (event.type !== 'LEAD') return {};
      const { batch_tokens_max, has_prefix_cache, has_priorities } = context.limits;
      const limits = { batch_tokens_max, has_prefix_cache, has_priorities, long_tokens: event.long.tokens, long_groups: event.long.groups };
      const leading = context.leading ?? new PrefillLeader(limits, event.cost);
      const { task_executor, term } = event;
      const next = { ...context, leading, task_executor, term };
      return { leading, task_executor, term, outbox: sendsOf(next, leading.lead(event.groups, event.cost)) };
    }),
    assignGroups: assign({
      outbox: ({ context, event }) => {
        if (context.leading === null) return [];
        switch (event.type) {
          case 'GROUP_WANTED':
            return sendsOf(context, context.leading.want(event.wanted));
          case 'GROUP_UNWANTED':
            return sendsOf(context, context.leading.unwant(event.task));
          case 'GROUP_STATUS':
            return sendsOf(context, context.leading.hear(event.state, event.task));
          default:
            return [];
        }
      },
    }),
    abandon: assign(({ context, event }) => asked(context, event.type === 'ABANDON' ? [...context.scheduler.abandon(event.task), ...lettingGo(context)] : [])),
    stop: assign(({ context, event }) => asked(context, event.type === 'STOP_FOUND' ? stopOf(context, event.task) : [])),
    changeCache: assign({
      outbox: ({ context: { scheduler }, event }) => {
        if (event.type === 'DROP_CACHE') scheduler.cache.drop();
        if (event.type === 'KEEP_CONTEXT') scheduler.coming.keepContext(event.context, event.cache_salt, event.tokens);
        if (event.type === 'FORGET_CONTEXT') scheduler.cache.deleteContext(event.context);
        return [];
      },
    }),
    // All of a step's turn at once: each `assign` makes XState build the snapshot anew, which takes longer than to plan a step of a few sequences.
    goOn: assign(({ context, event }) => {
      if (event.type !== 'STEP_DONE') return {};
      const { outbox: told, transfers, timers } = asked(context, stepsOf(context, 2, retiring(context, context.ranks.take(event))));
      const { owesStatus, outbox } = withRoomTold(context, told);
      return { owesStatus, outbox, transfers, timers };
    }),
    noteReport: assign(({ context, event }) => {
      if (event.type === 'STEP_DONE') context.ranks.note(event);
      return {};
    }),
    failStep: assign({
      outbox: ({ context, event }) => {
        if (event.type === 'RANK_LOST') context.ranks.lose(event.npu);
        if (event.type === 'STEP_FAILED' && (event.damaged.length > 0 || event.error.code === 'undone')) return context.scheduler.mend(event.damaged);
        return context.scheduler.failAll(event.type === 'STEP_FAILED' || event.type === 'RANK_LOST' ? event.error : DIVERGED);
      },
    }),
    resetRanks: assign(({ context }) => asked(context, [...context.outbox, ...context.ranks.resetAll().map(resetOf)])),
    resetRank: assign(({ context, event }) => asked(context, event.type === 'RANK_BACK' ? [resetOf(context.ranks.reset(event.npu))] : [])),
    noteReset: assign(({ context, event }) => {
      if (event.type === 'RANK_RESET') context.ranks.noteReset(event.npu, event.reset);
      return { outbox: [] };
    }),
    settle: assign(({ context }) => asked(context, context.outbox)),
    begin: assign(({ context }) => asked(context, stepsOf(context, 1))),
    offer: assign(({ context, event }) => asked(context, event.type === 'OFFERED' ? offeredIn(context, event.id, event.offer) : [])),
    handOver: assign({
      outbox: ({ context, event }) => {
        if (event.type === 'HANDED_OVER') context.scheduler.handOver(event.task, event.output, event.drafts);
        return [];
      },
    }),
    endLease: assign(({ context, event }) => {
      if (event.type !== 'LEASE_EXPIRED') return {};
      context.scheduler.handoffs.lending.expire(event.id);
      context.scheduler.handoffs.loans.expire(event.id);
      return asked(context, []);
    }),
    lendPrefix: assign(({ context, event }) => asked(context, event.type === 'PREFIX_WANTED' ? prefixOf(context, event) : [])),
    takePrefixBack: assign(({ context, event }) => {
      if (event.type === 'PREFIX_UNWANTED') context.scheduler.handoffs.loans.unwant(event.task);
      return asked(context, []);
    }),
    takePrefix: assign(({ context, event }) => hearPrefix(context, event, true)),
    declinePrefix: assign(({ context, event }) => hearPrefix(context, event, false)),
    endTransfer: assign({
      outbox: ({ context, event }) =>
        event.type === 'TRANSFER_DONE' || event.type === 'TRANSFER_FAILED'
          ? context.scheduler.transferEnded(event.id, event.type === 'TRANSFER_DONE' ? null : event.damaged)
          : [],
    }),
    receive: assign(({ context }) => asked(context, [...context.outbox, ...(context.handing.isUnderWay ? [] : context.scheduler.receive())])),
    mask: assign(({ context, event }) => asked(context, event.type === 'MASK_EXPERTS' ? mask(context, event.npus) : [])),
    beginToHandBack: assign(({ context, event }) => {
      if (event.type !== 'HAND_BACK') return {};
      context.handing.begin(event.task_executor, event.lends);
      return asked(context, event.lends ? [] : givingUp(context));
    }),
    takePart: assign(({ context }) => {
      context.handing.end();
      return { outbox: [] };
    }),
    planStep: assign(({ context }) => asked(context, [...context.outbox, ...stepsOf(context, 1)])),
  },
  guards: {
    isStepping: ({ context }) => context.scheduler.isStepping,
    hasNoStep: ({ context }) => !context.scheduler.isStepping,
    isOfThisTerm: ({ context, event }) => event.type === 'STATUS_WANTED' && event.term >= context.term,
    isAlone: ({ context }) => context.ranks.isAlone,
    ranksAreClean: ({ context }) => context.ranks.areClean,
    othersAreAtTheStep: ({ context, event }) => event.type === 'STEP_DONE' && context.ranks.othersAreAt(event),
    ranksDiffer: ({ context, event }) => event.type === 'STEP_DONE' && context.ranks.differs(event),
  },
}).createMachine({
  id: 'dp-group',
  context: ({ input }) => ({
    ...{
      ...input,
      scheduler: new StepScheduler(input.limits, input.self),
      handing: new HandingBack(input.self, input.limits),
      ranks: new RankReports(input.npus.map(idOf)),
    },
    ...{ ...NO_LEADER, outbox: [], transfers: [], timers: [] },
  }),
  initial: 'rolling-back',
  on: {
    PING: { actions: { type: 'sendEach', params: ({ context, event }) => [{ to: event.from, message: pong(context.self) }] } },
    STEP_DUE: {},
    DROP_CACHE: { actions: 'changeCache' },
    KEEP_CONTEXT: { actions: 'changeCache' },
    FORGET_CONTEXT: { actions: 'changeCache' },
    // Who has nothing to run until others move, has room by these alone: no step comes that would tell of it.
    ABANDON: { actions: ['abandon', 'tellLeaderOfRoom', ...perform] },
    STOP_FOUND: { actions: ['stop', 'tellLeaderOfRoom', ...perform] },
    HAND_BACK: { actions: ['beginToHandBack', 'tellLeaderOfRoom', ...perform] },
    TAKE_PART: { actions: 'takePart' },
    MASK_EXPERTS: { actions: ['mask', ...perform] },
    OFFERED: {
      actions: [
        'offer',
        ...perform,
        {
          type: 'after',
          params: ({ context, event }) => ({ id: leaseOf(event.id), delay_ms: leaseTime_ms(context, event.id), message: leaseExpired(event.id) }),
        },
      ],
    },
    LEASE_EXPIRED: { actions: ['endLease', ...perform] },
    PREFIX_WANTED: { actions: ['lendPrefix', ...perform] },
    PREFIX_UNWANTED: { actions: ['takePrefixBack', ...perform] },
    LEAD: { actions: ['lead', tellAll] },
    GROUP_WANTED: { actions: ['assignGroups', tellAll] },
    GROUP_UNWANTED: { actions: ['assignGroups', tellAll] },
    GROUP_STATUS: { actions: ['assignGroups', tellAll] },
    // Who led before may ask still, and has been told that it does no more.
    STATUS_WANTED: [{ guard: 'isOfThisTerm', actions: ['noteLeader', 'tellLeader', tellAll] }, {}],
  },
  states: {
    idle: {
      on: {
        ENQUEUE: { actions: ['enqueue', 'receive', 'tellLeader', ...perform, callStep] },
        STEP_DUE: { actions: ['begin', 'tellLeaderOfRoom', ...perform] },
        PREFIX_LENT: { actions: [cancelPrefix, 'takePrefix', 'planStep', ...perform] },
        PREFIX_OVERDUE: { actions: ['takePrefix', 'planStep', ...perform] },
        TRANSFER_DONE: { actions: [cancelLease, 'endTransfer', 'planStep', ...perform] },
        TRANSFER_FAILED: { actions: [cancelLease, 'endTransfer', 'planStep', ...perform] },
        HANDED_OVER: { actions: ['handOver', 'planStep', ...perform] },
        RANK_LOST: { target: 'rolling-back', actions: 'failStep' },
        // Its predecessor was lost before this group began, so it holds nothing that this group has not told it to forget.
        RANK_BACK: {},
      },
      always: { guard: 'isStepping', target: 'stepping' },
    },
    stepping: {
      on: {
        ENQUEUE: { actions: ['enqueue', 'receive', 'tellLeader', ...perform] },
        PREFIX_LENT: { actions: [cancelPrefix, 'takePrefix', 'receive', ...perform] },
        PREFIX_OVERDUE: { actions: ['takePrefix', 'receive', ...perform] },
        TRANSFER_DONE: { actions: [cancelLease, 'endTransfer', 'receive', ...perform] },
        TRANSFER_FAILED: { actions: [cancelLease, 'endTransfer', 'receive', ...perform] },
        HANDED_OVER: { actions: 'handOver' },
        // One transition a step, without leaving the state: this is the hottest message of all.
        STEP_DONE: [
          { guard: 'othersAreAtTheStep', actions: 'noteReport' },
          { guard: 'ranksDiffer', target: 'rolling-back', actions: 'failStep' },
          { actions: ['goOn', ...perform] },
        ],
        STEP_FAILED: [
          { guard: 'isAlone', actions: ['failStep', 'planStep', 'tellLeaderOfRoom', ...perform] },
          { target: 'rolling-back', actions: 'failStep' },
        ],
        RANK_LOST: { target: 'rolling-back', actions: 'failStep' },
        RANK_BACK: {},
      },
      always: { guard: 'hasNoStep', target: 'idle' },
    },
    // Waits for ranks that live, and reset between two of their steps' parts, and for the successors of those that do not: the host answers for both.
    'rolling-back': {
      entry: ['resetRanks', ...perform],
      on: {
        ENQUEUE: { actions: ['enqueue', 'settle', 'tellLeader', ...perform] },
        PREFIX_LENT: { actions: [cancelPrefix, 'declinePrefix', 'settle', ...perform] },
        PREFIX_OVERDUE: { actions: ['declinePrefix', 'settle', ...perform] },
        TRANSFER_DONE: { actions: [cancelLease, 'endTransfer', 'settle', ...perform] },
        TRANSFER_FAILED: { actions: [cancelLease, 'endTransfer', 'settle', ...perform] },
        HANDED_OVER: { actions: 'handOver' },
        // Of what was launched before.
        STEP_DONE: {},
        STEP_FAILED: {},
        RANK_RESET: { actions: 'noteReset' },
        // What came since waits for all ranks, and has lost nothing; what is to go on, since memory alone went bad (kv-mending.ts), has.
        RANK_LOST: { actions: ['failStep', 'settle', ...perform] },
        RANK_BACK: { actions: ['resetRank', ...perform] },
      },
      always: { guard: 'ranksAreClean', target: 'idle', actions: ['begin', 'tellLeaderOfRoom', ...perform] },
    },
  },
});
