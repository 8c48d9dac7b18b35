/**
 * A serving job: the kind of work that a request needs, cut into tasks, one for each choice (DeepServe §3).
 *
 *   planned ─▶ placed ─▶ running ─▶ done
 *        any of these ─▶ failing ─▶ failed      ─▶ cancelling ─▶ cancelled
 *
 * One task's failure fails the job: the others are cancelled first, so that nothing of it is left when it says so.
 * No state has a deadline: the job lasts as long as its tasks, and each of those answers for its own waits.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { assignTask, cancel, jobCancelled, jobDone, jobFailed, jobPlaced, jobRunning, jobStreaming, taskAddress } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { Commands, JobMessage, RequestMessage, Sequence } from '../src/protocol/messages.ts';

type Job = {
  self: Address;
  request: Address;
  sequences: readonly Sequence[];
  /** By sequence. */
  executors: readonly Address[];
  open: readonly Address[];
  streaming: boolean;
  error: ErrorRecord | null;
};

const without = (tasks: readonly Address[], event: JobMessage): readonly Address[] => ('task' in event ? tasks.filter((task) => task !== event.task) : tasks);

const tellRequest = (message: RequestMessage) => ({ type: 'send' as const, params: ({ context }: { context: Job }) => ({ to: context.request, message }) });

export const job = setup({
  types: {} as { input: Pick<Job, 'self' | 'request' | 'sequences' | 'executors'>; context: Job; events: JobMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    closeTask: assign({ open: ({ context, event }) => without(context.open, event) }),
    keepError: assign({ error: ({ context, event }) => (event.type === 'TASK_FAILED' ? event.error : context.error) }),
  },
  guards: {
    isLastTask: ({ context, event }) => without(context.open, event).length === 0,
    isFirstToken: ({ context }) => !context.streaming,
  },
}).createMachine({
  id: 'job',
  context: ({ input }) => ({ ...input, open: input.sequences.map(taskAddress), streaming: false, error: null }),
  initial: 'held',
  states: {
    held: {
      initial: 'planned',
      on: {
        TASK_PLACED: {},
        TASK_RUNNING: {},
        TASK_STREAMING: {},
        TASK_DONE: [{ guard: 'isLastTask', target: 'done', actions: 'closeTask' }, { actions: 'closeTask' }],
        TASK_FAILED: [
          { guard: 'isLastTask', target: 'failed', actions: ['keepError', 'closeTask'] },
          { target: 'failing', actions: ['keepError', 'closeTask'] },
        ],
        CANCEL: 'cancelling',
      },
      states: {
        planned: {
          entry: {
            type: 'sendEach',
            params: ({ context }) =>
              context.sequences.map((sequence, index) => ({
                to: taskAddress(sequence),
                message: assignTask(context.self, sequence, context.executors[index] as Address),
              })),
          },
          on: { TASK_PLACED: 'placed' },
        },
        placed: {
          entry: tellRequest(jobPlaced()),
          on: { TASK_RUNNING: 'running' },
        },
        running: {
          entry: tellRequest(jobRunning()),
          on: {
            TASK_STREAMING: { guard: 'isFirstToken', actions: [assign({ streaming: true }), tellRequest(jobStreaming())] },
          },
        },
      },
    },
    failing: {
      entry: { type: 'sendEach', params: ({ context }) => context.open.map((task) => ({ to: task, message: cancel() })) },
      on: {
        TASK_DONE: [{ guard: 'isLastTask', target: 'failed', actions: 'closeTask' }, { actions: 'closeTask' }],
        TASK_FAILED: [{ guard: 'isLastTask', target: 'failed', actions: 'closeTask' }, { actions: 'closeTask' }],
        TASK_CANCELLED: [{ guard: 'isLastTask', target: 'failed', actions: 'closeTask' }, { actions: 'closeTask' }],
        '*': {},
      },
    },
    cancelling: {
      entry: { type: 'sendEach', params: ({ context }) => context.open.map((task) => ({ to: task, message: cancel() })) },
      on: {
        TASK_DONE: [{ guard: 'isLastTask', target: 'cancelled', actions: 'closeTask' }, { actions: 'closeTask' }],
        TASK_FAILED: [{ guard: 'isLastTask', target: 'cancelled', actions: 'closeTask' }, { actions: 'closeTask' }],
        TASK_CANCELLED: [{ guard: 'isLastTask', target: 'cancelled', actions: 'closeTask' }, { actions: 'closeTask' }],
        '*': {},
      },
    },
    done: {
      type: 'final',
      entry: tellRequest(jobDone()),
    },
    failed: {
      type: 'final',
      entry: { type: 'send', params: ({ context }) => ({ to: context.request, message: jobFailed(context.error) }) },
    },
    cancelled: {
      type: 'final',
      entry: tellRequest(jobCancelled()),
    },
  },
});
