/**
 * Acts, messages and contexts in words: short enough for a line, or a line for each part.
 * @module
 */

import type { Message } from '../protocol/messages.ts';
import type { Command } from '../runtime/cast.ts';
import { grouped } from '../trace/damage.ts';
import type { ActLine } from '../trace/divergence-report.ts';
import { ms } from '../trace/views/life-text.ts';

/** Of a list of numbers, in a line. */
const BRIEF_ITEMS = 6;
/** Of a text, in a line. */
const BRIEF_CHARACTERS = 60;
/** What is no longer than this stands on one line of an outline. */
const OUTLINE_LINE = 240;
const OUTLINE_ITEMS = 24;

type Fields = { readonly [name: string]: unknown };

/** Of objects: no line holds it. */
const isList = (value: unknown): boolean => Array.isArray(value) && value.some((item) => typeof item === 'object' && item !== null);
const isObject = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value);

/** In one line, long lists cut: `step=5 outcomes=3×{…}`. */
export function brief(value: unknown, items = BRIEF_ITEMS): string {
  if (typeof value === 'string') return briefText(value);
  if (Array.isArray(value)) {
    if (isList(value)) return `${value.length}×{…}`;
    const shown = value.slice(0, items).map((item) => brief(item, items));
    return `[${shown.join(' ')}${value.length > items ? ` … ${grouped(value.length)} in all` : ''}]`;
  }
  return isObject(value) ? `{${briefFields(value, items)}}` : String(value);
}

const briefFields = (value: Fields, items: number): string =>
  Object.entries(value)
    .map(([name, field]) => `${name}=${brief(field, items)}`)
    .join(' ');

function briefText(text: string): string {
  if (/^[\w./-]+$/.test(text)) return text;
  return JSON.stringify(text.length > BRIEF_CHARACTERS ? `${text.slice(0, BRIEF_CHARACTERS)}…` : text);
}

/** What a message carries beside its type. */
export function carriedBy(message: Message | null): string {
  if (message === null) return '';
  const { type: _, ...fields } = message;
  return briefFields(fields, BRIEF_ITEMS);
}

export const messageText = (message: Message | null): string => (message === null ? '(birth)' : `${message.type} ${carriedBy(message)}`.trimEnd());

export function commandText(command: Command): string {
  switch (command.name) {
    case 'send':
      return `send to ${command.to}: ${messageText(command.message)}`;
    case 'after':
      return `after ${command.delay_ms} ms, as ${command.id}: ${messageText(command.message)}`;
    case 'cancel':
      return `cancel ${command.id}`;
    case 'launch':
      return `launch ${brief(command.work)}`;
    case 'transfer':
      return `transfer ${brief(command.work)}`;
    case 'claim':
      return `claim ${brief(command.claim)}`;
  }
}

/** A line for each part that is too long for one; long lists are cut. */
export function outline(value: unknown, indent = '  '): string[] {
  if (isObject(value)) return Object.entries(value).flatMap(([name, field]) => part(`${name}: `, field, indent));
  if (Array.isArray(value) && isList(value)) {
    const more = value.length > OUTLINE_ITEMS ? [`${indent}… ${grouped(value.length - OUTLINE_ITEMS)} more`] : [];
    return [...value.slice(0, OUTLINE_ITEMS).flatMap((item, index) => part(`${index}: `, item, indent)), ...more];
  }
  return [`${indent}${brief(value, OUTLINE_ITEMS)}`];
}

function part(name: string, value: unknown, indent: string): string[] {
  const line = oneLine(value);
  if (line !== null && line.length <= OUTLINE_LINE) return [`${indent}${name}${line}`];
  return isObject(value) || isList(value)
    ? [`${indent}${name.trimEnd()}`, ...outline(value, `${indent}  `)]
    : [`${indent}${name}${brief(value, OUTLINE_ITEMS)}`];
}

/** All of it, nothing left out; null: it holds a list that is long, or one of objects. */
function oneLine(value: unknown): string | null {
  if (typeof value === 'string') return /^[\w./-]+$/.test(value) ? value : JSON.stringify(value);
  if (Array.isArray(value)) return value.length > OUTLINE_ITEMS || isList(value) ? null : brief(value, OUTLINE_ITEMS);
  if (!isObject(value)) return String(value);
  const fields = Object.entries(value).map(([name, field]) => [name, oneLine(field)] as const);
  return fields.some(([, field]) => field === null) ? null : `{${fields.map(([name, field]) => `${name}=${field}`).join(' ')}}`;
}

/** `1,234  12.345 ms  npu/0 → dp-group/0  STEP_DONE  → idle`. */
export const actLineText = ({ record, time_us, from, to, type, state }: ActLine): string =>
  `${grouped(record).padStart(9)}  ${ms(time_us).padStart(14)}  ${`${from} → ${to}`.padEnd(36)}  ${(type ?? '(birth)').padEnd(18)} ${state ?? 'gone'}`;

/** Acts of a longest round: a step that waits for another NPU. */
const ROUND_MAX = 6;

/** What led to an act, the nearest first. Where it goes round, as step after step does, the first round is shown and the rest counted. */
export function chainLines(chain: readonly ActLine[], isWhole: boolean): string[] {
  const lines: string[] = [];
  for (let at = 0; at < chain.length; ) {
    const [round, times] = roundAt(chain, at);
    lines.push(...chain.slice(at, at + round).map(actLineText));
    at += round * times;
    if (times > 1)
      lines.push(`  … and ${round === 1 ? 'that' : `those ${round}`} ${grouped(times - 1)} times more, back to step ${grouped(chain[at - 1]?.record ?? 0)}`);
  }
  return isWhole || chain.length === 0 ? lines : [...lines, '  … (it goes on)'];
}

/** How many acts from there on come again, and how often they are there: at least three times, or it is one act, once. */
function roundAt(chain: readonly ActLine[], at: number): readonly [number, number] {
  for (let round = 1; round <= ROUND_MAX; round++) {
    let end = at + round;
    while (end < chain.length && isAlike(chain[end], chain[end - round])) end++;
    const times = Math.floor((end - at) / round);
    if (times >= 3) return [round, times];
  }
  return [1, 1];
}

const isAlike = (a: ActLine | undefined, b: ActLine | undefined): boolean =>
  a !== undefined && b !== undefined && a.from === b.from && a.to === b.to && a.type === b.type && a.state === b.state;
