/**
 * A DP group: one attention replica with its own scheduler and KV blocks, on one NPU, or on several as the ranks of its tensor parallelism; it shares nothing
 * with another (xDeepServe §4).
 *
 *   idle ⇄ stepping
 *    ▲        │ a rank fails, is lost, or finds something else than the others
 *    └─ rolling back: all ranks forget what they hold (the life of a group with several ranks begins here)
 *
 * Each turn of `stepping` is one step of the NPU, or the same step of all ranks: plan, launch, retire. Its tokens go straight to the frontend, one message a step (the output shortcut).
 * While it steps, the NPU has the next step before the one that runs has ended (asynchronous scheduling, DeepServe §4.2). The first step after idling has
 * none ahead of it: what comes in the same moment, as bursts do, is not kept waiting by a step for the first of them alone.
 * A step has no deadline of its own: the NPU reports its failure, and the host the death of their thread.
 */
import { assign, setup } from 'xstate';
import { type Address, address, idOf } from '../src/protocol/address.ts';
import { leaseExpired, releaseSlots, reset, step } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { Commands, DpGroupMessage } from '../src/protocol/messages.ts';
import { RankReports } from './policies/rank-reports.ts';
import type { SchedulerLimits } from './policies/scheduler-limits.ts';
import { StepScheduler } from './policies/step-scheduler.ts';

type DpGroup = {
  self: Address;
  /** By rank. */
  npus: readonly Address[];
  scheduler: StepScheduler;
  ranks: RankReports;
  outbox: readonly Commands['send'][];
  transfers: Commands['transferEach'];
};

