/**
 * What there is to say of a divergence: what the actor was asked, what it did and does, and how it came to be asked.
 * @module
 */
import type { Address } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import type { Command } from '../runtime/cast.ts';
import { type ActRecord, commandChecksum } from './act-record.ts';
import { causalChain, consequencesOf, sendChecksum } from './act-search.ts';
import type { Pause, TracedAct } from './acts.ts';
import type { Prompts } from './redaction.ts';
import { redactCommand } from './redaction.ts';
import type { Divergence } from './replay.ts';
import type { TraceReader } from './trace-reader.ts';

/** An act in one line. `type` is null where an actor came to life without a message. */
export type ActLine = {
  readonly record: number;
  readonly time_us: number;
  readonly from: Address;
  readonly to: Address;
  readonly type: string | null;
  readonly state: string | null;
};

/** A command that was recorded: its checksum is, and its words as far as what it led to tells them. */
export type RecordedCommand = {
  readonly checksum: string;
  /** Null: its words are not in the trace. Those of timers and launches are not, nor those of messages that never arrived. */
  readonly command: Command | null;
  /** The record of the message that it sent. */
  readonly record: number | null;
};

export type DivergenceReport = Divergence & {
  readonly time_us: number;
  /** Its state afterwards, then. */
  readonly state_recorded: string | null;
  /** At `command`: null where there was none, or nothing but the state differs. */
  readonly expected: RecordedCommand | null;
  /** At `command`: null where there is none any more. */
  readonly actual: Command | null;
  /** What timers and launches of this act led to: all that is known of them. */
  readonly led_to: readonly ActLine[];
  /** What led to the message, the nearest first. */
  readonly chain: readonly ActLine[];
  /** The chain goes back to what came from outside; else it is longer, or the trace does not hold its beginning. */
  readonly is_chain_whole: boolean;
};

export const actLineOf = ({ index, act: { time_us, from, to, message, state } }: TracedAct): ActLine => ({
  record: index,
  time_us,
  from,
  to,
  type: message?.type ?? null,
  state,
});

/** Reads the trace again, to its end where it must. */
export async function reportDivergence(
  reader: TraceReader,
  prompts: Prompts,
  traced: TracedAct,
  divergence: Divergence,
  pause?: Pause,
): Promise<DivergenceReport> {
  const { act } = traced;
  const consequences = await consequencesOf(reader, traced, { limit: act.commands.length, ...(pause && { pause }) });
  const { acts, isWhole } = await causalChain(reader, traced, pause);
  const at = divergence.command;
  // What a redacted trace expects is held against what it would keep of what comes now.
  const commands = reader.header['prompts'] === 'redacted' ? divergence.commands.map(redactCommand) : divergence.commands;
  return {
    ...divergence,
    commands,
    time_us: act.time_us,
    state_recorded: act.state,
    expected: at === null || at >= act.commands.length ? null : (recordedCommands(act, consequences, divergence.commands, prompts)[at] ?? null),
    actual: at === null ? null : (commands[at] ?? null),
    led_to: consequences.filter(({ act: later }) => !act.commands.includes(sendChecksum(later))).map(actLineOf),
    chain: acts.map(actLineOf),
    is_chain_whole: isWhole,
  };
}

/** The commands of an act, as far as the trace tells what they were. `known`: commands that may be among them, such as those that it gives now. */
export function recordedCommands(act: ActRecord, consequences: readonly TracedAct[], known: readonly Command[], prompts: Prompts): RecordedCommand[] {
  const sends = new Map<number, TracedAct[]>();
  for (const traced of consequences) {
    const checksum = sendChecksum(traced.act);
    sends.set(checksum, [...(sends.get(checksum) ?? []), traced]);
  }
  const byChecksum = new Map(known.map((command) => [commandChecksum(command, prompts), command]));
  return act.commands.map((checksum) => {
    // Equal commands led to equal messages, in their order.
    const led = sends.get(checksum)?.shift() ?? null;
    const { to, message } = led?.act ?? { to: null, message: null };
    const sent: Command | null = to === null || message === null ? null : { name: 'send', to, message: message as Message };
    return { checksum: checksum.toString(16).padStart(8, '0'), command: sent ?? byChecksum.get(checksum) ?? null, record: led?.index ?? null };
  });
}
