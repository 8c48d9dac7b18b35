/** What those hear that a worker held which is gone. @module */
import type { ErrorRecord } from '../protocol/errors.ts';
import type { Hosting } from '../runtime/directory.ts';

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

/** It was well: another one, that was lost, begins in its place. */
export const gaveWayError = (worker: number, lost: number): ErrorRecord => ({
  code: 'worker_ended',
  message: `worker ${worker} ended: worker ${lost} was lost, and has its place from now on (role_switch); what it held may be sent again`,
  param: null,
});

/** It was lost, and stays so for now. */
export const goneError = (worker: number, reason: string): ErrorRecord => ({
  code: 'worker_lost',
  message: `nobody can take the place of worker ${worker}, since ${reason}`,
  param: null,
});

export const noSpareLeft = (worker: number, { spare_workers }: Hosting, quarantined: number): string =>
  `worker ${worker} does not stop, so its memory stays in quarantine, and no spare is left: ${spare_workers} spare_workers, ${quarantined} in quarantine before`;
