/** What is known of a worker's thread, from its start to its end and its successor's start (workers.ts). @module */
import type { Worker } from 'node:worker_threads';
import type { PodPlan } from '../flowserve/pod-plan.ts';
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
  readonly detached: Set<number>;
  error: Error | null;
  isRestart: boolean;
  /** What is done next if nothing is heard of it. */
  cancel: Cancel;
  /** Of a lost thread: until when its peers must have let go of its rings. */
  cancelHandshake: Cancel;
};

const NOTHING: Cancel = () => {};

export const newThread = (handle: Worker, seat: Seat, layouts: PodPlan['layouts']): Thread => ({
  ...{ handle, seat, layouts, state: 'starting', end: 'unknown', isTerminated: false, detached: new Set(), error: null, isRestart: false },
  ...{ cancel: NOTHING, cancelHandshake: NOTHING },
});

/** It can be ended: it runs, or its successor is about to. One that has never begun ends its pod. */
export const hasBegun = ({ state, isRestart }: Thread): boolean => state === 'running' || (state === 'starting' && isRestart);
