/**
 * A task: one choice of a serving job, or one of its two stages, placed on one DP group (DeepServe §3, xDeepServe §5.1).
 *
 *   whole     waiting ─▶ placed ─▶ prefilling ─▶ decoding ─▶ done · failed · cancelled
 *                                      ▲   preempted ◀─┘
 *   prefill   waiting ─▶ placed ─▶ prefilling ─▶ transferring ─▶ done          its first token is out, its KV is lent
 *   decode    waiting ─▶ placed ─▶ receiving ─▶ decoding ─▶ done               what cannot be received is computed again: prefilling
 *
 * A group that is to stand by hands it back: it waits anew, for another that goes on with it.
 * It ends only when its DP group has let go of it: an abandoned task waits for ABANDONED, so that nothing of it arrives late. So does one whose executor has lost
 * experts for good, and which has failed.
 * Waits have no deadline of their own: they end by the caller's CANCEL, or by EXECUTOR_LOST from the task executor, when the DP group's thread has died.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import {
  abandon,
  enqueueSequence,
  handOver,
  place,
  release,
  taskCancelled,
  taskDone,
  taskFailed,
  taskLent,
  taskPlaced,
  taskPrefilled,
  taskRunning,
  taskStreaming,
  withdraw,
} from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { Commands, Handoff, Placement, Sequence, TaskMessage } from '../src/protocol/messages.ts';
import { prefixMarks } from './policies/prefix-marks.ts';

type Task = {
  self: Address;
  job: Address;
  sequence: Sequence;
  placement: Placement;
  /** Of a decode task: what it begins with. */
  handoff: Handoff | null;
  dp_group: Address | null;
  error: ErrorRecord | null;
};

function dpGroupOf(task: Task): Address {
  if (task.dp_group === null) throw new Error(`${task.self} is held but was never placed`);
  return task.dp_group;
}

const handoffOf = ({ output, offer, drafts, degraded }: Omit<Handoff, 'ahead'>): Handoff => ({
  ...{ output, offer, ahead: false },
  ...(drafts && { drafts }),
  ...(degraded && { degraded }),
});

/** Of decode that began ahead of its prefill's first token. */
const handedOver = {
  HANDED_OVER: {
    actions: {
      type: 'send',
      params: ({ context, event }: { context: Task; event: Extract<TaskMessage, { type: 'HANDED_OVER' }> }) => ({
        to: dpGroupOf(context),
        message: handOver(context.self, event.output, event.drafts),
      }),
    },
  },
  NOTHING_LEFT: 'stopping',
} as const;

const askToAbandon = {
  type: 'send',
  params: ({ context }: { context: Task }): Commands['send'] => ({ to: dpGroupOf(context), message: abandon(context.self) }),
} as const;

/** Sent before whoever sent it heard of ABANDON, which is answered all the same. */
const STILL_ON_THEIR_WAY = {
  GENERATED: {},
  GENERATION_FAILED: {},
  EXPERTS_LOST: {},
  CANCEL: {},
  STOP_STRING_FOUND: {},
  SCHEDULED: {},
  RECEIVING: {},
  DECODING: {},
  PREEMPTED: {},
  LENT: {},
  PREFILLED: {},
  HANDED_OVER: {},
  NOTHING_LEFT: {},
  TRANSFERRED: {},
  HANDED_BACK: {},
} as const;

