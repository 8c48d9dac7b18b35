/** What knows XState's insides: what it says about a delivery, and what it does not let a machine do. */
import { describe, expect, it } from 'vitest';
import { type AnyStateMachine, assign, fromCallback, raise, sendTo, setup, spawnChild } from 'xstate';
import { clusterManager } from '../../actors/cluster-manager.ts';
import { dpGroup } from '../../actors/dp-group.ts';
import { expert } from '../../actors/expert.ts';
import { expertMap } from '../../actors/expert-map.ts';
import { job } from '../../actors/job.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import { npu } from '../../actors/npu.ts';
import { request } from '../../actors/request.ts';
import { roleSwitch } from '../../actors/role-switch.ts';
import { scaling } from '../../actors/scaling.ts';
import { task } from '../../actors/task.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import { cancel, load, loaded } from '../../src/protocol/constructors.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import { isDone, MachineHost, stateName } from '../../src/runtime/xstate/machine-host.ts';
import { routesOf } from '../../src/runtime/xstate/machine-routes.ts';

const none = (): void => {};
const message = (type: string): Message => ({ type }) as unknown as Message;

describe('the machine host', () => {
  it('tells a message that a state does not expect from one that changes nothing', () => {
    const host = new MachineHost();
    const start = host.start(expert, { self: 'expert/1.2' }, none);
    expect(host.deliver(expert, start, load(3), none)).toMatchObject({ isExpected: false });
    const serving = host.deliver(expert, start, loaded(0, 64, 8), none);
    expect([serving.isExpected, stateName(serving.snapshot)]).toEqual([true, 'serving']);
    const counted = host.deliver(expert, serving.snapshot, load(0), none);
    expect(counted.isExpected).toBe(true);
    expect(host.deliver(expert, counted.snapshot, loaded(0, 64, 8), none).isExpected).toBe(false);
  });

  it('hands commands out in order and performs none', () => {
    const commands: Commands['send'][] = [];
    const host = new MachineHost();
    const snapshot = host.start(request, { self: 'request/1', job_executor: 'job-executor/0', job: 'job/1', sequences: [], placements: [] }, (_, params) =>
      commands.push(params as Commands['send']),
    );
    expect(commands.map(({ to, message: { type } }) => [to, type])).toEqual([['job-executor/0', 'ADMIT']]);
    const next = host.deliver(request, snapshot, cancel(), (_, params) => commands.push(params as Commands['send']));
    expect([stateName(next.snapshot), isDone(next.snapshot), commands.length]).toEqual(['withdrawing', false, 1]);
  });

  it('throws what an action threw, and refuses timers, children and XState’s own sends', () => {
    const machineWith = (entry: unknown): AnyStateMachine =>
      setup({ types: {} as { context: object } }).createMachine({
        context: {},
        initial: 'a',
        states: { a: { on: { GO: 'b' } }, b: { entry } },
      } as never) as unknown as AnyStateMachine;
    const enter = (machine: AnyStateMachine): unknown => {
      const host = new MachineHost();
      return host.deliver(machine, host.start(machine, {}, none), message('GO'), none);
    };
    expect(() => enter(machineWith(assign(() => expect.fail('an action failed'))))).toThrow(/an action failed/);
    expect(() => enter(machineWith(sendTo('someone', { type: 'X' })))).toThrow();
    expect(() => enter(machineWith(raise({ type: 'X' }, { delay: 5 })))).toThrow();
    expect(() => enter(machineWith(spawnChild(fromCallback(none) as never)))).toThrow();
    expect(() => enter(machineWith({ type: 'unheard' }))).toThrow(/no command/);
  });
});

/** What each state takes, its ancestors' included; what is missing here is counted as unexpected when it comes. */
function tableOf(machine: AnyStateMachine): string[] {
  type Node = {
    readonly key: string;
    readonly states: Record<string, Node>;
    readonly config: { readonly on?: Record<string, unknown>; readonly type?: string };
  };
  const walk = (node: Node, path: string, inherited: readonly string[]): string[] => {
    const taken = [...new Set([...inherited, ...Object.keys(node.config.on ?? {})])].sort();
    const children = Object.values(node.states);
    if (children.length > 0) return children.flatMap((child) => walk(child, path === '' ? child.key : `${path}.${child.key}`, taken));
    return [`${machine.id} ${path}: ${node.config.type === 'final' ? '(final)' : taken.join(' ')}`];
  };
  return walk(machine.root as unknown as Node, '', []);
}

const MACHINES = [
  request,
  job,
  task,
  jobExecutor,
  taskExecutor,
  clusterManager,
  scaling,
  roleSwitch,
  expertMap,
  dpGroup,
  npu,
  expert,
] as unknown as AnyStateMachine[];

it('all machines go by their routes, and none by XState itself', () => {
  expect(MACHINES.filter((machine) => routesOf(machine) === null).map(({ id }) => id)).toEqual([]);
});

it('what each state of each machine takes is as listed', async () => {
  await expect(`${MACHINES.flatMap(tableOf).join('\n')}\n`).toMatchFileSnapshot('messages-in-states.txt');
});
