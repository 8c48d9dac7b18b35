/**
 * `minipod trace show`: one step in full. It is replayed up to there, so that the actor's state and context can be seen.
 * @module
 */
import type { Command } from 'commander';
import { type Change, changesBetween } from '../trace/context-changes.ts';
import { grouped } from '../trace/damage.ts';
import type { RecordedCommand } from '../trace/divergence-report.ts';
import { parseRunHeader, type RunHeader } from '../trace/run-header.ts';
import { lookAround, type StepLook } from '../trace/step-look.ts';
import { StepWalk } from '../trace/step-walk.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { ms } from '../trace/views/life-text.ts';
import { print, printJson } from './output.ts';
import { step, traceCommand } from './trace-arguments.ts';
import { noteEnd } from './trace-end.ts';
import { TraceProgress } from './trace-progress.ts';
import { actLineText, brief, chainLines, commandText, outline } from './trace-words.ts';
import { UsageError } from './usage-error.ts';

const CHANGES_MAX = 40;

export function addShowCommand(trace: Command, setExitCode: (code: number) => void): void {
  const summary = 'Shows one step: why it came, state and context before and after, the message, the commands and what they led to.';
  traceCommand(trace, 'show', summary)
    .argument('<step>', 'its number, as `minipod trace ls` gives it', step)
    .option('--json', 'print one JSON object, nothing left out')
    .addHelpText('after', EXAMPLES)
    .action((file: string, index: number, { json }: { readonly json?: true }) => show(file, index, json ?? false, setExitCode));
}

async function show(file: string, index: number, json: boolean, setExitCode: (code: number) => void): Promise<void> {
  using reader = TraceReader.open(file);
  const header = parseRunHeader(reader.header, file);
  const walk = new StepWalk(reader, header);
  const look = await withProgress(file, reader, header, index, walk);
  const { acts } = walk;
  if (look !== null) await (json ? printJson(look) : print(`${lookLines(look).join('\n')}\n`));
  else if (acts.damage === null) throw new UsageError(`${file} has no step ${grouped(index)}: it has ${grouped(acts.records)} records, numbered from 0`);
  else noteEnd(file, acts, `is ${grouped(acts.records)} records, so step ${grouped(index)} cannot be read`, setExitCode);
}

async function withProgress(file: string, reader: TraceReader, header: RunHeader, index: number, walk: StepWalk): Promise<StepLook | null> {
  using progress = new TraceProgress(`replaying ${file}`, reader.file_bytes);
  const stop = await walk.goTo(index, progress.pause);
  return stop === null ? null : await lookAround(reader, header, stop, progress.pause);
}

export function lookLines(look: StepLook): string[] {
  const { record, act, state_before, divergence, chain, is_chain_whole, led_to } = look;
  const { to, from, time_us, thread, number, message, state, is_expected, machine } = act;
  const birth = machine === null ? '' : `, which begins the life of this ${machine}`;
  return [
    `STEP ${grouped(record)}, ${ms(time_us)}: ${from} → ${to}: ${message?.type ?? 'its beginning'} (act ${grouped(number)} of thread ${thread})`,
    ...(divergence === null ? [] : [`this minipod does otherwise from step ${grouped(divergence.record)} on (${divergence.actor}: ${divergence.difference})`]),
    '',
    `STATE    ${state_before ?? 'not alive'} → ${state ?? 'gone'}${birth}${is_expected ? '' : '; the message was not expected, and changed nothing'}`,
    '',
    message === null ? 'GIVEN' : 'MESSAGE',
    ...outline(message ?? act.input),
    '',
    ...changeLines(look),
    '',
    ...commandLines(look.commands),
    ...(led_to.length === 0 ? [] : ['', 'WHAT ITS TIMERS AND LAUNCHES LED TO', ...led_to.map(actLineText)]),
    '',
    'WHAT LED TO IT, THE NEAREST FIRST',
    ...(chain.length === 0 ? ['  it came from outside'] : chainLines(chain, is_chain_whole)),
    ...contextLines(look),
  ];
}

function changeLines({ context_before, context_after }: StepLook): string[] {
  if (context_before === null || context_after === null)
    return [`CONTEXT  ${context_after !== null ? 'new: below' : context_before === null ? 'none' : 'gone'}`];
  // What waits to be sent is what the commands say.
  const changes = changesBetween(context_before, context_after).filter(({ path }) => !path.startsWith('outbox'));
  if (changes.length === 0) return ['CONTEXT  unchanged'];
  const lines = changes.slice(0, CHANGES_MAX).map(changeText);
  return ['CONTEXT, what changed', ...lines, ...(changes.length > CHANGES_MAX ? [`  … ${grouped(changes.length - CHANGES_MAX)} more (--json has all)`] : [])];
}

/** Last, since a scheduler's fills pages. */
function contextLines({ context_before, context_after }: StepLook): string[] {
  if (context_before !== null) return ['', 'CONTEXT, before', ...outline(context_before)];
  return context_after === null ? [] : ['', 'CONTEXT, after', ...outline(context_after)];
}

function changeText({ path, before, after }: Change): string {
  if (Array.isArray(before) && Array.isArray(after)) {
    if (isBeginningOf(before, after)) return `  ${path}: + ${brief(after.slice(before.length))}`;
    if (isBeginningOf(after, before)) return `  ${path}: − ${brief(before.slice(after.length))}`;
  }
  return `  ${path}: ${leafText(before)} → ${leafText(after)}`;
}

const leafText = (value: unknown): string => (value === undefined ? 'none' : brief(value));

const isBeginningOf = (part: readonly unknown[], whole: readonly unknown[]): boolean =>
  part.length < whole.length && part.every((item, index) => item === whole[index]);

function commandLines(commands: readonly RecordedCommand[]): string[] {
  if (commands.length === 0) return ['COMMANDS none'];
  return ['COMMANDS', ...commands.map((command, index) => `  ${index + 1}: ${recordedText(command)}`)];
}

function recordedText({ command, checksum, record }: RecordedCommand): string {
  const text = command === null ? `(of checksum ${checksum}; its words are not in the trace)` : commandText(command);
  return record === null ? text : `${text} → step ${grouped(record)}`;
}

const EXAMPLES = `
Examples:
  $ minipod trace show run.trace 1234
  $ minipod trace show run.trace 1234 --json | jq .context_before.scheduler`;
