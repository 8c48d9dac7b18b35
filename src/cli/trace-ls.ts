/**
 * `minipod trace ls`: the steps of a trace, those that one asks for.
 * @module
 */
import type { Command } from 'commander';
import { roleOf } from '../protocol/address.ts';
import type { ActRecord } from '../trace/act-record.ts';
import { actsOf, type TracedAct } from '../trace/acts.ts';
import { isAfter, isBefore } from '../trace/cut-trace.ts';
import { grouped } from '../trace/damage.ts';
import { parseRunHeader } from '../trace/run-header.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { ms } from '../trace/views/life-text.ts';
import { BIRTH, GONE } from '../trace/vocabulary.ts';
import { note, print, printJson } from './output.ts';
import { actors, addWindowFlags, messageTypes, positive, states, traceCommand, type WindowFlags, windowOf } from './trace-arguments.ts';
import { noteEnd } from './trace-end.ts';
import { carriedBy } from './trace-words.ts';

/** What a step must be like. */
export type StepFilter = {
  readonly actor?: readonly string[];
  readonly sender?: readonly string[];
  readonly type?: readonly string[];
  readonly state?: readonly string[];
  readonly unexpected?: true;
};

type LsFlags = WindowFlags &
  StepFilter & {
    readonly limit?: number;
    readonly json?: true;
  };

export function addLsCommand(trace: Command, setExitCode: (code: number) => void): void {
  const summary = 'Lists steps: when, from whom, to whom, which message, and the receiver’s state afterwards.';
  const command = traceCommand(trace, 'ls', summary)
    .option('--actor <ADDRESS>', 'steps of this actor, such as request/7 or npu; may be given more than once', actors)
    .option('--sender <ADDRESS>', 'messages from this actor; may be given more than once', actors)
    .option('--type <TYPES>', 'messages of these types, such as STEP_DONE,TOKENS', messageTypes)
    .option('--state <STATES>', 'steps after which the receiver is in one of these states; gone: it is no more', states)
    .option('--unexpected', 'messages that the receiver’s state did not expect');
  addWindowFlags(command);
  command
    .option('--limit <N>', 'no more than so many', positive)
    .option('--json', 'print a JSON object a line: the step whole')
    .addHelpText('after', EXAMPLES)
    .action((file: string, flags: LsFlags) => ls(file, flags, setExitCode));
}

async function ls(file: string, flags: LsFlags, setExitCode: (code: number) => void): Promise<void> {
  using reader = TraceReader.open(file);
  parseRunHeader(reader.header, file);
  const acts = actsOf(reader, flags.from ?? 0);
  const isAsked = filterOf(flags);
  const { to, limit = Number.POSITIVE_INFINITY, json } = flags;
  let shown = 0;
  for (const traced of acts) {
    if (to !== undefined && traced.index > to) return;
    if (!isAsked(traced)) continue;
    if (shown === limit) {
      note(`minipod: there are more than ${grouped(limit)} (--limit)`);
      return;
    }
    if (shown++ === 0 && !json) await print(`${STEP_TITLES}\n`);
    await (json ? printJson({ step: traced.index, ...traced.act }) : print(`${stepLine(traced)}\n`));
  }
  if (shown === 0) note('minipod: no step is like that');
  noteEnd(file, acts, 'was listed', setExitCode);
}

export function filterOf(flags: WindowFlags & StepFilter): (traced: TracedAct) => boolean {
  const { actor, sender, type, state, unexpected } = flags;
  const types = type && new Set(type);
  const { from: start, to: end } = windowOf(flags);
  const isOne = (names: readonly string[] | undefined, name: ActRecord['to']): boolean =>
    names === undefined || names.includes(name) || names.includes(roleOf(name));
  return (traced) => {
    const { act } = traced;
    return (
      isOne(actor, act.to) &&
      isOne(sender, act.from) &&
      (types === undefined || types.has(act.message?.type ?? BIRTH)) &&
      (state === undefined || state.includes(act.state ?? GONE)) &&
      (unexpected === undefined || !act.is_expected) &&
      (start === null || !isBefore(traced, start)) &&
      (end === null || !isAfter(traced, end))
    );
  };
}

const WIDTHS = { step: 9, time: 15, from: 15, to: 15, type: 17, state: 11 } as const;
const rowOf = (step: string, time: string, from: string, to: string, type: string, state: string, carried: string): string =>
  [
    `${step.padStart(WIDTHS.step)} ${time.padStart(WIDTHS.time)}  ${from.padEnd(WIDTHS.from)} → ${to.padEnd(WIDTHS.to)}`,
    `${type.padEnd(WIDTHS.type)} ${state.padEnd(WIDTHS.state)} ${carried}`.trimEnd(),
  ].join('  ');

export const STEP_TITLES = rowOf('STEP', 'TIME', 'FROM', 'TO', 'MESSAGE', 'STATE AFTER', 'CARRIES');

export function stepLine({ index, act: { time_us, from, to, message, state, machine, is_expected } }: TracedAct): string {
  const type = message === null ? `(${machine} begins)` : message.type;
  return fitted(rowOf(grouped(index), ms(time_us), from, to, type, `${is_expected ? '' : '!'}${state ?? GONE}`, carriedBy(message)));
}

/** On a terminal a step has one line; a pipe gets all of it. */
function fitted(line: string): string {
  const { isTTY, columns } = process.stdout;
  return isTTY && columns > 0 && line.length > columns ? `${line.slice(0, columns - 1)}…` : line;
}

const EXAMPLES = `
A state with a ! before it did not expect the message.

Examples:
  $ minipod trace ls run.trace --actor request/7
  $ minipod trace ls run.trace --type STEP_DONE --actor dp-group/0 --since 100 --until 120
  $ minipod trace ls run.trace --state preempted --limit 10
  $ minipod trace ls run.trace --type TOKENS --json | jq -c .message.tokens`;
