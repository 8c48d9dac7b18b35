/**
 * A DP group: one attention replica with its own scheduler and KV blocks, on one NPU; it shares nothing with another (xDeepServe §4).
 *
 *   idle ⇄ stepping
 *
 * Each turn of `stepping` is one step of the NPU: plan, launch, retire. Its tokens go straight to the frontend, one message a step (the output shortcut).
 * A step has no deadline of its own: the NPU reports its failure, and the host the death of their thread.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { releaseSlots, step } from '../src/protocol/constructors.ts';
import type { Commands, DpGroupMessage } from '../src/protocol/messages.ts';
import { type SchedulerLimits, StepScheduler } from './policies/step-scheduler.ts';

type DpGroup = { self: Address; npu: Address; scheduler: StepScheduler; outbox: readonly Commands['send'][] };

export const dpGroup = setup({
  types: {} as { input: { self: Address; npu: Address; limits: SchedulerLimits }; context: DpGroup; events: DpGroupMessage },
  actions: {
    sendEach: (_, _commands: Commands['sendEach']) => {},
    enqueue: assign({
      outbox: ({ context, event }) => (event.type === 'ENQUEUE' ? context.scheduler.enqueue(event.task, event.sequence) : []),
    }),
    abandon: assign({
      outbox: ({ context, event }) => (event.type === 'ABANDON' ? context.scheduler.abandon(event.task) : []),
    }),
    dropCache: assign({
      outbox: ({ context }) => {
        context.scheduler.cache.drop();
        return [];
      },
    }),
    retireStep: assign({
      outbox: ({ context, event }) => (event.type === 'STEP_DONE' ? context.scheduler.retire(event.outcomes) : []),
    }),
    failStep: assign({
      outbox: ({ context, event }) => (event.type === 'STEP_FAILED' ? context.scheduler.failAll(event.error) : []),
    }),
    planStep: assign({
      outbox: ({ context }) => {
        if (!context.scheduler.hasWork) {
          const slots = context.scheduler.takeDetached();
          return slots.length === 0 ? context.outbox : [...context.outbox, { to: context.npu, message: releaseSlots(slots) }];
        }
        const { plan, messages } = context.scheduler.plan();
        return [...context.outbox, ...messages, { to: context.npu, message: step(plan) }];
      },
    }),
  },
  guards: {
    isStepping: ({ context }) => context.scheduler.isStepping,
    hasNoStep: ({ context }) => !context.scheduler.isStepping,
  },
}).createMachine({
  id: 'dp-group',
  context: ({ input }) => ({ self: input.self, npu: input.npu, scheduler: new StepScheduler(input.limits), outbox: [] }),
  initial: 'idle',
  on: { DROP_CACHE: { actions: 'dropCache' } },
  states: {
    idle: {
      on: {
        ENQUEUE: { actions: ['enqueue', 'planStep', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        ABANDON: { actions: ['abandon', { type: 'sendEach', params: ({ context }) => context.outbox }] },
      },
      always: { guard: 'isStepping', target: 'stepping' },
    },
    stepping: {
      on: {
        ENQUEUE: { actions: ['enqueue', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        ABANDON: { actions: ['abandon', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        // One transition a step, without leaving the state: this is the hottest message of all.
        STEP_DONE: { actions: ['retireStep', 'planStep', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        STEP_FAILED: { actions: ['failStep', 'planStep', { type: 'sendEach', params: ({ context }) => context.outbox }] },
      },
      always: { guard: 'hasNoStep', target: 'idle' },
    },
  },
});