export const task = setup({
  types: {} as { input: Pick<Task, 'self' | 'job' | 'sequence' | 'placement' | 'handoff'>; context: Task; events: TaskMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    noteHandedBack: assign(({ context: { sequence, handoff }, event }) => {
      if (event.type !== 'HANDED_BACK') return { sequence, handoff };
      const { output, offer } = event;
      return { sequence: { ...sequence, output }, handoff: offer === null ? null : handoffOf({ output, offer }) };
    }),
    noteOutput: assign({
      handoff: ({ context: { handoff }, event }) =>
        handoff !== null && event.type === 'HANDED_OVER' ? handoffOf({ ...event, offer: handoff.offer, ...(handoff.degraded && { degraded: true }) }) : handoff,
    }),
  },
  guards: { hasFailed: ({ context }) => context.error !== null },
}).createMachine({
  id: 'task',
  context: ({ input }) => ({ ...input, dp_group: null, error: null }),
  initial: 'waiting',
  states: {
    waiting: {
      entry: {
        type: 'send',
        params: ({ context }) => ({
          to: context.placement.executor,
          message: place(context.self, context.sequence, prefixMarks(context.sequence.cache_salt, context.sequence.prompt)),
        }),
      },
      on: {
        PLACED: { target: 'held', actions: assign({ dp_group: ({ event }) => event.dp_group }) },
        CANCEL: 'withdrawing',
        // Of a decode task: nobody needs it any more.
        STOP_STRING_FOUND: 'withdrawing',
        NOTHING_LEFT: 'withdrawing',
        EXPERTS_LOST: { target: 'withdrawing', actions: assign({ error: ({ event }) => event.error }) },
        // Of a group that had handed it back.
        EXECUTOR_LOST: {},
        // It will be enqueued with all that it needs.
        HANDED_OVER: { actions: 'noteOutput' },
      },
    },
    withdrawing: {
      entry: { type: 'send', params: ({ context }) => ({ to: context.placement.executor, message: withdraw(context.self) }) },
      on: {
        PLACED: {},
        EXECUTOR_LOST: {},
        EXPERTS_LOST: {},
        CANCEL: {},
        STOP_STRING_FOUND: {},
        NOTHING_LEFT: {},
        HANDED_OVER: {},
        WITHDRAWN: [{ guard: 'hasFailed', target: 'failed' }, { target: 'cancelled' }],
      },
    },
    held: {
      initial: 'placed',
      exit: { type: 'send', params: ({ context }) => ({ to: context.placement.executor, message: release(context.self) }) },
      on: {
        GENERATED: 'done',
        GENERATION_FAILED: { target: 'failed', actions: assign({ error: ({ event }) => event.error }) },
        EXECUTOR_LOST: { target: 'failed', actions: assign({ error: ({ event }) => event.error }) },
        EXPERTS_LOST: { target: '.failing', actions: assign({ error: ({ event }) => event.error }) },
        STOP_STRING_FOUND: '.stopping',
        CANCEL: '.cancelling',
        HANDED_BACK: { target: 'waiting', actions: 'noteHandedBack' },
        // Handed back before there was a first token, it computes that itself.
        HANDED_OVER: {},
        NOTHING_LEFT: '.stopping',
      },
      states: {
        placed: {
          entry: [
            {
              type: 'send',
              params: ({ context }) => ({
                to: dpGroupOf(context),
                message: enqueueSequence(context.self, context.sequence, context.placement.stage, context.handoff),
              }),
            },
            { type: 'send', params: ({ context }) => ({ to: context.job, message: taskPlaced(context.self) }) },
          ],
          on: { SCHEDULED: 'prefilling', RECEIVING: 'receiving', ...handedOver },
        },
        receiving: {
          on: { DECODING: 'decoding', SCHEDULED: 'prefilling', PREEMPTED: 'preempted', ...handedOver },
        },
        prefilling: {
          entry: { type: 'send', params: ({ context }) => ({ to: context.job, message: taskRunning(context.self) }) },
          on: {
            DECODING: 'decoding',
            PREEMPTED: 'preempted',
            LENT: { actions: { type: 'send', params: ({ context, event }) => ({ to: context.job, message: taskLent(context.self, event.handoff) }) } },
            PREFILLED: 'transferring',
          },
        },
        transferring: {
          entry: [
            { type: 'send', params: ({ context }) => ({ to: context.job, message: taskStreaming(context.self) }) },
            {
              type: 'send',
              params: ({ context, event }) => {
                if (event.type !== 'PREFILLED') throw new Error(`${context.self} hands nothing over`);
                return { to: context.job, message: taskPrefilled(context.self, event.handoff) };
              },
            },
          ],
          // Its work is done and handed over: what cannot be pulled any more is computed again by whoever goes on.
          on: { TRANSFERRED: '#task.done', EXECUTOR_LOST: '#task.done', EXPERTS_LOST: {} },
        },
        decoding: {
          entry: { type: 'send', params: ({ context }) => ({ to: context.job, message: taskStreaming(context.self) }) },
          on: { PREEMPTED: 'preempted' },
        },
        preempted: {
          on: { SCHEDULED: 'prefilling' },
        },
        stopping: {
          entry: askToAbandon,
          on: {
            ABANDONED: '#task.done',
            // It has its whole answer already: what becomes of the executor no longer matters. An end that crossed ABANDON is answered all the same.
            EXECUTOR_LOST: '#task.done',
            ...STILL_ON_THEIR_WAY,
          },
        },
        cancelling: {
          entry: askToAbandon,
          on: { ...STILL_ON_THEIR_WAY, ABANDONED: '#task.cancelled' },
        },
        failing: {
          entry: askToAbandon,
          on: { ...STILL_ON_THEIR_WAY, ABANDONED: '#task.failed' },
        },
      },
    },
    done: {
      type: 'final',
      entry: { type: 'send', params: ({ context }) => ({ to: context.job, message: taskDone(context.self) }) },
    },
    failed: {
      type: 'final',
      entry: { type: 'send', params: ({ context }) => ({ to: context.job, message: taskFailed(context.self, context.error) }) },
    },
    cancelled: {
      type: 'final',
      entry: { type: 'send', params: ({ context }) => ({ to: context.job, message: taskCancelled(context.self) }) },
    },
  },
});
