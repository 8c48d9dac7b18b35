/**
 * A job executor: takes requests in and answers for how many the pod holds at once.
 *
 *   starting ─▶ serving ─▶ draining ─▶ stopped
 *
 * Admission is a bounded count of choices: what exceeds it is refused with an error that says so, and when to come again, by how fast choices leave;
 * and nothing waits unseen.
 * No state has a deadline: starting ends when all task executors are ready, serving when the pod closes.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { admitted, decodeChosen, measureThroughput, refused } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { Commands, JobExecutorMessage } from '../src/protocol/messages.ts';
import { ExecutorChoice, type ExecutorSeat } from './policies/executor-choice.ts';
import { PERIOD_MS, Throughput } from './policies/throughput.ts';

type JobExecutor = { self: Address; choices_max: number; executors: ExecutorChoice; throughput: Throughput; outbox: readonly Commands['send'][] };

function overloaded({ executors, choices_max, throughput }: JobExecutor, choices: number): ErrorRecord {
  if (choices > choices_max)
    return { code: 'invalid_request', message: `n: ${choices} choices are more than the pod takes in at once, ${choices_max} (max_queued)`, param: 'n' };
  const retry_after_ms = throughput.timeFor_ms(executors.choices + choices - choices_max);
  return {
    code: 'overloaded',
    message: `the pod holds ${executors.choices} of at most ${choices_max} choices (max_queued); this request asks for ${choices} more, for which there is probably room in ${retry_after_ms} ms`,
    param: null,
    retry_after_ms,
  };
}

export const jobExecutor = setup({
  types: {} as {
    input: Pick<JobExecutor, 'self' | 'choices_max'> & { readonly executors: readonly ExecutorSeat[] };
    context: JobExecutor;
    events: JobExecutorMessage;
  },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    markReady: assign({
      executors: ({ context, event }) => {
        if (event.type === 'EXECUTOR_READY') context.executors.ready(event.task_executor);
        return context.executors;
      },
    }),
    chooseDecode: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'CHOOSE_DECODE') return [];
        const executor = context.executors.moveToDecode(event.request, event.from);
        // Its request has left: the job that asks is on its way out.
        return executor === null ? [] : [{ to: event.job, message: decodeChosen(event.task, executor) }];
      },
    }),
    letGo: assign({
      executors: ({ context, event }) => {
        if (event.type === 'LEAVE') context.executors.leave(event.request);
        return context.executors;
      },
      throughput: ({ context, event }) => {
        if (event.type === 'LEAVE') context.throughput.leave(event.choices);
        return context.throughput;
      },
    }),
    beginPeriod: assign({
      throughput: ({ context }) => {
        context.throughput.begin();
        return context.throughput;
      },
    }),
    endPeriod: assign({
      throughput: ({ context }) => {
        context.throughput.end();
        return context.throughput;
      },
    }),
  },
  guards: {
    isNotMeasuring: ({ context }) => !context.throughput.isMeasuring,
    hasRoom: ({ context, event }) => event.type === 'ADMIT' && context.executors.choices + event.choices <= context.choices_max,
    allExecutorsServe: ({ context }) => context.executors.allReady,
  },
}).createMachine({
  id: 'job-executor',
  context: ({ input }) => ({ ...input, executors: new ExecutorChoice(input.executors), throughput: new Throughput(), outbox: [] }),
  initial: 'starting',
  states: {
    starting: {
      on: { EXECUTOR_READY: { actions: 'markReady' } },
      always: { guard: 'allExecutorsServe', target: 'serving' },
    },
    serving: {
      on: {
        ADMIT: [
          {
            guard: 'hasRoom',
            actions: {
              type: 'send',
              params: ({ context, event }) => ({
                to: event.request,
                message: admitted(context.executors.take(event.request, event.choices, event.data_parallel_rank)),
              }),
            },
          },
          {
            actions: {
              type: 'send',
              params: ({ context, event }) => ({
                to: event.request,
                message: refused(overloaded(context, event.choices)),
              }),
            },
          },
        ],
        CHOOSE_DECODE: { actions: ['chooseDecode', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        // The timer runs only while requests leave, so that an idle pod sleeps.
        LEAVE: [
          {
            guard: 'isNotMeasuring',
            actions: ['beginPeriod', 'letGo', { type: 'after', params: { id: 'throughput', delay_ms: PERIOD_MS, message: measureThroughput() } }],
          },
          { actions: 'letGo' },
        ],
        MEASURE_THROUGHPUT: { actions: 'endPeriod' },
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
        CHOOSE_DECODE: { actions: ['chooseDecode', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        LEAVE: { actions: 'letGo' },
        MEASURE_THROUGHPUT: {},
      },
      always: { guard: ({ context }) => context.executors.choices === 0, target: 'stopped' },
    },
    stopped: { type: 'final' },
  },
});