/** The next steps, up to `count`; where there is nothing to do, what the NPUs may free meanwhile. */
function stepsOf({ scheduler, npus }: DpGroup, count: number): Commands['send'][] {
  const sends: Commands['send'][] = [...scheduler.receive()];
  for (let planned = 0; planned < count; planned++) {
    const next = scheduler.plan();
    if (next !== null) sends.push(...next.messages, ...npus.map((npu) => ({ to: npu, message: step(next.plan) })));
    else sends.push(...scheduler.takeUntold());
  }
  if (scheduler.isStepping) return sends;
  const slots = scheduler.takeDetached();
  return slots.length === 0 ? sends : [...sends, ...npus.map((npu) => ({ to: npu, message: releaseSlots(slots) }))];
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

/** Longer than a decode side that lives makes anybody wait; a silent one loses what it was lent. Only this group's own clock counts. */
const LEASE_MS = 30_000;
const leaseOf = (transfer: number): string => `lease-${transfer}`;
const cancelLease = { type: 'cancel' as const, params: ({ event }: { event: { readonly id: number } }) => ({ id: leaseOf(event.id) }) };

/** What an event led to: what to tell whom, and which blocks to move. */
type Asked = Pick<DpGroup, 'outbox' | 'transfers'>;
function asked({ scheduler }: DpGroup, outbox: readonly Commands['send'][]): Asked {
  // What it did to blocks that are kept is told as one.
  scheduler.cache.events.endBatch();
  return { outbox, transfers: scheduler.handoffs.takeTransfers() };
}

/** Blocks first: what is lent must be held before their slots are given up. */
const perform = [
  { type: 'transferEach' as const, params: ({ context }: { context: DpGroup }) => context.transfers },
  { type: 'sendEach' as const, params: ({ context }: { context: DpGroup }) => context.outbox },
] as const;

export const dpGroup = setup({
  types: {} as { input: { self: Address; npus: readonly Address[]; limits: SchedulerLimits }; context: DpGroup; events: DpGroupMessage },
  actions: {
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    transferEach: (_, _transfers: Commands['transferEach']) => {},
    enqueue: assign({
      outbox: ({ context, event }) => (event.type === 'ENQUEUE' ? context.scheduler.enqueue(event.task, event.sequence, event.stage, event.handoff) : []),
    }),
    abandon: assign(({ context, event }) => asked(context, event.type === 'ABANDON' ? context.scheduler.abandon(event.task) : [])),
    dropCache: assign(({ context }) => {
      context.scheduler.cache.drop();
      return {};
    }),
    keepContext: assign({
      outbox: ({ context, event }) => {
        if (event.type === 'KEEP_CONTEXT') context.scheduler.keepContext(event.context, event.cache_salt, event.tokens);
        return [];
      },
    }),
    forgetContext: assign({
      outbox: ({ context, event }) => {
        if (event.type === 'FORGET_CONTEXT') context.scheduler.cache.deleteContext(event.context);
        return [];
      },
    }),
    retireStep: assign({
      outbox: ({ context, event }) => (event.type === 'STEP_DONE' ? context.scheduler.retire(context.ranks.take(event)) : []),
    }),
    noteReport: assign(({ context, event }) => {
      if (event.type === 'STEP_DONE') context.ranks.note(event);
      return {};
    }),
    failStep: assign({
      outbox: ({ context, event }) => {
        if (event.type === 'RANK_LOST') context.ranks.lose(event.npu);
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
    offer: assign(({ context, event }) => asked(context, event.type === 'OFFERED' ? context.scheduler.handoffs.offered(event.id, event.offer) : [])),
    endLease: assign(({ context, event }) => {
      if (event.type === 'LEASE_EXPIRED') context.scheduler.handoffs.expire(event.id);
      return asked(context, []);
    }),
    endTransfer: assign({
      outbox: ({ context, event }) =>
        event.type === 'TRANSFER_DONE' || event.type === 'TRANSFER_FAILED' ? context.scheduler.transferEnded(event.id, event.type === 'TRANSFER_DONE') : [],
    }),
    receive: assign(({ context }) => asked(context, [...context.outbox, ...context.scheduler.receive()])),
    planStep: assign(({ context }) => asked(context, [...context.outbox, ...stepsOf(context, 1)])),
    planAhead: assign(({ context }) => asked(context, [...context.outbox, ...stepsOf(context, 2)])),
  },
  guards: {
    isStepping: ({ context }) => context.scheduler.isStepping,
    hasNoStep: ({ context }) => !context.scheduler.isStepping,
    isAlone: ({ context }) => context.ranks.isAlone,
    ranksAreClean: ({ context }) => context.ranks.areClean,
    othersAreAtTheStep: ({ context, event }) => event.type === 'STEP_DONE' && context.ranks.othersAreAt(event),
    ranksDiffer: ({ context, event }) => event.type === 'STEP_DONE' && context.ranks.differs(event),
  },
}).createMachine({
  id: 'dp-group',
  context: ({ input: { self, npus, limits } }) => ({
    ...{ self, npus, scheduler: new StepScheduler(limits), ranks: new RankReports(npus.map(idOf)), outbox: [], transfers: [] },
  }),
  initial: 'rolling-back',
  on: {
    DROP_CACHE: { actions: 'dropCache' },
    KEEP_CONTEXT: { actions: 'keepContext' },
    FORGET_CONTEXT: { actions: 'forgetContext' },
    ABANDON: { actions: ['abandon', ...perform] },
    OFFERED: {
      actions: [
        'offer',
        ...perform,
        { type: 'after', params: ({ event }) => ({ id: leaseOf(event.id), delay_ms: LEASE_MS, message: leaseExpired(event.id) }) },
      ],
    },
    LEASE_EXPIRED: { actions: ['endLease', ...perform] },
  },
  states: {
    idle: {
      on: {
        ENQUEUE: { actions: ['enqueue', 'planStep', ...perform] },
        TRANSFER_DONE: { actions: [cancelLease, 'endTransfer', 'planStep', ...perform] },
        TRANSFER_FAILED: { actions: [cancelLease, 'endTransfer', 'planStep', ...perform] },
        RANK_LOST: { target: 'rolling-back', actions: 'failStep' },
        // Its predecessor was lost before this group began, so it holds nothing that this group has not told it to forget.
        RANK_BACK: {},
      },
      always: { guard: 'isStepping', target: 'stepping' },
    },
    stepping: {
      on: {
        ENQUEUE: { actions: ['enqueue', 'receive', ...perform] },
        TRANSFER_DONE: { actions: [cancelLease, 'endTransfer', 'receive', ...perform] },
        TRANSFER_FAILED: { actions: [cancelLease, 'endTransfer', 'receive', ...perform] },
        // One transition a step, without leaving the state: this is the hottest message of all.
        STEP_DONE: [
          { guard: 'othersAreAtTheStep', actions: 'noteReport' },
          { guard: 'ranksDiffer', target: 'rolling-back', actions: 'failStep' },
          { actions: ['retireStep', 'planAhead', ...perform] },
        ],
        STEP_FAILED: [
          { guard: 'isAlone', actions: ['failStep', 'planStep', ...perform] },
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
        ENQUEUE: { actions: ['enqueue', 'settle', ...perform] },
        TRANSFER_DONE: { actions: [cancelLease, 'endTransfer', 'settle', ...perform] },
        TRANSFER_FAILED: { actions: [cancelLease, 'endTransfer', 'settle', ...perform] },
        // Of what was launched before.
        STEP_DONE: {},
        STEP_FAILED: {},
        RANK_RESET: { actions: 'noteReset' },
        RANK_LOST: { actions: ['failStep', 'settle', ...perform] },
        RANK_BACK: { actions: ['resetRank', ...perform] },
      },
      always: { guard: 'ranksAreClean', target: 'idle', actions: ['begin', ...perform] },
    },
  },
});
