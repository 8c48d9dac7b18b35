/** Which messages bring actors of the control thread to life. @module */
import { job } from '../../actors/job.ts';
import { request } from '../../actors/request.ts';
import { task } from '../../actors/task.ts';
import { type Address, address, idOf } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import type { Birth } from '../runtime/actor-host.ts';

/** Requests, jobs and tasks come to life with their first message. */
export function birthOf(to: Address, message: Message): Birth | null {
  switch (message.type) {
    case 'SUBMIT':
      return { machine: request, input: { self: to, job: address('job', idOf(to)), sequences: message.sequences } };
    case 'PLAN':
      return { machine: job, input: { self: to, request: message.request, sequences: message.sequences } };
    case 'ASSIGN':
      return { machine: task, input: { self: to, job: message.job, sequence: message.sequence } };
    default:
      return null;
  }
}
