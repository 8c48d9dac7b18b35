/**
 * A job executor: takes requests in and answers for how many the pod holds at once. There are several, each on a thread of its own (xDeepServe §5.1: the frontend
 * picks one at random); each schedules by itself, by what it knows of its own requests.
 *
 *   starting ─▶ serving ─▶ draining ─▶ stopped
 *
 * Admission is a bounded count of choices, one for all job executors, in shared memory: what exceeds it is refused with an error that says so, and when to
 * come again, by how fast this one's choices leave; and nothing waits unseen. A job executor that takes a lost one's requests over reads them from their records;
 * they were admitted before. So were those that had ended and go on, since tokens of them were lost on their way to the caller.
 * No state has a deadline: starting ends when all task executors are ready, serving when the pod closes.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import {
  admitted,
  decodeChosen,
  join,
  measureThroughput,
  memberReady,
  refused,
  replaced,
  requestEnded,
  resume,
  takenOver,
} from '../src/protocol/constructors.ts';
import type { JobExecutorMessage } from '../src/protocol/controllers.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import { pong } from '../src/protocol/heartbeats.ts';
import type { Commands, RequestMessage, Sequence } from '../src/protocol/messages.ts';
import { ExecutorChoice, type ExecutorSeat } from './policies/executor-choice.ts';
import { PERIOD_MS, Throughput } from './policies/throughput.ts';

type JobExecutor = {
  self: Address;
  /** Of its worker: this is its successor's name, too. */
  life: number;
  choices_max: number;
  managers: readonly Address[];
  executors: ExecutorChoice;
  throughput: Throughput;
  /** Claims whose answer is under way. */
  claims: number;
  outbox: readonly Commands['send'][];
};

const FRONTEND: Address = 'frontend/0';
const CLOSED: ErrorRecord = { code: 'closed', message: 'the pod is closing', param: null };

/** Of a call's choices, which have the same. */
const rankOf = ([first]: readonly Sequence[]): number => first?.data_parallel_rank ?? -1;

/** Why a request cannot be computed anywhere for now, if that is so. */
const refusalOf = ({ executors }: JobExecutor, data_parallel_rank: number): readonly ErrorRecord[] => {
  const error = executors.refusalOf(data_parallel_rank);
  return error === null ? [] : [error];
};

/** Of what is left of it. */
function replacedBy(context: JobExecutor, request: Address, sequences: readonly Sequence[], error: ErrorRecord | null): RequestMessage {
  const { executors } = context;
  const rank = rankOf(sequences);
  const [gone = null] = sequences.length === 0 ? [] : refusalOf(context, rank);
  return replaced(sequences, executors.take(request, sequences.length, rank), gone ?? error);
}

type Refusal = { readonly request: Address; readonly choices: number /** By the pod. */; readonly held: number };

const tooMany = (context: JobExecutor, refusal: Refusal): Commands['send'] => ({ to: refusal.request, message: refused(overloaded(context, refusal)) });

function overloaded({ choices_max, throughput }: JobExecutor, { choices, held }: Refusal): ErrorRecord {
  if (choices > choices_max)
    return { code: 'invalid_request', message: `n: ${choices} choices are more than the pod takes in at once, ${choices_max} (max_queued)`, param: 'n' };
  const retry_after_ms = throughput.timeFor_ms(held + choices - choices_max);
  return {
    code: 'overloaded',
    message: `the pod holds ${held} of at most ${choices_max} choices (max_queued); this request asks for ${choices} more, for which there is probably room in ${retry_after_ms} ms`,
    param: null,
    retry_after_ms,
  };
}

