/**
 * One step of a trace, with what no record holds: the actor's state and context before and after, and its commands in words.
 * @module
 */
import type { ActRecord } from './act-record.ts';
import { causalChain, consequencesOf, sendChecksum } from './act-search.ts';
import type { Acts, Pause, TracedAct } from './acts.ts';
import { type ActLine, actLineOf, type RecordedCommand, recordedCommands } from './divergence-report.ts';
import { type Divergence, Replay } from './replay.ts';
import { promptsOf, type RunHeader } from './run-header.ts';
import type { TraceReader } from './trace-reader.ts';

export type StepLook = {
  readonly record: number;
  readonly act: ActRecord;
  readonly state_before: string | null;
  /** As JSON has them; null: it was not alive. */
  readonly context_before: unknown;
  readonly context_after: unknown;
  readonly commands: readonly RecordedCommand[];
  /** What timers and launches of this step led to, and what its sends led to is in `commands`. */
  readonly led_to: readonly ActLine[];
  /** What led to it, the nearest first. */
  readonly chain: readonly ActLine[];
  readonly is_chain_whole: boolean;
  /** The first step, up to this one, that this minipod does not replay as it was; then states and contexts are as they are now. */
  readonly divergence: Divergence | null;
};

/**
 * Replays the trace up to the step, without its kernels. `acts`: a pass over it from its beginning.
 * Null: the trace has no such step, or none that can be read; then `acts` has been gone through, and says so.
 */
export async function lookAtStep(reader: TraceReader, header: RunHeader, acts: Acts, step: number, pause?: Pause): Promise<StepLook | null> {
  const replay = new Replay(null, promptsOf(header));
  let divergence: Divergence | null = null;
  for (const traced of acts) {
    const waiting = pause?.(traced.offset);
    if (waiting) await waiting;
    const { act, index } = traced;
    const cast = replay.castOf(act);
    const before = index === step ? { state_before: cast.stateOf(act.to), context_before: plain(cast.contextOf(act.to)) } : null;
    const differs = replay.feed(act, index);
    divergence ??= differs;
    if (before !== null)
      return { ...before, context_after: plain(cast.contextOf(act.to)), divergence, ...(await surroundings(reader, header, traced, replay, pause)) };
    if (index > step) return null;
  }
  return null;
}

async function surroundings(reader: TraceReader, header: RunHeader, traced: TracedAct, replay: Replay, pause: Pause | undefined) {
  const { act, index } = traced;
  const consequences = await consequencesOf(reader, traced, { limit: act.commands.length, ...(pause && { pause }) });
  const { acts, isWhole } = causalChain(reader, traced);
  return {
    record: index,
    act,
    commands: recordedCommands(act, consequences, replay.commands, promptsOf(header)),
    led_to: consequences.filter(({ act: later }) => !act.commands.includes(sendChecksum(later))).map(actLineOf),
    chain: acts.map(actLineOf),
    is_chain_whole: isWhole,
  };
}

/** Copied, since an actor's context may be changed in place; stores of policies say what they hold by their `toJSON`. */
const plain = (context: unknown): unknown => JSON.parse(JSON.stringify(context ?? null));
