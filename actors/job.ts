/**
 * A serving job: the kind of work that a request needs, cut into tasks: one for each choice, or, where prefill and decode have executors of their own, two
 * (DeepServe §3).
 *
 *   planned ─▶ placed ─▶ running ─▶ done
 *        any of these ─▶ failing ─▶ failed      ─▶ cancelling ─▶ cancelled
 *
 * A prefill task that has computed its prompt hands over to a decode task; a choice that ends at its first token has none (xDeepServe §5.1, step 4). Where KV
 * moves by layer, the decode task begins with the last step of the prompt, and is given the first token afterwards.
 * One task's failure fails the job: the others are cancelled first, so that nothing of it is left when it says so.
 * No state has a deadline: the job lasts as long as its tasks, and each of those answers for its own waits.
 */
import { assign, setup } from 'xstate';
import { type Address, idOf } from '../src/protocol/address.ts';
import {
  assignTask,
  cancel,
  chooseDecode,
  decodeTaskAddress,
  handedOver,
  jobCancelled,
  jobDone,
  jobFailed,
  jobPlaced,
  jobRunning,
  jobStreaming,
  nothingLeft,
  stopStringFound,
  taskAddress,
} from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import {
  type Commands,
  choiceOfTask,
  type Handoff,
  type JobMessage,
  type Placement,
  type RequestMessage,
  type Sequence,
  type TaskMessage,
} from '../src/protocol/messages.ts';

type Job = {
  self: Address;
  job_executor: Address;
  request: Address;
  sequences: readonly Sequence[];
  /** By sequence. */
  placements: readonly Placement[];
  /** Tasks at work. */
  open: readonly Address[];
  /** Decode tasks that wait for the choice of their executor. */
  choosing: readonly { readonly task: Address; readonly sequence: Sequence; readonly handoff: Handoff }[];
  /** Choices whose prefill lends what it still computes: their decode waits for the first token. */
  ahead: readonly number[];
  /** Choices that stop strings have ended. */
  stopped: readonly number[];
  streaming: boolean;
  error: ErrorRecord | null;
};

const without = (tasks: readonly Address[], event: JobMessage): readonly Address[] => ('task' in event ? tasks.filter((task) => task !== event.task) : tasks);

const choiceOf = (event: JobMessage): number => ('task' in event ? choiceOfTask(idOf(event.task)).choice : -1);

function sequenceOf({ sequences }: Job, task: Address): Sequence {
  const { choice } = choiceOfTask(idOf(task));
  const sequence = sequences.find((candidate) => candidate.choice === choice);
  if (sequence === undefined) throw new Error(`${task} is of no choice of this job`);
  return sequence;
}

const tellRequest = (message: RequestMessage) => ({ type: 'send' as const, params: ({ context }: { context: Job }) => ({ to: context.request, message }) });

/** It waits for the choice of a decode executor. */
const chooseExecutor = [
  'awaitExecutor',
  {
    type: 'send',
    params: ({ context, event }: { context: Job; event: JobMessage & { readonly task: Address } }) => {
      const sequence = sequenceOf(context, event.task);
      const from = context.placements[context.sequences.indexOf(sequence)] as Placement;
      return { to: context.job_executor, message: chooseDecode(context.self, context.request, decodeTaskAddress(sequence), from.executor) };
    },
  },
] as const;

/** To the decode task of the choice whose prefill has told something, if it has begun. */
const tellDecode =
  (messageOf: (handoff: Handoff | null) => TaskMessage) =>
  ({ context, event }: { context: Job; event: JobMessage & { readonly task: Address } }): Commands['sendEach'] => {
    const decode = decodeTaskAddress(sequenceOf(context, event.task));
    return context.open.includes(decode) ? [{ to: decode, message: messageOf('handoff' in event ? event.handoff : null) }] : [];
  };

/** Both kinds of end wait for each task to let go; who waits for an executor has not begun. */
const cancelTasks = {
  entry: [
    'forgetWhoWaits' as const,
    { type: 'sendEach' as const, params: ({ context }: { context: Job }) => context.open.map((task) => ({ to: task, message: cancel() })) },
  ],
};

