/**
 * Steps, times and actors as they are given to the trace commands.
 * @module
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { ROLES } from '../protocol/address.ts';
import type { Moment } from '../trace/cut-trace.ts';

export type WindowFlags = { readonly from?: number; readonly to?: number; readonly since?: number; readonly until?: number };

/** `--from`, `--to` in steps, `--since`, `--until` in time; all are within. */
export function addWindowFlags(command: Command): void {
  command
    .addOption(new Option('--from <STEP>', 'the first step').argParser(step))
    .addOption(new Option('--to <STEP>', 'the last step').argParser(step))
    .addOption(new Option('--since <MS>', 'from this time on, in milliseconds since the pod’s start').argParser(time).conflicts('from'))
    .addOption(new Option('--until <MS>', 'up to this time').argParser(time).conflicts('to'));
}

export const startOf = ({ from, since }: WindowFlags): Moment | null => momentOf(from, since);
export const endOf = ({ to, until }: WindowFlags): Moment | null => momentOf(to, until);

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

export const texts = (text: string, earlier: readonly string[] = []): readonly string[] => [...earlier, ...text.split(',')];
