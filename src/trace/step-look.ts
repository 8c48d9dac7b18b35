/**
 * One step of a trace with all that there is to say of it: its actor before and after, its commands in words, what led to it and what it led to.
 * @module
 */
import type { ActRecord } from './act-record.ts';
import { causalChain, consequencesOf, sendChecksum } from './act-search.ts';
import type { Pause } from './acts.ts';
import { type ActLine, actLineOf, type RecordedCommand, recordedCommands } from './divergence-report.ts';
import { promptsOf, type RunHeader } from './run-header.ts';
import type { Stop } from './step-walk.ts';
import type { TraceReader } from './trace-reader.ts';

export type StepLook = Omit<Stop, 'traced' | 'commands'> & {
  readonly record: number;
  readonly act: ActRecord;
  readonly commands: readonly RecordedCommand[];
  /** What timers and launches of this step led to; what its sends led to is in `commands`. */
  readonly led_to: readonly ActLine[];
  /** What led to it, the nearest first. */
  readonly chain: readonly ActLine[];
  readonly is_chain_whole: boolean;
};

/** Reads the trace again, to its end where it must. */
export async function lookAround(reader: TraceReader, header: RunHeader, { traced, commands, ...stop }: Stop, pause?: Pause): Promise<StepLook> {
  const { act, index } = traced;
  const consequences = await consequencesOf(reader, traced, { limit: act.commands.length, ...(pause && { pause }) });
  const { acts, isWhole } = await causalChain(reader, traced, pause);
  return {
    ...stop,
    record: index,
    act,
    commands: recordedCommands(act, consequences, commands, promptsOf(header)),
    led_to: consequences.filter(({ act: later }) => !act.commands.includes(sendChecksum(later))).map(actLineOf),
    chain: acts.map(actLineOf),
    is_chain_whole: isWhole,
  };
}
