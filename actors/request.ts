/**
 * A request: one call from outside, with all that is needed to move it.
 *
 *   received ─▶ admitted ─▶ queued ─▶ running ─▶ streaming ─▶ finished · failed · cancelled
 *                  ▲
 *      (resumed) ──┘   its job executor was lost, and this is the next one's: what its caller has of it already, it does not get again
 *                  ▲
 *      replacing ◀─┘   what computed it is lost: what is left of it is computed elsewhere, unless it is suspect
 *
 * Supervised by the frontend. It makes one serving job (DeepServe §3: a chat request is one job). Tokens do not pass here: the DP group's
 * output goes straight to the frontend; where its text cannot be told, FAIL ends it as CANCEL does, and it has failed. No state has a deadline of its own: a request waits as long as its caller does, whose CANCEL ends any of them, or
 * as long as its caller has said that it may take (`deadline_ms`): then it fails, wherever it is.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { admit, cancel, deadlinePassed, leave, plan, replace, requestEnded, requestMoved, requestRunning } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { Commands, Placement, RequestMessage, Sequence } from '../src/protocol/messages.ts';

type Request = {
  self: Address;
  job_executor: Address;
  job: Address;
  /** Those that are not finished. */
  sequences: readonly Sequence[];
  /** Of the pod's bound, until it ends. */
  choices: number;
  /** From SUBMIT to the last token; −1: as long as it takes. */
  deadline_ms: number;
  /** By sequence: where it begins. None: it is not admitted yet. */
  placements: readonly Placement[];
  /** What speaks for its being what kills whoever computes it, since it has come further last. */
  suspicion: number;
  /** What of that a loss adds now. */
  doubt: number;
  loss: ErrorRecord | null;
  error: ErrorRecord | null;
};

const FRONTEND: Address = 'frontend/0';
/**
 * A request that kills what computes it does so at the same token each time, and must end before the deaths end the pod (restart-intensity.ts): at the third in a
 * row, or at the fifth where it was not known to be computed at all. Whoever had a token since the loss before was not what killed.
 */
const SUSPICION_MAX = 4;
/** What was computed by whom has been lost may be computed by others. */
const MAY_GO_ON: ReadonlySet<ErrorRecord['code']> = new Set(['worker_lost', 'worker_ended', 'experts_lost', 'groups_lost']);
const DOUBT = { waiting: 1, running: 2 } as const;

/** The same for all of them: they are choices of one call. */
const rankOf = ({ sequences }: Request): number => sequences[0]?.data_parallel_rank ?? -1;
/** Its tasks are let go of first, as if its caller had cancelled it. */
const lateWhile = (what: string) => ({
  target: 'cancelling' as const,
  actions: assign<Request, RequestMessage, undefined, RequestMessage, never>({
    error: { code: 'deadline_exceeded', message: `the request has not ended within its deadline_ms: that was over while ${what}`, param: 'deadline_ms' },
  }),
});

const startDeadline = {
  type: 'after' as const,
  params: ({ context }: { context: Request }) => ({ id: 'deadline', delay_ms: context.deadline_ms, message: deadlinePassed() }),
};
const planJob = {
  type: 'send' as const,
  params: ({ context }: { context: Request }) => ({ to: context.job, message: plan(context.self, context.sequences, context.placements) }),
};
/** Of the choices that are left. */
const tokensOf = (sequences: readonly Sequence[]): number => sequences.reduce((sum, { output }) => sum + output.length, 0);
const hasComeFurther = (before: readonly Sequence[], now: readonly Sequence[]): boolean => now.length < before.length || tokensOf(now) > tokensOf(before);
/** Whose worker was ended with a lost one is above suspicion. */
const addedBy = (loss: ErrorRecord | null, { doubt }: Request): number => (loss?.code === 'worker_lost' ? doubt : 0);
const suspectOf = ({ loss }: Request): ErrorRecord => ({
  code: 'worker_failed',
  message: `what computed the request was lost again and again, without a token in between, so it may be the cause; the last time: ${loss?.message ?? ''}`,
  param: null,
});
const tellFrontend = { type: 'send' as const, params: ({ context }: { context: Request }) => ({ to: FRONTEND, message: requestMoved(context.self) }) };

