/**
 * `minipod trace diff`: the first difference between two runs, then what differs in sum.
 * @module
 */
import type { Command } from 'commander';
import { markdownTable } from 'markdown-table';
import { compareTraces, type TraceComparison } from '../trace/compare-traces.ts';
import { grouped } from '../trace/damage.ts';
import { actLineOf } from '../trace/divergence-report.ts';
import { endText } from '../trace/request-ends.ts';
import { parseRunHeader } from '../trace/run-header.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { ms } from '../trace/views/life-text.ts';
import { note, print, printJson } from './output.ts';
import { INCOMPLETE } from './trace-end.ts';
import { TraceProgress } from './trace-progress.ts';
import { actLineText, brief } from './trace-words.ts';

const DIFFERENT = 1;

export function addDiffCommand(trace: Command, setExitCode: (code: number) => void): void {
  const summary = 'Compares two traces step by step: the first difference, then what differs in sum.';
  trace
    .command('diff')
    .summary(summary)
    .description(summary)
    .argument('<a>', 'a trace')
    .argument('<b>', 'another')
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXAMPLES)
    .action(async (a: string, b: string, { json }: { readonly json?: true }) => setExitCode(await diff(a, b, json ?? false)));
}

async function diff(fileA: string, fileB: string, json: boolean): Promise<number> {
  using a = TraceReader.open(fileA);
  using b = TraceReader.open(fileB);
  parseRunHeader(a.header, fileA);
  parseRunHeader(b.header, fileB);
  const comparison = await withProgress(a, b);
  await (json ? printJson(comparison) : print(`${comparisonLines(fileA, fileB, comparison).join('\n')}\n`));
  for (const [file, { damage }] of [
    [fileA, comparison.a],
    [fileB, comparison.b],
  ] as const)
    if (damage !== null) note(`minipod: ${file}: ${damage.message}; what is before was compared`);
  const isWhole = comparison.a.damage === null && comparison.b.damage === null;
  if (!isWhole) return INCOMPLETE;
  return comparison.is_equal ? 0 : DIFFERENT;
}

async function withProgress(a: TraceReader, b: TraceReader): Promise<TraceComparison> {
  using progress = new TraceProgress('comparing', Math.max(a.file_bytes, b.file_bytes));
  return await compareTraces(a, b, progress.pause);
}

function comparisonLines(fileA: string, fileB: string, comparison: TraceComparison): string[] {
  const { is_equal, a, b } = comparison;
  if (is_equal) return [`${fileA} and ${fileB} are the same: ${grouped(a.acts)} acts`];
  return [
    ...headerLines(comparison),
    ...firstLines(comparison),
    '',
    `a: ${fileA}: ${grouped(a.acts)} acts over ${ms(a.duration_us)}`,
    `b: ${fileB}: ${grouped(b.acts)} acts over ${ms(b.duration_us)}`,
    ...countLines(comparison),
    ...endLines(comparison),
  ];
}

const headerLines = ({ header }: TraceComparison): string[] =>
  header.length === 0 ? [] : ['HEADERS', ...header.map(({ field, a, b }) => `  ${field}: a has ${brief(a)}, b has ${brief(b)}`), ''];

function firstLines({ first, a, b }: TraceComparison): string[] {
  if (first === null) return [`all ${grouped(Math.min(a.acts, b.acts))} acts are the same`];
  const lines = [first.a, first.b].map((act, side) => `  ${'ab'[side]} ${act === null ? 'has ended' : actLineText(actLineOf(act))}`);
  const fields = first.fields.map((field) => `  ${field}: ${fieldText(first.a, field)} in a, ${fieldText(first.b, field)} in b`);
  return [`FIRST DIFFERENCE, at step ${grouped(first.record)}${first.fields.length === 0 ? '' : `, in ${first.fields.join(', ')}`}`, ...lines, ...fields];
}

type Side = NonNullable<TraceComparison['first']>['a'];

const fieldText = (side: Side, field: string): string => brief((side?.act as unknown as { readonly [field: string]: unknown } | undefined)?.[field]);

function countLines({ counts }: TraceComparison): string[] {
  if (counts.length === 0) return [];
  const rows = counts.map(({ role, type, a, b }) => [role, type, grouped(a), grouped(b)]);
  return ['', ...markdownTable([['RECEIVER', 'MESSAGE', 'A', 'B'], ...rows], { align: ['', '', 'r', 'r'] }).split('\n')];
}

function endLines({ ends, ends_total }: TraceComparison): string[] {
  if (ends_total === 0) return ['', 'every request ended with the same tokens in both'];
  const lines = ends.map(({ request, a, b }) => {
    const texts = [a === null ? 'did not end' : endText(a), b === null ? 'did not end' : endText(b)];
    return `  ${request}: ${texts[0] === texts[1] ? `${texts[0]} in both, others` : `${texts[0]} in a, ${texts[1]} in b`}`;
  });
  const more = ends_total > ends.length ? [`  … ${grouped(ends_total - ends.length)} more`] : [];
  return ['', `REQUESTS that ended otherwise: ${grouped(ends_total)}`, ...lines, ...more];
}

const EXAMPLES = `
Exit codes: 0 the same, 1 different, 2 wrong usage or not a trace, 3 damaged or unfinished.
Live runs differ in their times; runs on a virtual clock with the same seed are the same.

Examples:
  $ minipod trace diff a.trace b.trace
  $ minipod trace diff a.trace b.trace --json | jq .first.record`;