const giveBack = {
  type: 'claim' as const,
  params: ({ event }: { event: { readonly choices: number } }): Commands['claim'] => ({ claim: { kind: 'release-choices', choices: event.choices } }),
};
const giveBackSequences = {
  type: 'claim' as const,
  params: ({ event }: { event: { readonly sequences: readonly unknown[] } }): Commands['claim'] => ({
    claim: { kind: 'release-choices', choices: event.sequences.length },
  }),
};
const readRecord = {
  type: 'claim' as const,
  params: ({ event: { request } }: { event: { readonly request: Address } }): Commands['claim'] => ({ claim: { kind: 'record', request } }),
};
const reopenRecord = {
  type: 'claim' as const,
  params: ({ event: { request } }: { event: { readonly request: Address } }): Commands['claim'] => ({ claim: { kind: 'reopened-record', request } }),
};
type Reopened = Extract<JobExecutorMessage, { type: 'RECORD_TAKEN' | 'RECORD_REOPENED' }>;
const resumeRequest = {
  type: 'send' as const,
  params: ({ context, event: { request, sequences, deadline_ms } }: { context: JobExecutor; event: Reopened }): Commands['send'] => ({
    to: request,
    message: resume(sequences, context.executors.take(request, sequences.length, rankOf(sequences)), deadline_ms),
  }),
};
/** All of its choices are finished, or it was moved too often. */
const endRequest = {
  type: 'send' as const,
  params: ({ event }: { event: Reopened }): Commands['send'] => ({ to: FRONTEND, message: requestEnded(event.request, event.error) }),
};
const takeRecords = {
  type: 'claim' as const,
  params: ({ event: { lost, life } }: { event: { readonly lost: Address; readonly life: number } }): Commands['claim'] => ({
    claim: { kind: 'records', lost, life },
  }),
};
const tellManagers = {
  type: 'sendEach' as const,
  params: ({ context, event: { lost, life } }: { context: JobExecutor; event: { readonly lost: Address; readonly life: number } }): Commands['sendEach'] =>
    context.managers.map((manager) => ({ to: manager, message: takenOver(lost, life) })),
};