export const request = setup({
  types: {} as { input: Omit<Request, 'choices' | 'error' | 'suspicion' | 'doubt' | 'loss'>; context: Request; events: RequestMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    after: (_, _command: Commands['after']) => {},
    keepError: assign({ error: ({ context, event }) => (event.type === 'FAIL' ? event.error : context.error) }),
    takePlaces: assign({
      sequences: ({ context, event }) => (event.type === 'REPLACED' ? event.sequences : context.sequences),
      placements: ({ context, event }) => (event.type === 'REPLACED' ? event.placements : context.placements),
    }),
    // Of the last loss alone, if that is held against it.
    absolve: assign({ suspicion: ({ context }) => addedBy(context.loss, context) }),
  },
  guards: {
    isLost: ({ event }) => event.type === 'JOB_FAILED' && MAY_GO_ON.has(event.error.code),
    isSuspect: ({ context }) => context.suspicion > SUSPICION_MAX,
    hasComeFurther: ({ context, event }) => event.type === 'REPLACED' && hasComeFurther(context.sequences, event.sequences),
    cannotGoOn: ({ event }) => event.type === 'REPLACED' && event.error !== null,
    nothingIsLeft: ({ event }) => event.type === 'REPLACED' && event.sequences.length === 0,
    hasDeadline: ({ context }) => context.deadline_ms >= 0,
    hasError: ({ context }) => context.error !== null,
    isResumed: ({ context }) => context.placements.length > 0,
    isResumedWithDeadline: ({ context }) => context.placements.length > 0 && context.deadline_ms >= 0,
  },
}).createMachine({
  id: 'request',
  context: ({ input }) => ({ ...input, choices: input.sequences.length, suspicion: 0, doubt: DOUBT.waiting, loss: null, error: null }),
  initial: 'born',
  states: {
    born: {
      always: [
        { guard: 'isResumedWithDeadline', target: 'held', actions: [tellFrontend, startDeadline] },
        { guard: 'isResumed', target: 'held', actions: tellFrontend },
        'received',
      ],
    },
    received: {
      entry: { type: 'send', params: ({ context }) => ({ to: context.job_executor, message: admit(context.self, context.sequences.length, rankOf(context)) }) },
      on: {
        // Whether it is let in is said at once, so its time begins here.
        ADMITTED: [
          {
            guard: 'hasDeadline',
            target: 'held',
            actions: [assign({ placements: ({ event }) => event.placements }), startDeadline],
          },
          { target: 'held', actions: assign({ placements: ({ event }) => event.placements }) },
        ],
        REFUSED: { target: 'failed', actions: assign({ error: ({ event }) => event.error }) },
        CANCEL: 'withdrawing',
      },
    },
    withdrawing: {
      on: {
        ADMITTED: {
          target: 'cancelled',
          actions: { type: 'send', params: ({ context }) => ({ to: context.job_executor, message: leave(context.self, context.choices) }) },
        },
        REFUSED: 'cancelled',
        CANCEL: {},
      },
    },
    held: {
      initial: 'admitted',
      entry: planJob,
      exit: { type: 'send', params: ({ context }) => ({ to: context.job_executor, message: leave(context.self, context.choices) }) },
      on: {
        JOB_DONE: 'finished',
        JOB_FAILED: [
          { guard: 'isLost', target: '.replacing', actions: assign({ loss: ({ event }) => event.error }) },
          { target: 'failed', actions: assign({ error: ({ event }) => event.error }) },
        ],
        JOB_CANCELLED: [{ guard: 'hasError', target: 'failed' }, { target: 'cancelled' }],
        CANCEL: '.cancelling',
        FAIL: { target: '.cancelling', actions: 'keepError' },
      },
      states: {
        admitted: {
          entry: assign({ doubt: DOUBT.waiting }),
          on: { JOB_PLACED: 'queued', DEADLINE_PASSED: lateWhile('it waited for an NPU') },
        },
        queued: {
          on: { JOB_RUNNING: 'running', DEADLINE_PASSED: lateWhile('it waited for its turn') },
        },
        running: {
          entry: [assign({ doubt: DOUBT.running }), { type: 'send', params: ({ context }) => ({ to: FRONTEND, message: requestRunning(context.self) }) }],
          on: { JOB_STREAMING: 'streaming', DEADLINE_PASSED: lateWhile('its prompt was computed') },
        },
        streaming: {
          on: { DEADLINE_PASSED: lateWhile('it generated') },
        },
        replacing: {
          entry: [
            assign({ suspicion: ({ context }) => context.suspicion + addedBy(context.loss, context) }),
            { type: 'send', params: ({ context }) => ({ to: context.job_executor, message: replace(context.self) }) },
          ],
          on: {
            REPLACED: [
              { guard: 'cannotGoOn', target: '#request.failed', actions: ['takePlaces', assign({ error: ({ event }) => event.error })] },
              // All that was lost was the news that it is done.
              { guard: 'nothingIsLeft', target: '#request.finished', actions: 'takePlaces' },
              { guard: 'hasComeFurther', target: 'admitted', actions: ['absolve', 'takePlaces', planJob, tellFrontend] },
              { guard: 'isSuspect', target: '#request.failed', actions: ['takePlaces', assign({ error: ({ context }) => suspectOf(context) })] },
              { target: 'admitted', actions: ['takePlaces', planJob, tellFrontend] },
            ],
            CANCEL: 'withdrawing',
            FAIL: { target: 'withdrawing', actions: 'keepError' },
            DEADLINE_PASSED: { ...lateWhile('it was to be computed elsewhere'), target: 'withdrawing' },
          },
        },
        withdrawing: {
          on: {
            REPLACED: [
              { guard: 'hasError', target: '#request.failed', actions: 'takePlaces' },
              { target: '#request.cancelled', actions: 'takePlaces' },
            ],
            CANCEL: {},
            FAIL: {},
            DEADLINE_PASSED: {},
          },
        },
        cancelling: {
          entry: { type: 'send', params: ({ context }) => ({ to: context.job, message: cancel() }) },
          on: {
            // What computed it was lost in the same moment: nobody wants it any more.
            JOB_FAILED: [{ guard: 'hasError', target: '#request.failed' }, { target: '#request.cancelled' }],
            JOB_PLACED: {},
            JOB_RUNNING: {},
            JOB_STREAMING: {},
            CANCEL: {},
            FAIL: {},
            DEADLINE_PASSED: {},
          },
        },
      },
    },
    finished: {
      type: 'final',
      entry: { type: 'send', params: ({ context }) => ({ to: FRONTEND, message: requestEnded(context.self, null) }) },
    },
    failed: {
      type: 'final',
      entry: { type: 'send', params: ({ context }) => ({ to: FRONTEND, message: requestEnded(context.self, context.error) }) },
    },
    cancelled: {
      type: 'final',
      entry: {
        type: 'send',
        params: ({ context }) => ({
          to: FRONTEND,
          message: requestEnded(context.self, { code: 'cancelled', message: 'the caller cancelled the request', param: null }),
        }),
      },
    },
  },
});
