/** What XState's own tools see of an actor is its snapshot, as JSON: nothing of it may be lost on the way. */

import { describe, expect, it } from 'vitest';
import type { AnyStateMachine } from 'xstate';
import { dpGroup } from '../../actors/dp-group.ts';
import { expert } from '../../actors/expert.ts';
import { job } from '../../actors/job.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import { npu } from '../../actors/npu.ts';
import { request } from '../../actors/request.ts';
import { task } from '../../actors/task.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import { address, roleOf } from '../../src/protocol/address.ts';
import {
  cancel,
  drain,
  expertsLost,
  load,
  loaded,
  npuLost,
  replicasChanged,
  replicasChanging,
  stopStringFound,
  submit,
  taskAddress,
} from '../../src/protocol/constructors.ts';
import type { Sequence } from '../../src/protocol/messages.ts';
import { parseTopology } from '../../src/protocol/topology.ts';
import { Cast } from '../../src/runtime/cast.ts';
import { type Snapshot, stateName } from '../../src/runtime/xstate/machine-host.ts';
import { greedySequence } from '../golden/greedy.ts';
import { KV_BLOCK_SIZE, QueuedCast } from './queued-cast.ts';

const MACHINES: readonly AnyStateMachine[] = [request, job, task, jobExecutor, taskExecutor, dpGroup, npu, expert];

type States = { readonly [name: string]: { readonly states?: States } };
const innermost = (states: States): string[] => Object.entries(states).flatMap(([name, state]) => (state.states ? innermost(state.states) : [name]));

/** Paths to what JSON drops or changes. */
function lostIn(value: unknown, path: string): string[] {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return [];
  if (typeof value === 'number') return Number.isFinite(value) && !Object.is(value, -0) ? [] : [`${path}: ${value}`];
  if (typeof value !== 'object') return [`${path}: ${typeof value}`];
  if ('toJSON' in value && typeof value.toJSON === 'function') return lostIn(value.toJSON(), path);
  if (!Array.isArray(value) && Object.getPrototypeOf(value) !== Object.prototype) return [`${path}: a ${value.constructor.name}`];
  return Object.entries(value).flatMap(([key, inner]) => lostIn(inner, `${path}.${key}`));
}

/** XState leaves these undefined in a machine that has not ended. */
const isAbsent = (path: string): boolean => ['.output: undefined', '.error: undefined'].includes(path);

const sequenceOf = (request: number, choice: number): Sequence => ({
  ...greedySequence(request, [11, 12, 13, 14, 15], KV_BLOCK_SIZE * 2, choice),
  cache_salt: `${request}/${choice}`,
});

/** Of a code that moves no request: nobody reads records here. */
const GONE = { code: 'worker_failed', message: 'experts are gone', param: null } as const;

/** Requests that are cancelled, stopped, preempted, refused, broken and lost, in an order that the seed says. */
function runOf(seed: number, see: (role: string, snapshot: Snapshot) => void): void {
  let state = seed;
  const choose = (): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 8;
  };
  const cast = new QueuedCast({
    topology: parseTopology(['pd', 'colocated:dp=2', 'colocated:dp=2,tp=2', 'colocated:dp=2'][seed % 4] as string),
    kv_blocks: 7,
    choices_max: 9,
    witness: ({ to, after }) => after !== null && see(roleOf(to), after),
  });
  const drainAll = (): void => {
    for (const to of ['job-executor/0', 'task-executor/0'] as const) cast.send(to, 'control/0', drain());
  };
  for (let id = 0; id < 5; id++) cast.send(address('request', id), 'frontend/0', submit([sequenceOf(id, 0), sequenceOf(id, 1)]));
  for (let count = 0; cast.step(choose) || count < 200; count++) {
    if (count === seed * 3) cast.send(address('request', 0), 'frontend/0', cancel());
    if (count === seed * 3 + 9 && cast.stateOf(taskAddress(sequenceOf(2, 0))) === 'decoding')
      cast.send(taskAddress(sequenceOf(2, 0)), 'frontend/0', stopStringFound());
    if (count === seed * 3 + 6 && cast.stateOf(taskAddress(sequenceOf(3, 1))) === 'decoding')
      cast.send(taskAddress(sequenceOf(3, 1)), 'frontend/0', expertsLost(GONE));
    if (count === seed * 4) cast.broken.add(1);
    if (count === 100 && seed % 3 === 0) drainAll();
  }
  cast.send('task-executor/0', 'control/0', npuLost(1, { code: 'worker_lost', message: 'gone', param: null }));
  if (seed % 3 !== 0) drainAll();
  cast.run(choose);
}

function livesOfAnExpert(see: (role: string, snapshot: Snapshot) => void): void {
  const nothing = (): void => {};
  const cast = new Cast({
    ...{
      birthOf: () => null,
      hands: new Map(),
      send: nothing,
      startTimer: nothing,
      cancelTimer: nothing,
      cancelTimers: nothing,
      launch: nothing,
      transfer: nothing,
    },
    onUnexpected: nothing,
    witness: ({ after }) => after !== null && see('expert', after),
  });
  cast.spawn('expert/4.12', { machine: expert, input: { self: 'expert/4.12' } });
  for (const message of [loaded(3, 65_536, 4_096), load(7), replicasChanging(2), load(1), replicasChanged(3, [3, 1])])
    cast.deliver({ to: 'expert/4.12', from: 'npu/3', message, cause: 0 });
}

describe('a snapshot', () => {
  it('survives JSON whole, of every machine and in every state', () => {
    const seen = new Map<string, number>();
    const lost = new Set<string>();
    const see = (role: string, snapshot: Snapshot): void => {
      const state = `${role} ${stateName(snapshot)}`;
      const count = seen.get(state) ?? 0;
      seen.set(state, count + 1);
      // Its first ones, and then one in ten: all of them would be the same a thousand times.
      if (count > 20 && count % 10 > 0) return;
      for (const path of lostIn(snapshot, '')) if (!isAbsent(path)) lost.add(`${role}${path}`);
      const once = JSON.stringify(snapshot);
      expect(JSON.stringify(JSON.parse(once))).toBe(once);
    };
    for (let seed = 1; seed <= 36; seed++) runOf(seed, see);
    livesOfAnExpert(see);
    expect([...lost]).toEqual([]);
    const all = MACHINES.flatMap(({ id, config }) => innermost(config.states as States).map((name) => `${id} ${name}`));
    // A task executor announces itself and serves within one message: no snapshot lies between.
    expect(all.filter((name) => !seen.has(name))).toEqual(['request born', 'task-executor announced']);
  });

  it('of a DP group shows what its scheduler holds: sequences, their tokens and blocks, and what is launched', () => {
    const schedulers: object[] = [];
    runOf(3, (role, { context }) => {
      if (role === 'dp-group') schedulers.push((JSON.parse(JSON.stringify(context)) as { scheduler: object }).scheduler);
    });
    expect(schedulers).toContainEqual(
      expect.objectContaining({
        running: expect.arrayContaining([
          expect.objectContaining({
            task: expect.stringMatching(/^task\//),
            tokens: expect.arrayContaining([11, 12]),
            blocks: expect.arrayContaining([expect.any(Number)]),
          }),
        ]),
        launched: [expect.arrayContaining([expect.objectContaining({ task: expect.stringMatching(/^task\//), count: expect.any(Number) })])],
        cache: expect.objectContaining({ blocks: 7, free: expect.any(Array) }),
      }),
    );
  });
});
