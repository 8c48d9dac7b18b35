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
import { releaseSlots, step } from '../src/protocol/constructors.ts';
import type { Commands, DpGroupMessage } from '../src/protocol/messages.ts';
import { type SchedulerLimits, StepScheduler } from './policies/step-scheduler.ts';

type DpGroup = { self: Address; npu: Address; scheduler: StepScheduler; outbox: readonly Commands['send'][] };

/** The next steps, up to `count`; where there is nothing to do, what the NPU may free meanwhile. */
function stepsOf({ scheduler, npu }: DpGroup, count: number): Commands['send'][] {
  const sends: Commands['send'][] = [];
  for (let planned = 0; planned < count; planned++) {
    const next = scheduler.plan();
    if (next !== null) sends.push(...next.messages, { to: npu, message: step(next.plan) });
  }
  if (scheduler.isStepping) return sends;
  const slots = scheduler.takeDetached();
  return slots.length === 0 ? sends : [...sends, { to: npu, message: releaseSlots(slots) }];
}

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
    planStep: assign({ outbox: ({ context }) => [...context.outbox, ...stepsOf(context, 1)] }),
    planAhead: assign({ outbox: ({ context }) => [...context.outbox, ...stepsOf(context, 2)] }),
  },
  guards: {
    isStepping: ({ context }) => context.scheduler.isStepping,
    hasNoStep: ({ context }) => !context.scheduler.isStepping,
  },
}).createMachine({
  id: 'dp-group',
  context: ({ input }) => ({ self: input.self, npu: input.npu, scheduler: new StepScheduler(input.limits), outbox: [] }),
  initial: 'idle',
  on: { DROP_CACHE: { actions: 'dropCache' }, KEEP_CONTEXT: { actions: 'keepContext' }, FORGET_CONTEXT: { actions: 'forgetContext' } },
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
        STEP_DONE: { actions: ['retireStep', 'planAhead', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        STEP_FAILED: { actions: ['failStep', 'planStep', { type: 'sendEach', params: ({ context }) => context.outbox }] },
      },
      always: { guard: 'hasNoStep', target: 'idle' },
    },
  },
});
