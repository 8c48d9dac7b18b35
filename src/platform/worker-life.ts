/** What is known of a worker's thread, from its start to its end and its successor's start (workers.ts). @module */
import type { Worker } from 'node:worker_threads';
import type { ControlPage } from '../fabric/control-page.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import { address } from '../protocol/address.ts';
import type { Cancel } from '../runtime/clock.ts';
import type { Seat } from '../runtime/directory.ts';

export type Thread = {
  handle: Worker;
  seat: Seat;
  layouts: PodPlan['layouts'];
  state: 'starting' | 'running' | 'lost' | 'stopped';
  /** Of a lost thread: `free`, its seat or another one is ready for its successor. */
  end: 'unknown' | 'free';
  isTerminated: boolean;
  /** Its weights are to be loaded anew. */
  hasLostWeights: boolean;
  readonly detached: Set<number>;
  error: Error | null;
  isRestart: boolean;
  /** What is done next if nothing is heard of it. */
  cancel: Cancel;
  /** Of a lost thread: until when its peers must have let go of its rings. */
  cancelHandshake: Cancel;
};

/** Whose weights cannot be read now is lost until they can: tried this often. */
export const REFURNISH_MS = 1_000;

const NOTHING: Cancel = () => {};

export const newThread = (handle: Worker, seat: Seat, layouts: PodPlan['layouts']): Thread => ({
  ...{
    handle,
    seat,
    layouts,
    state: 'starting',
    end: 'unknown',
    isTerminated: false,
    hasLostWeights: false,
    detached: new Set(),
    error: null,
    isRestart: false,
  },
  ...{ cancel: NOTHING, cancelHandshake: NOTHING },
});

/** It can be ended: it runs, or its successor is about to. One that has never begun ends its pod. */
export const hasBegun = ({ state, isRestart }: Thread): boolean => state === 'running' || (state === 'starting' && isRestart);

/** Stops it, and waits for its end. */
export const exitOf = ({ state, handle, seat }: Thread, control: Pick<ControlPage, 'stop'>): Promise<void> =>
  new Promise((resolve) => {
    if (state === 'stopped' || state === 'lost') return resolve();
    handle.once('exit', () => resolve());
    control.stop(seat.thread);
  });

export function beginAgain(thread: Thread): void {
  thread.state = 'starting';
  thread.end = 'unknown';
  thread.isTerminated = false;
  thread.hasLostWeights = false;
  thread.isRestart = true;
}

/** Before a lost one's successor begins: the proof of its end, and the other workers' letting go of its rings. */
export function waitedFor(threads: readonly Thread[], worker: number): string[] {
  const thread = threads[worker];
  if (thread?.state !== 'lost') return [];
  const peers = threads.flatMap(({ state }, peer) => {
    const holds = peer !== worker && (state === 'starting' || (state === 'running' && !thread.detached.has(peer)));
    return holds ? [address('worker', peer)] : [];
  });
  return [...(thread.end === 'unknown' ? ['its end'] : []), ...peers];
}
