/**
 * An act as the trace keeps it: what was delivered to whom and why, and a checksum of each command that came of it. A command's own words are not kept
 * twice: they come back in the act that it caused.
 * @module
 */
import type { Address } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import { ACTS_PER_LIFE, ACTS_PER_THREAD, type Act, type Command } from '../runtime/cast.ts';
import { stateName } from '../runtime/xstate/machine-host.ts';
import { type Prompts, redactCommand, redactMessage } from './redaction.ts';
import { checksumOf } from './trace-codec.ts';

export type ActRecord = {
  readonly kind: 'act';
  /** The thread that the act happened on (0 on a virtual clock), and its number there. */
  readonly thread: number;
  readonly number: number;
  /** Microseconds since the pod's start, of the pod's clock. */
  readonly time_us: number;
  readonly to: Address;
  readonly from: Address;
  /** The act whose command sent the message; 0: it came from outside. */
  readonly cause_thread: number;
  readonly cause: number;
  /** The machine that came to life, by its id. */
  readonly machine: string | null;
  /** What it was given; null also where the message says it. */
  readonly input: unknown;
  readonly message: Message | null;
  /** The receiver's state afterwards; null: it is no machine, or gone. */
  readonly state: string | null;
  readonly is_expected: boolean;
  /** CRC-32 of each command, in order. */
  readonly commands: readonly number[];
};

/** Which life of its thread an act is of. */
export const lifeOf = ({ thread, number }: Pick<ActRecord, 'thread' | 'number'>): string => `${thread}/${Math.floor(number / ACTS_PER_LIFE)}`;

/** As the trace keeps it: of a redacted trace, of the redacted command. */
export const commandChecksum = (command: Command, prompts: Prompts = 'recorded'): number =>
  checksumOf(prompts === 'redacted' ? redactCommand(command) : command);

export function actRecord(act: Act, time_us: number, prompts: Prompts = 'recorded'): ActRecord {
  const { message } = act;
  return {
    kind: 'act',
    thread: Math.floor(act.number / ACTS_PER_THREAD),
    number: act.number % ACTS_PER_THREAD,
    time_us,
    to: act.to,
    from: act.from,
    cause_thread: Math.floor(act.cause / ACTS_PER_THREAD),
    cause: act.cause % ACTS_PER_THREAD,
    machine: act.birth?.machine.id ?? null,
    // Who comes to life without a message serves all requests, and is given none.
    input: message === null ? (act.birth?.input ?? null) : null,
    message: message !== null && prompts === 'redacted' ? redactMessage(message) : message,
    state: act.after === null ? null : stateName(act.after),
    is_expected: act.isExpected,
    commands: act.commands.map((command) => commandChecksum(command, prompts)),
  };
}
