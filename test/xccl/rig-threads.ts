/**
 * The rig's dies spread over real threads: each thread runs the same program over the dies that it hosts.
 *
 *   const results = await onThreads(8, { threads: 4 }, new URL('traffic.ts', import.meta.url), ({ space, apps }) => args);
 *
 * where traffic.ts says `export default (thread: DiesOfThread, args) => result`, and args and results are plain values. Nothing of it may import vitest.
 */
import { Worker } from 'node:worker_threads';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { allocateSegments } from '../../src/fabric/memory-plan.ts';
import type { Areas } from '../../src/xccl/areas.ts';
import { createDomain, type Domain } from '../../src/xccl/domain.ts';
import { Endpoint, type Surroundings } from '../../src/xccl/endpoint.ts';
import type { Operation, Poll } from '../../src/xccl/operation.ts';
import { type App, type DiesOptions, type DiesPlan, planDies, WORLD } from './rig.ts';

/** What a thread is given. */
export type ThreadStart = {
  readonly thread: number;
  readonly threads: number;
  readonly plan: DiesPlan;
  readonly memories: readonly WebAssembly.Memory[];
  readonly domain: Domain;
  readonly program: string;
  readonly args: unknown;
};

export type DiesOfThread = {
  readonly thread: number;
  /** The dies that this thread hosts: every `threads`-th. */
  readonly dies: readonly number[];
  /** By die; undefined for those of other threads. */
  readonly endpoints: readonly (Endpoint | undefined)[];
  readonly space: AddressSpace;
  /** All dies, rank = die. */
  readonly domain: Domain;
  readonly apps: readonly App[];
  readonly surroundings: Surroundings;
};

/** Rounds without news before a thread sleeps until it is told to look. */
const IDLE_ROUNDS = 50;
const NAP_MS = 2;

export function openThread({ thread, threads, plan, memories, domain }: ThreadStart): DiesOfThread {
  const space = new AddressSpace(memories, plan.memory.regions);
  const surroundings: Surroundings = {
    space,
    areasOf: (die) => plan.areas[die] as Areas,
    arrive: (die) => space.control.arrive(die % threads),
    now_ms: () => performance.now(),
  };
  const dies = plan.apps.flatMap((_, die) => (die % threads === thread ? [die] : []));
  const endpoints = plan.apps.map((_, die) => (dies.includes(die) ? new Endpoint(die, surroundings) : undefined));
  return { thread, dies, endpoints, space, domain, apps: plan.apps, surroundings };
}

/** Polls until each has ended, asleep while nothing comes. Deadlines are the operations' own. */
export function runOnThread({ thread, space: { control } }: DiesOfThread, operations: readonly Operation[]): Poll[] {
  const ends = operations.map((): Poll | null => null);
  for (let left = operations.length, idle = 0; left > 0; idle++) {
    const arrivals = control.arrivals(thread);
    for (const [index, operation] of operations.entries()) {
      if (ends[index] !== null) continue;
      const poll = operation.poll();
      if (poll.state === 'pending') continue;
      ends[index] = poll;
      left--;
      idle = 0;
    }
    if (control.arrivals(thread) !== arrivals) idle = 0;
    if (idle > IDLE_ROUNDS) control.sleep(thread, NAP_MS, () => control.arrivals(thread) !== arrivals);
  }
  return ends as Poll[];
}

/** What the caller's thread sees. */
export type Memory = { readonly space: AddressSpace; readonly apps: readonly App[] };

/** Runs the program on so many threads; what each returned, by thread. @throws what a thread threw. */
export async function onThreads<Args, Result>(
  dies: number,
  { threads, ...options }: DiesOptions & { readonly threads: number },
  program: URL,
  prepare: (memory: Memory) => Args,
): Promise<Result[]> {
  const plan = planDies(dies, options);
  const memories = allocateSegments(plan.memory);
  const space = new AddressSpace(memories, plan.memory.regions);
  const dieNumbers = plan.apps.map((_, die) => die);
  const domain = createDomain(space.control, WORLD, dieNumbers);
  const args = prepare({ space, apps: plan.apps });
  const results = Array.from({ length: threads }, (_, thread) => {
    const workerData: ThreadStart = { thread, threads, plan, memories, domain, program: program.href, args };
    const worker = new Worker(new URL('rig-thread.ts', import.meta.url), { workerData });
    return new Promise<Result>((resolve, reject) => {
      worker.once('message', ({ result, error }) => (error === undefined ? resolve(result) : reject(new Error(`thread ${thread}: ${error}`))));
      worker.once('error', reject);
    }).finally(() => worker.terminate());
  });
  return Promise.all(results);
}
