/** What those hear that a worker held which is gone. @module */
import type { ErrorRecord } from '../protocol/errors.ts';

export const lostError = (worker: number, reason: string): ErrorRecord => ({
  code: 'worker_lost',
  message: `worker ${worker} failed: ${reason}; what it held may be sent again`,
  param: null,
});

/** It was well: all workers begin anew with the one that was lost. */
export const endedError = (worker: number, lost: number): ErrorRecord => ({
  code: 'worker_ended',
  message: `worker ${worker} ended: worker ${lost} was lost, and all begin anew (recovery 'restart'); what it held may be sent again`,
  param: null,
});

/** It was lost, and stays so for now. */
export const goneError = (worker: number, reason: string): ErrorRecord => ({
  code: 'worker_lost',
  message: `nobody can take the place of worker ${worker}, since ${reason}`,
  param: null,
});
