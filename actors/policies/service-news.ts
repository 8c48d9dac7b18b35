/** What job executors are told of whether a task executor serves: it does, it does not for now, or it cannot, and why. @module */
import type { Address } from '../../src/protocol/address.ts';
import { executorGone, executorReady, executorUnready } from '../../src/protocol/constructors.ts';
import type { JobExecutorMessage } from '../../src/protocol/controllers.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';

/** `serves`: as the executor's. */
export const serviceOf = (self: Address, serves: boolean | ErrorRecord): JobExecutorMessage =>
  serves === true ? executorReady(self) : serves === false ? executorUnready(self) : executorGone(self, serves);

export const isSameService = (a: boolean | ErrorRecord, b: boolean | ErrorRecord): boolean =>
  a === b || (typeof a !== 'boolean' && typeof b !== 'boolean' && a.message === b.message);