export const jobExecutor = setup({
  types: {} as {
    input: Omit<JobExecutor, 'executors' | 'throughput' | 'claims' | 'outbox'> & { readonly executors: readonly ExecutorSeat[] };
    context: JobExecutor;
    events: JobExecutorMessage;
  },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    claim: (_, _command: Commands['claim']) => {},
    expectAnswer: assign({ claims: ({ context }) => context.claims + 1 }),
    noteAnswer: assign({ claims: ({ context }) => context.claims - 1 }),
    markReady: assign({
      executors: ({ context, event }) => {
        if (event.type === 'EXECUTOR_READY') context.executors.ready(event.task_executor, true);
        if (event.type === 'EXECUTOR_UNREADY') context.executors.ready(event.task_executor, false);
        if (event.type === 'EXECUTOR_GONE') context.executors.gone(event.task_executor, event.error);
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
    // Where it was is lost, or has let go of it; it takes its places anew.
    forgetPlaces: assign({
      executors: ({ context, event }) => {
        if (event.type === 'RECORD_READ') context.executors.leave(event.request);
        return context.executors;
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
    canGoOn: ({ event }) => (event.type === 'RECORD_TAKEN' || event.type === 'RECORD_REOPENED') && event.error === null && event.sequences.length > 0,
    nobodyIsLeft: ({ context, event }) => event.type === 'ADMIT' && context.executors.refusalOf(event.data_parallel_rank) !== null,
    allExecutorsServe: ({ context }) => context.executors.allReady,
  },
}).createMachine({
  id: 'job-executor',
  context: ({ input }) => ({ ...input, executors: new ExecutorChoice(input.executors), throughput: new Throughput(), claims: 0, outbox: [] }),
  initial: 'starting',
  on: { PING: { actions: { type: 'send', params: ({ context, event }) => ({ to: event.from, message: pong(context.self) }) } } },
  states: {
    starting: {
      entry: {
        type: 'sendEach',
        params: ({ context }) => context.executors.addresses.map((executor) => ({ to: executor, message: join(context.self, context.life) })),
      },
      on: { EXECUTOR_READY: { actions: 'markReady' }, EXECUTOR_UNREADY: { actions: 'markReady' }, EXECUTOR_GONE: { actions: 'markReady' } },
      always: { guard: 'allExecutorsServe', target: 'serving' },
    },
    serving: {
      entry: {
        type: 'sendEach',
        params: ({ context }) => context.managers.map((manager) => ({ to: manager, message: memberReady(context.self, context.life) })),
      },
      on: {
        EXECUTOR_READY: { actions: 'markReady' },
        EXECUTOR_UNREADY: { actions: 'markReady' },
        EXECUTOR_GONE: { actions: 'markReady' },
        ADMIT: [
          {
            guard: 'nobodyIsLeft',
            actions: {
              type: 'sendEach',
              params: ({ context, event }) => refusalOf(context, event.data_parallel_rank).map((error) => ({ to: event.request, message: refused(error) })),
            },
          },
          {
            actions: [
              'expectAnswer',
              {
                type: 'claim',
                params: ({ context: { choices_max }, event: { request, choices, data_parallel_rank } }) => ({
                  claim: { kind: 'choices', request, choices, data_parallel_rank, choices_max },
                }),
              },
            ],
          },
        ],
        CHOICES_GRANTED: {
          actions: [
            'noteAnswer',
            {
              type: 'send',
              params: ({ context, event }) => ({
                to: event.request,
                message: admitted(context.executors.take(event.request, event.choices, event.data_parallel_rank)),
              }),
            },
          ],
        },
        CHOICES_REFUSED: { actions: ['noteAnswer', { type: 'send', params: ({ context, event }) => tooMany(context, event) }] },
        REPLACE: { actions: ['expectAnswer', readRecord] },
        RECORD_READ: {
          actions: [
            'noteAnswer',
            'forgetPlaces',
            {
              type: 'send',
              params: ({ context, event: { request, sequences, error } }) => ({
                to: request,
                message: replacedBy(context, request, sequences, error),
              }),
            },
          ],
        },
        TAKE_OVER: { actions: ['expectAnswer', takeRecords] },
        GO_ON: { actions: ['expectAnswer', reopenRecord] },
        RECORD_REOPENED: [{ guard: 'canGoOn', actions: ['noteAnswer', resumeRequest] }, { actions: ['noteAnswer', endRequest] }],
        RECORD_TAKEN: [{ guard: 'canGoOn', actions: resumeRequest }, { actions: endRequest }],
        RECORDS_TAKEN: { actions: ['noteAnswer', tellManagers] },
        CHOOSE_DECODE: { actions: ['chooseDecode', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        // The timer runs only while requests leave, so that an idle pod sleeps.
        LEAVE: [
          {
            guard: 'isNotMeasuring',
            actions: ['beginPeriod', 'letGo', giveBack, { type: 'after', params: { id: 'throughput', delay_ms: PERIOD_MS, message: measureThroughput() } }],
          },
          { actions: ['letGo', giveBack] },
        ],
        MEASURE_THROUGHPUT: { actions: 'endPeriod' },
        DRAIN: 'draining',
      },
    },
    draining: {
      on: {
        EXECUTOR_READY: { actions: 'markReady' },
        EXECUTOR_UNREADY: { actions: 'markReady' },
        EXECUTOR_GONE: { actions: 'markReady' },
        ADMIT: { actions: { type: 'send', params: ({ event }) => ({ to: event.request, message: refused(CLOSED) }) } },
        // They were asked for before.
        CHOICES_GRANTED: {
          actions: ['noteAnswer', giveBack, { type: 'send', params: ({ event }) => ({ to: event.request, message: refused(CLOSED) }) }],
        },
        CHOICES_REFUSED: { actions: ['noteAnswer', { type: 'send', params: ({ context, event }) => tooMany(context, event) }] },
        CHOOSE_DECODE: { actions: ['chooseDecode', { type: 'sendEach', params: ({ context }) => context.outbox }] },
        MEASURE_THROUGHPUT: {},
        REPLACE: { actions: { type: 'send', params: ({ event }) => ({ to: event.request, message: replaced([], [], CLOSED) }) } },
        RECORD_READ: { actions: ['noteAnswer', { type: 'send', params: ({ event }) => ({ to: event.request, message: replaced([], [], CLOSED) }) }] },
        LEAVE: { actions: ['letGo', giveBack] },
        GO_ON: { actions: { type: 'send', params: ({ event }) => ({ to: FRONTEND, message: requestEnded(event.request, CLOSED) }) } },
        RECORD_REOPENED: {
          actions: ['noteAnswer', giveBackSequences, { type: 'send', params: ({ event }) => ({ to: FRONTEND, message: requestEnded(event.request, CLOSED) }) }],
        },
        TAKE_OVER: { actions: ['expectAnswer', takeRecords] },
        RECORD_TAKEN: {
          actions: [giveBackSequences, { type: 'send', params: ({ event }) => ({ to: FRONTEND, message: requestEnded(event.request, CLOSED) }) }],
        },
        RECORDS_TAKEN: { actions: ['noteAnswer', tellManagers] },
      },
      always: { guard: ({ context }) => context.executors.choices === 0 && context.claims === 0, target: 'stopped' },
    },
    stopped: { type: 'final' },
  },
});