export const job = setup({
  types: {} as { input: Pick<Job, 'self' | 'job_executor' | 'request' | 'sequences' | 'placements'>; context: Job; events: JobMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    closeTask: assign({ open: ({ context, event }) => without(context.open, event) }),
    keepError: assign({ error: ({ context, event }) => (event.type === 'TASK_FAILED' ? event.error : context.error) }),
    awaitExecutor: assign({
      choosing: ({ context, event }) => {
        if (event.type !== 'TASK_PREFILLED' && event.type !== 'TASK_LENT') return context.choosing;
        const sequence = sequenceOf(context, event.task);
        return [...context.choosing, { task: decodeTaskAddress(sequence), sequence, handoff: event.handoff }];
      },
    }),
    openDecodeTask: assign({
      open: ({ context, event }) => (event.type === 'DECODE_CHOSEN' ? [...context.open, event.task] : context.open),
      choosing: ({ context, event }) => context.choosing.filter(({ task }) => event.type !== 'DECODE_CHOSEN' || task !== event.task),
    }),
    noteAhead: assign({ ahead: ({ context, event }) => [...context.ahead, choiceOf(event)] }),
    noteCaughtUp: assign({ ahead: ({ context, event }) => context.ahead.filter((choice) => choice !== choiceOf(event)) }),
    /** Who waits for an executor still begins with all of it. */
    noteOutput: assign({
      choosing: ({ context, event }) =>
        context.choosing.map((one) => (event.type === 'TASK_PREFILLED' && one.sequence.choice === choiceOf(event) ? { ...one, handoff: event.handoff } : one)),
    }),
    noteEnded: assign({ stopped: ({ context, event }) => [...context.stopped, choiceOf(event)] }),
    dropDecode: assign({ choosing: ({ context, event }) => context.choosing.filter(({ sequence }) => sequence.choice !== choiceOf(event)) }),
    forgetWhoWaits: assign({ choosing: [] }),
    noteStopped: assign({
      stopped: ({ context, event }) => (event.type === 'CHOICE_STOPPED' ? [...context.stopped, event.choice] : context.stopped),
      choosing: ({ context, event }) => context.choosing.filter(({ sequence }) => event.type !== 'CHOICE_STOPPED' || sequence.choice !== event.choice),
    }),
  },
  guards: {
    nothingIsLeft: ({ context }) => context.open.length === 0 && context.choosing.length === 0,
    isFirstToken: ({ context }) => !context.streaming,
    choiceIsStopped: ({ context, event }) => context.stopped.includes(choiceOf(event)),
    decodeIsAhead: ({ context, event }) => context.ahead.includes(choiceOf(event)),
    decodeWasSooner: ({ context, event }) => {
      if (event.type !== 'TASK_DONE') return false;
      const sequence = sequenceOf(context, event.task);
      return event.task === decodeTaskAddress(sequence) && context.open.includes(taskAddress(sequence));
    },
    waitsForExecutor: ({ context, event }) => event.type === 'DECODE_CHOSEN' && context.choosing.some(({ task }) => task === event.task),
  },
}).createMachine({
  id: 'job',
  context: ({ input }) => ({ ...input, open: input.sequences.map(taskAddress), choosing: [], ahead: [], stopped: [], streaming: false, error: null }),
  initial: 'held',
  states: {
    held: {
      initial: 'planned',
      on: {
        TASK_PLACED: {},
        TASK_RUNNING: {},
        TASK_STREAMING: {},
        TASK_LENT: [{ guard: 'choiceIsStopped' }, { actions: ['noteAhead', ...chooseExecutor] }],
        TASK_PREFILLED: [
          { guard: 'choiceIsStopped' },
          {
            guard: 'decodeIsAhead',
            actions: ['noteCaughtUp', 'noteOutput', { type: 'sendEach', params: tellDecode((handoff) => handedOver(handoff?.output ?? [], handoff?.drafts)) }],
          },
          { actions: chooseExecutor },
        ],
        DECODE_CHOSEN: [
          {
            guard: 'waitsForExecutor',
            actions: [
              {
                type: 'sendEach',
                params: ({ context, event }) =>
                  context.choosing
                    .filter(({ task }) => task === event.task)
                    .map(({ task, sequence, handoff }) => ({
                      to: task,
                      message: assignTask(context.self, sequence, { executor: event.executor, stage: 'decode' }, handoff),
                    })),
              },
              'openDecodeTask',
            ],
          },
          // A stop string came first.
          {},
        ],
        CHOICE_STOPPED: {
          actions: [
            'noteStopped',
            {
              type: 'sendEach',
              params: ({ context, event }) =>
                context.open.filter((task) => choiceOfTask(idOf(task)).choice === event.choice).map((task) => ({ to: task, message: stopStringFound() })),
            },
          ],
        },
        TASK_DONE: [
          // Handed back before it had pulled, it computed everything itself: what its prefill still computes, or lends, nobody needs.
          {
            guard: 'decodeWasSooner',
            actions: [
              'noteCaughtUp',
              'noteEnded',
              'closeTask',
              { type: 'sendEach', params: ({ context, event }) => [{ to: taskAddress(sequenceOf(context, event.task)), message: stopStringFound() }] },
            ],
          },
          // All was said with the first token.
          { guard: 'decodeIsAhead', actions: ['noteCaughtUp', 'dropDecode', 'closeTask', { type: 'sendEach', params: tellDecode(nothingLeft) }] },
          { actions: 'closeTask' },
        ],
        TASK_CANCELLED: { actions: 'closeTask' },
        TASK_FAILED: { target: 'failing', actions: ['keepError', 'closeTask'] },
        CANCEL: 'cancelling',
      },
      always: { guard: 'nothingIsLeft', target: 'done' },
      states: {
        planned: {
          entry: {
            type: 'sendEach',
            params: ({ context }) =>
              context.sequences.map((sequence, index) => ({
                to: taskAddress(sequence),
                message: assignTask(context.self, sequence, context.placements[index] as Placement, null),
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
      ...cancelTasks,
      always: { guard: 'nothingIsLeft', target: 'failed' },
      on: {
        TASK_DONE: { actions: 'closeTask' },
        TASK_FAILED: { actions: 'closeTask' },
        TASK_CANCELLED: { actions: 'closeTask' },
        '*': {},
      },
    },
    cancelling: {
      ...cancelTasks,
      always: { guard: 'nothingIsLeft', target: 'cancelled' },
      on: {
        TASK_DONE: { actions: 'closeTask' },
        TASK_FAILED: { actions: 'closeTask' },
        TASK_CANCELLED: { actions: 'closeTask' },
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
