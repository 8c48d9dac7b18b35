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
import { abandon, drain, executorLost, executorReady, memberLife, memberReady, placed, rankBack, rankLost, withdrawn } from '../src/protocol/constructors.ts';
import type { MemberLife } from '../src/protocol/controllers.ts';
import type { Commands, TaskExecutorMessage } from '../src/protocol/messages.ts';
import type { GroupChoice, GroupSeat } from './policies/group-choice.ts';
import { TaskPlacement } from './policies/placement.ts';

type TaskExecutor = {
  self: Address;
  managers: readonly Address[];
  placement: TaskPlacement;
  /** Job executors that want to hear when this one serves, and in which of their lives they asked. */
  job_executors: readonly MemberLife[];
  outbox: readonly Commands['send'][];
};

/** They run on in their DP groups, which are told to let them go; their answer finds nobody. */
const letGoOfTasks = ({ placement }: TaskExecutor, job_executor: Address): Commands['send'][] =>
  placement.releaseAll(job_executor).map(({ task, group }) => ({ to: address('dp-group', group), message: abandon(task) }));

const placedOn = (task: Address, group: number): Commands['send'] => ({ to: task, message: placed(address('dp-group', group)) });

export const taskExecutor = setup({
  types: {} as {
    input: {
      readonly self: Address;
      readonly managers: readonly Address[];
      readonly groups: readonly GroupSeat[];
      readonly batch_max: number;
      readonly choice: GroupChoice;
    };
    context: TaskExecutor;
    events: TaskExecutorMessage;
  },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    markReady: assign({
      outbox: ({ context: { placement }, event }) => {
        if (event.type !== 'NPU_READY') return [];
        const group = placement.returned(event.npu);
        const tellGroup = group === null ? [] : [{ to: address('dp-group', group), message: rankBack(event.npu) }];
        return [...tellGroup, ...placement.ready(event.npu).map(({ task, group }) => placedOn(task, group))];
      },
    }),
    markLost: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'NPU_LOST') return [];
        const { group, tasks } = context.placement.lost(event.npu);
        if (group !== null) return [{ to: address('dp-group', group), message: rankLost(event.npu, event.error) }];
        return tasks.map((task) => ({ to: task, message: executorLost(event.error) }));
      },
    }),
    placeTask: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'PLACE') return [];
        const group = context.placement.place(event);
        return group === null ? [] : [placedOn(event.task, group)];
      },
    }),
    letIn: assign({
      // What one of its earlier lives has left nobody asks for any more.
      outbox: ({ context, event }) => (event.type === 'JOIN' ? letGoOfTasks(context, event.member) : []),
      job_executors: ({ context, event }) =>
        event.type === 'JOIN'
          ? [...context.job_executors.filter(({ member }) => member !== event.member), memberLife(event.member, event.life)]
          : context.job_executors,
    }),
    disownTasks: assign({
      outbox: ({ context, event }) => {
        if (event.type !== 'DISOWN') return [];
        const known = context.job_executors.find(({ member }) => member === event.lost);
        return known !== undefined && known.life > event.life ? [] : letGoOfTasks(context, event.lost);
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
  context: ({ input }) => ({
    self: input.self,
    placement: new TaskPlacement(input.groups, input.batch_max, input.choice),
    managers: input.managers,
    job_executors: [],
    outbox: [],
  }),
  initial: 'loading',
  on: {
    NPU_READY: { actions: ['markReady', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    NPU_LOST: { actions: ['markLost', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    PLACE: { actions: ['placeTask', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    WITHDRAW: { actions: ['releaseTask', { type: 'send', params: ({ event }) => ({ to: event.task, message: withdrawn() }) }] },
    RELEASE: { actions: 'releaseTask' },
    JOIN: { actions: ['letIn', { type: 'sendEach', params: ({ context }) => context.outbox }] },
    DISOWN: { actions: ['disownTasks', { type: 'sendEach', params: ({ context }) => context.outbox }] },
  },
  states: {
    loading: {
      always: { guard: 'allNpusServe', target: 'announced' },
    },
    announced: {
      entry: {
        type: 'sendEach',
        params: ({ context: { self, managers, job_executors } }) => [
          ...job_executors.map(({ member }) => ({ to: member, message: executorReady(self) })),
          // It lives as long as the pod: it has one life.
          ...managers.map((manager) => ({ to: manager, message: memberReady(self, 1) })),
        ],
      },
      always: 'serving',
    },
    serving: {
      on: {
        JOIN: {
          actions: [
            'letIn',
            { type: 'sendEach', params: ({ context, event }) => [...context.outbox, { to: event.member, message: executorReady(context.self) }] },
          ],
        },
        DRAIN: 'draining',
      },
    },
    draining: {
      entry: {
        type: 'sendEach',
        params: ({ context }) => context.placement.npus.map((npu) => ({ to: address('npu', npu), message: drain() })),
      },
    },
  },
});
