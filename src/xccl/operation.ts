/**
 * Everything that takes time is a record that can be resumed: started, then polled. No operation ever waits inside, since many NPUs share a thread.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';

/** `missing`: the ranks that it still waits for. */
export type Poll =
  | { readonly state: 'pending'; readonly missing: readonly number[] }
  | { readonly state: 'done' }
  | { readonly state: 'failed'; readonly error: MinipodError };

const pendingByRank: Poll[] = [];
/** Waits for one rank. The same object each time, since it is answered often. */
export const pendingOn = (rank: number): Poll => {
  pendingByRank[rank] ??= { state: 'pending', missing: [rank] };
  return pendingByRank[rank];
};
export const DONE: Poll = { state: 'done' };
export const failed = (error: MinipodError): Poll => ({ state: 'failed', error });

export type Operation = {
  /** Goes on as far as it can. After `done` or `failed` it answers the same again and touches nothing. */
  readonly poll: () => Poll;
};

/** Of a line in which the first is nearly always the one, and alone: `shift` takes 40 ns for it. */
export function removeFrom<Waiting extends Operation>(queue: Waiting[], operation: Waiting): void {
  if (queue.length === 1 && queue[0] === operation) queue.pop();
  else if (queue[0] === operation) queue.shift();
  else if (queue.includes(operation)) queue.splice(queue.indexOf(operation), 1);
}

/** The error of an operation whose deadline has passed, which names the ranks missing. */
export function deadlineExceeded(what: string, missing: readonly number[], waited_ms: number): MinipodError {
  return new MinipodError('deadline_exceeded', `${what} waited ${Math.round(waited_ms)} ms for rank${missing.length === 1 ? '' : 's'} ${missing.join(', ')}`);
}
