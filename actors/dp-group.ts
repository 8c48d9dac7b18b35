/**
 * A DP group: one attention replica with its own scheduler and KV blocks, on one NPU; it shares nothing with another (xDeepServe §4).
 *
 *   idle ⇄ stepping
 *
 * Each turn of `stepping` is one step of the NPU: plan, launch, retire. Its tokens go straight to the frontend, one message a step (the output shortcut).
 * While it steps, the NPU has the next step before the one that runs has ended (asynchronous scheduling, DeepServe §4.2). The first step after idling has
 * none ahead of it: what comes in the same moment, as bursts do, is not kept waiting by a step for the first of them alone.
 * A step has no deadline of its own: the NPU reports its failure, and the host the death of their thread.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { leaseExpired, releaseSlots, step } from '../src/protocol/constructors.ts';
import type { Commands, DpGroupMessage } from '../src/protocol/messages.ts';
import type { SchedulerLimits } from './policies/scheduler-limits.ts';
import { StepScheduler } from './policies/step-scheduler.ts';

type DpGroup = { self: Address; npu: Address; scheduler: StepScheduler; outbox: readonly Commands['send'][]; transfers: Commands['transferEach'] };

/** The next steps, up to `count`; where there is nothing to do, what the NPU may free meanwhile. */
function stepsOf({ scheduler, npu }: DpGroup, count: number): Commands['send'][] {
  const sends: Commands['send'][] = [...scheduler.receive()];
  for (let planned = 0; planned < count; planned++) {
    const next = scheduler.plan();
    if (next !== null) sends.push(...next.messages, { to: npu, message: step(next.plan) });
    else sends.push(...scheduler.takeUntold());
  }
  if (scheduler.isStepping) return sends;
  const slots = scheduler.takeDetached();
  return slots.length === 0 ? sends : [...sends, { to: npu, message: releaseSlots(slots) }];
}

/** Longer than a decode side that lives makes anybody wait; a silent one loses what it was lent. Only this group's own clock counts. */
const LEASE_MS = 30_000;
const leaseOf = (transfer: number): string => `lease-${transfer}`;
const cancelLease = { type: 'cancel' as const, params: ({ event }: { event: { readonly id: number } }) => ({ id: leaseOf(event.id) }) };

/** What an event led to: what to tell whom, and which blocks to move. */
type Asked = Pick<DpGroup, 'outbox' | 'transfers'>;
const asked = ({ scheduler }: DpGroup, outbox: readonly Commands['send'][]): Asked => ({ outbox, transfers: scheduler.handoffs.takeTransfers() });

/** Blocks first: what is lent must be held before their slots are given up. */
const perform = [
  { type: 'transferEach' as const, params: ({ context }: { context: DpGroup }) => context.transfers },
  { type: 'sendEach' as const, params: ({ context }: { context: DpGroup }) => context.outbox },
] as const;

export const dpGroup = setup({
  types: {} as { input: { self: Address; npu: Address; limits: SchedulerLimits }; context: DpGroup; events: DpGroupMessage },
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
      outbox: ({ context, event }) => (event.type === 'STEP_DONE' ? context.scheduler.retire(event.outcomes) : []),
    }),
    failStep: assign({
      outbox: ({ context, event }) => (event.type === 'STEP_FAILED' ? context.scheduler.failAll(event.error) : []),
    }),
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
  },
}).createMachine({
  id: 'dp-group',
  context: ({ input }) => ({ self: input.self, npu: input.npu, scheduler: new StepScheduler(input.limits), outbox: [], transfers: [] }),
  initial: 'idle',
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
      },
      always: { guard: 'isStepping', target: 'stepping' },
    },
    stepping: {
      on: {
        ENQUEUE: { actions: ['enqueue', 'receive', ...perform] },
        TRANSFER_DONE: { actions: [cancelLease, 'endTransfer', 'receive', ...perform] },
        TRANSFER_FAILED: { actions: [cancelLease, 'endTransfer', 'receive', ...perform] },
        // One transition a step, without leaving the state: this is the hottest message of all.
        STEP_DONE: { actions: ['retireStep', 'planAhead', ...perform] },
        STEP_FAILED: { actions: ['failStep', 'planStep', ...perform] },
      },
      always: { guard: 'hasNoStep', target: 'idle' },
    },
  },
});
