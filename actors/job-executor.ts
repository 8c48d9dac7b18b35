/**
 * A job executor: takes requests in and answers for how many the pod holds at once.
 *
 *   starting ─▶ serving ─▶ draining ─▶ stopped
 *
 * Admission is a bounded count of choices: what exceeds it is refused with an error that says so, and nothing waits unseen.
 * No state has a deadline: starting ends when a task executor is ready, serving when the pod closes.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { admitted, refused } from '../src/protocol/constructors.ts';
import type { Commands, JobExecutorMessage } from '../src/protocol/messages.ts';

type JobExecutor = { self: Address; choices: number; choices_max: number };

export const jobExecutor = setup({
  types: {} as { input: Pick<JobExecutor, 'self' | 'choices_max'>; context: JobExecutor; events: JobExecutorMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
  },
  guards: {
    hasRoom: ({ context, event }) => event.type === 'ADMIT' && context.choices + event.choices <= context.choices_max,
  },
}).createMachine({
  id: 'job-executor',
  context: ({ input }) => ({ ...input, choices: 0 }),
  initial: 'starting',
  states: {
    starting: {
      on: { EXECUTOR_READY: 'serving' },
    },
    serving: {
      on: {
        EXECUTOR_READY: {},
        ADMIT: [
          {
            guard: 'hasRoom',
            actions: [
              assign({ choices: ({ context, event }) => context.choices + event.choices }),
              { type: 'send', params: ({ event }) => ({ to: event.request, message: admitted() }) },
            ],
          },
          {
            actions: {
              type: 'send',
              params: ({ context, event }) => ({
                to: event.request,
                message: refused({
                  code: 'overloaded',
                  message: `the pod holds ${context.choices} of at most ${context.choices_max} choices (max_queued); this request asks for ${event.choices} more`,
                  param: null,
                }),
              }),
            },
          },
        ],
        LEAVE: { actions: assign({ choices: ({ context, event }) => context.choices - event.choices }) },
        DRAIN: 'draining',
      },
    },
    draining: {
      on: {
        ADMIT: {
          actions: {
            type: 'send',
            params: ({ event }) => ({ to: event.request, message: refused({ code: 'closed', message: 'the pod is closing', param: null }) }),
          },
        },
        LEAVE: { actions: assign({ choices: ({ context, event }) => context.choices - event.choices }) },
      },
      always: { guard: ({ context }) => context.choices === 0, target: 'stopped' },
    },
    stopped: { type: 'final' },
  },
});
