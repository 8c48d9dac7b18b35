/**
 * How many DP groups of a task executor serve, and how that changes while requests run: one change at a time, which ends in the new number or in the old one.
 *
 *   stable ─▶ changing ─▶ stable
 *                └─▶ reverting ─▶ stable       it took too long: those that served are to serve again
 *
 * More groups: they are told to take part. Fewer: those that are to stand by hand their sequences back, which go on in the others, and the change is done when
 * nothing is left there. Reverting has no deadline: groups that served are there, and those that do not give back are hung or dead workers', whose successors hold nothing.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { scaled, scaleOverdue, serve } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { Commands } from '../src/protocol/messages.ts';
import type { ScalingMessage } from '../src/protocol/scaling.ts';

/** A step ends in tens of milliseconds, and KV that nobody pulls is let go of in seconds (HANDED_LEASE_MS). */
export const CHANGE_MS_MAX = 30_000;

const CONTROL: Address = 'control/0';
const BUSY: ErrorRecord = {
  code: 'overloaded',
  message: 'scale: another change is under way, and there is one at a time; ask again when it is done',
  param: null,
};

type Scaling = {
  self: Address;
  task_executor: Address;
  /** All that there are, in the order in which they come to serve. */
  groups: readonly number[];
  /** So many serve; and so many are to. */
  attention: number;
  wanted: number;
};

const OVERDUE = ({ attention, wanted }: Scaling): ErrorRecord => ({
  code: 'deadline_exceeded',
  message: `scale: from ${attention} to ${wanted} took more than ${CHANGE_MS_MAX / 1000} s: there are ${attention} as before`,
  param: null,
});

const tell = (messageOf: (context: Scaling) => Commands['send']['message']) => ({
  type: 'send' as const,
  params: ({ context }: { context: Scaling }): Commands['send'] => ({ to: CONTROL, message: messageOf(context) }),
});
const haveServe = (countOf: (context: Scaling) => number) => ({
  type: 'send' as const,
  params: ({ context }: { context: Scaling }): Commands['send'] => ({
    to: context.task_executor,
    message: serve(context.groups.slice(0, countOf(context))),
  }),
});
const refuse = { actions: tell(({ attention }) => scaled(attention, BUSY)) };

export const scaling = setup({
  types: {} as { input: Omit<Scaling, 'wanted'>; context: Scaling; events: ScalingMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    after: (_, _command: Commands['after']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    noteWanted: assign({ wanted: ({ context, event }) => (event.type === 'SCALE' ? event.attention : context.wanted) }),
    noteServing: assign({ attention: ({ context, event }) => (event.type === 'SERVING' ? event.groups.length : context.attention) }),
  },
  guards: {
    isSo: ({ context, event }) => event.type === 'SCALE' && event.attention === context.attention,
    isAsWanted: ({ context, event }) => event.type === 'SERVING' && event.groups.length === context.wanted,
    isAsBefore: ({ context, event }) => event.type === 'SERVING' && event.groups.length === context.attention,
  },
}).createMachine({
  id: 'scaling',
  context: ({ input }) => ({ ...input, wanted: input.attention }),
  initial: 'stable',
  states: {
    stable: {
      on: {
        SCALE: [
          { guard: 'isSo', actions: tell(({ attention }) => scaled(attention, null)) },
          { target: 'changing', actions: 'noteWanted' },
        ],
      },
    },
    changing: {
      entry: [haveServe(({ wanted }) => wanted), { type: 'after', params: { id: 'overdue', delay_ms: CHANGE_MS_MAX, message: scaleOverdue() } }],
      exit: { type: 'cancel', params: { id: 'overdue' } },
      on: {
        SCALE: refuse,
        SERVING: { guard: 'isAsWanted', target: 'stable', actions: ['noteServing', tell(({ attention }) => scaled(attention, null))] },
        SCALE_OVERDUE: 'reverting',
      },
    },
    reverting: {
      entry: haveServe(({ attention }) => attention),
      on: {
        SCALE: refuse,
        // Of the change, said at the last moment.
        SERVING: [{ guard: 'isAsBefore', target: 'stable', actions: tell((context) => scaled(context.attention, OVERDUE(context))) }, {}],
      },
    },
  },
});
