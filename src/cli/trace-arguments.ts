/**
 * Steps, times and actors as they are given to the trace commands.
 * @module
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { ROLES } from '../protocol/address.ts';
import type { Moment } from '../trace/cut-trace.ts';
import { MESSAGE_TYPES, STATE_NAMES } from '../trace/vocabulary.ts';
import { UsageError } from './usage-error.ts';

export type WindowFlags = { readonly from?: number; readonly to?: number; readonly since?: number; readonly until?: number };

/** A command `minipod trace NAME FILE`. */
export const traceCommand = (trace: Command, name: string, summary: string): Command =>
  trace.command(name).summary(summary).description(summary).argument('<file>', 'a trace');

/** `--from`, `--to` in steps, `--since`, `--until` in time; all are within. */
export function addWindowFlags(command: Command): void {
  command
    .addOption(new Option('--from <STEP>', 'the first step').argParser(step))
    .addOption(new Option('--to <STEP>', 'the last step').argParser(step))
    .addOption(new Option('--since <MS>', 'from this time on, in milliseconds since the pod’s start').argParser(time).conflicts('from'))
    .addOption(new Option('--until <MS>', 'up to this time').argParser(time).conflicts('to'));
}

/** Null: no border on that side. */
export type Window = { readonly from: Moment | null; readonly to: Moment | null };

export function windowOf({ from, to, since, until }: WindowFlags): Window {
  if (from !== undefined && to !== undefined && from > to) throw new UsageError(`no step is from ${from} on and up to ${to}: give the first step as --from`);
  if (since !== undefined && until !== undefined && since > until)
    throw new UsageError(`no step is from ${since} ms on and up to ${until} ms: give the earlier time as --since`);
  return { from: momentOf(from, since), to: momentOf(to, until) };
}

function momentOf(record: number | undefined, time_ms: number | undefined): Moment | null {
  if (record !== undefined) return { record };
  return time_ms === undefined ? null : { time_us: time_ms * 1000 };
}

export function step(text: string): number {
  // As it is printed: 1,234.
  const digits = text.replaceAll(',', '');
  if (!/^\d{1,15}$/.test(digits)) throw new InvalidArgumentError('It is not a step; they are numbered from 0.');
  return Number(digits);
}

function time(text: string): number {
  if (!/^\d+(?:\.\d+)?$/.test(text)) throw new InvalidArgumentError('It is not a number of milliseconds.');
  return Number(text);
}

export function positive(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('It is not a number from 1 on.');
  return Number(text);
}

/** `request/7`; `request` and `request/*`: all of that role. */
export function actors(text: string, earlier: readonly string[] = []): readonly string[] {
  const [role = '', id = '*'] = text.split('/');
  if (!(ROLES as readonly string[]).includes(role)) throw new InvalidArgumentError(`It names no role of: ${ROLES.join(', ')}.`);
  return [...earlier, id === '*' || id === '' ? role : `${role}/${id}`];
}

/** `STEP_DONE,tokens`: messages, in capitals. */
export const messageTypes = (text: string, earlier: readonly string[] = []): readonly string[] => [
  ...earlier,
  ...text.split(',').map((name) => known(name.toUpperCase(), MESSAGE_TYPES, 'message')),
];

export const states = (text: string, earlier: readonly string[] = []): readonly string[] => [
  ...earlier,
  ...text.split(',').map((name) => known(name, STATE_NAMES, 'state')),
];

function known(name: string, names: ReadonlySet<string>, what: string): string {
  if (!names.has(name)) throw new InvalidArgumentError(`There is no ${what} called ${name}, only: ${[...names].join(', ')}.`);
  return name;
}
