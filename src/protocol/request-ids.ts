/**
 * What a request's id says: 24 bits, so that a task's (stage, request × 128 + choice) has 32. Everybody who has an address of a request, a job or a task
 * can tell which job executor supervises it, and so on which thread it lives, without asking.
 *
 *   | job executor, 3 bits | attempt, 2 bits | call, 19 bits |
 *
 * A call is what the caller asked for, and keeps its number; whoever takes a request over gives it an id of its own, of the next attempt, so that
 * nothing that was on its way to the lost one is taken for its own.
 * @module
 */
import { type Address, address, idOf } from './address.ts';
import { assert } from './errors.ts';
import { choiceOfTask, REQUEST_IDS } from './messages.ts';

export const JOB_EXECUTORS_MAX = 8;
/** A request whose job executors died so often fails. */
export const ATTEMPTS_MAX = 4;
/** Calls are numbered up to here, then from 0 again. */
export const CALL_IDS = 2 ** 19;
assert(JOB_EXECUTORS_MAX * ATTEMPTS_MAX * CALL_IDS === REQUEST_IDS, 'the parts of a request id do not fill it');

export function requestId(jobExecutor: number, attempt: number, call: number): number {
  assert(
    jobExecutor < JOB_EXECUTORS_MAX && attempt < ATTEMPTS_MAX && call < CALL_IDS,
    `call ${call}, attempt ${attempt} of job executor ${jobExecutor} is out of an id's range`,
  );
  return (jobExecutor * ATTEMPTS_MAX + attempt) * CALL_IDS + call;
}

export const callOf = (request: number): number => request % CALL_IDS;
export const attemptOf = (request: number): number => Math.floor(request / CALL_IDS) % ATTEMPTS_MAX;
export const jobExecutorOf = (request: number): number => Math.floor(request / (CALL_IDS * ATTEMPTS_MAX));

export const requestOfTask = (task: Address): number => choiceOfTask(idOf(task)).request;
/** Of a request's address. */
export const supervisorOf = (request: Address): Address => address('job-executor', jobExecutorOf(idOf(request)));
