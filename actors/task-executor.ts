/**
 * A task executor: places tasks on its DP groups and answers for the health of its NPUs (xDeepServe §4: the TE-shell dispatches
 * once a request and coordinates health; tokens never pass it).
 *
 *   loading ─▶ announced ─▶ serving ─▶ draining
 *
 * A task that finds no serving DP group waits here until one is back. No state has a deadline: the host that
 * starts the workers bounds loading, and reports a thread that dies as NPU_LOST.
 */
import { assign, setup } from 'xstate';
import { type Address, address } from '../src/protocol/address.ts';
import { drain, executorLost, executorReady, placed, withdrawn } from '../src/protocol/constructors.ts';
import type { Commands, TaskExecutorMessage } from '../src/protocol/messages.ts';
import type { GroupChoice, GroupSeat } from './policies/group-choice.ts';
import { TaskPlacement } from './policies/placement.ts';

type TaskExecutor = { self: Address; placement: TaskPlacement; outbox: readonly Commands['send'][] };

const JOB_EXECUTOR: Address = 'job-executor/0';

const placedOn = (task: Address, group: number): Commands['send'] => ({ to: task, message: placed(address('dp-group', group)) });

export const taskExecutor = setup({
  types: {} as {
    input: { readonly self: Address; readonly groups: readonly GroupSeat[]; readonly batch_max: number; readonly choice: GroupChoice };
    context: TaskExecutor;
    events: TaskExecutorMessage;
  },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    markReady: assign({
      outbox: ({ context, event }) => (event.type === 'NPU_READY' ? context.placement.ready(event.npu).map(({ task, group }) => placedOn(task, group)) : []),
    }),
    markLost: assign({
      outbox: ({ context, event }) =>
        event.type === 'NPU_LOST' ? context.placement.lost(event.npu).map((task) => ({ to: task, message: executorLost(event.error) })) : [],
    }),
    placeTask: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'PLACE') return [];
        const group = context.placement.place(event);
        return group === null ? [] : [placedOn(event.task, group)];
      },
    }),
    releaseTask: assign({
      placement: ({ context, event }) => {
        if (event.type === 'RELEASE' || event.type === 'WITHDRAW') context.placement.release(event.task);
        return context.placement;
      },
    }),
  },
  guards: {
    allNpusServe: ({ context }) => context.placement.allServe,
  },
}).createMachine({
  id: 'task-executor',
  context: ({ input }) => ({ self: input.self, placement: new TaskPlacement(input.groups, input.batch_max, input.choice), outbox: [] }),
  initial: 'loading',
  on: {
    NPU_READY: { actions: ['markReady', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    NPU_LOST: { actions: ['markLost', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    PLACE: { actions: ['placeTask', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    WITHDRAW: { actions: ['releaseTask', { type: 'send', params: ({ event }) => ({ to: event.task, message: withdrawn() }) }] },
    RELEASE: { actions: 'releaseTask' },
  },
  states: {
    loading: {
      always: { guard: 'allNpusServe', target: 'announced' },
    },
    announced: {
      entry: { type: 'send', params: ({ context }) => ({ to: JOB_EXECUTOR, message: executorReady(context.self) }) },
      always: 'serving',
    },
    serving: {
      on: { DRAIN: 'draining' },
    },
    draining: {
      entry: {
        type: 'sendEach',
        params: ({ context }) => context.placement.npus.map((npu) => ({ to: address('npu', npu), message: drain() })),
      },
    },
  },
});
