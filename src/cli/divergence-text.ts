/**
 * A divergence for a person: what the actor was asked, what it did then and does now, and how it came to be asked.
 * @module
 */
import type { Command } from '../runtime/cast.ts';
import { changesBetween } from '../trace/context-changes.ts';
import { grouped } from '../trace/damage.ts';
import type { DivergenceReport, RecordedCommand } from '../trace/divergence-report.ts';
import { ms } from '../trace/views/life-text.ts';
import { actLineText, brief, chainLines, commandText, messageText, outline } from './trace-words.ts';

const DIFFERENCES_MAX = 12;
/** Of a list. */
const LEAF_ITEMS = 24;

export function divergenceLines(report: DivergenceReport): string[] {
  const { record, time_us, actor, state, message, difference, led_to, chain } = report;
  return [
    `DIVERGES at step ${grouped(record)}, ${ms(time_us)}: ${actor}: ${difference}`,
    '',
    `  state before   ${state ?? 'not alive'}`,
    `  message        ${messageText(message)}`,
    ...expectationLines(report),
    ...(led_to.length === 0 ? [] : ['', 'WHAT ITS TIMERS AND LAUNCHES LED TO, THEN', ...led_to.map(actLineText)]),
    '',
    'WHAT LED TO IT, THE NEAREST FIRST',
    ...(chain.length === 0
      ? [`  ${message === null ? 'nobody: the host brought it to life' : 'the message came from outside'}`]
      : chainLines(chain, report.is_chain_whole)),
  ];
}

function expectationLines({ command, expected, actual, computed, message, state_after, state_recorded, commands }: DivergenceReport): string[] {
  if (computed !== null) return ['  found then', ...outline(message, '    '), '  found now', ...outline(computed, '    ')];
  if (command === null) return [`  state then     ${state_recorded ?? 'gone'}`, `  state now      ${state_after ?? 'gone, or it failed'}`];
  const others = commands.flatMap((other, index) => (index === command ? [] : [`    ${index + 1}: ${commandText(other)}`]));
  return [
    `  expected       ${expectedText(expected)}`,
    `  actual         ${actual === null ? 'nothing' : commandText(actual)}`,
    ...differenceLines(expected, actual),
    ...(others.length === 0 ? [] : ['  its other commands, now', ...others]),
    ...(state_after === state_recorded ? [] : [`  state after    ${state_recorded ?? 'gone'} then, ${state_after ?? 'gone'} now`]),
  ];
}

/** Leaf by leaf, since two commands that differ may look alike in a line. */
function differenceLines(expected: RecordedCommand | null, actual: Command | null): string[] {
  if (expected?.command == null || actual === null) return [];
  const changes = changesBetween(expected.command, actual);
  const lines = changes.slice(0, DIFFERENCES_MAX).map(({ path, before, after }) => `    ${path}: ${leaf(before)} → ${leaf(after)}`);
  return ['  what differs', ...lines, ...(changes.length > DIFFERENCES_MAX ? [`    … ${changes.length} in all`] : [])];
}

const leaf = (value: unknown): string => (value === undefined ? 'nothing' : brief(value, LEAF_ITEMS));

function expectedText(expected: RecordedCommand | null): string {
  if (expected === null) return 'nothing';
  if (expected.command !== null) return `${commandText(expected.command)}${expected.record === null ? '' : ` (arrived at step ${grouped(expected.record)})`}`;
  return `a command of which the trace keeps the checksum only, ${expected.checksum}: a timer, a launch, or what never arrived`;
}
