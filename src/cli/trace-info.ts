/**
 * `minipod trace info`: which run a trace is of, and its figures.
 * @module
 */
import type { Command } from 'commander';
import { markdownTable } from 'markdown-table';
import prettyBytes from 'pretty-bytes';
import { type Acts, actsOf } from '../trace/acts.ts';
import { grouped } from '../trace/damage.ts';
import { versionDifferences } from '../trace/replay-trace.ts';
import { RequestEnds } from '../trace/request-ends.ts';
import { parseRunHeader, type RunHeader } from '../trace/run-header.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { TraceTally } from '../trace/trace-tally.ts';
import { ms } from '../trace/views/life-text.ts';
import { print, printJson } from './output.ts';
import { traceCommand } from './trace-arguments.ts';
import { noteEnd } from './trace-end.ts';
import { TraceProgress } from './trace-progress.ts';
import { brief } from './trace-words.ts';

const OPTIONS_COLUMNS = 100;

export function addInfoCommand(trace: Command, setExitCode: (code: number) => void): void {
  const summary = 'Says which run a trace is of, whether it is whole, who acted in it and how often.';
  traceCommand(trace, 'info', summary)
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXAMPLES)
    .action((file: string, { json }: { readonly json?: true }) => info(file, json ?? false, setExitCode));
}

async function info(file: string, json: boolean, setExitCode: (code: number) => void): Promise<void> {
  using reader = TraceReader.open(file);
  const header = parseRunHeader(reader.header, file);
  const acts = actsOf(reader);
  const figures = await readAll(file, reader, acts);
  await (json ? printJson(infoObject(file, reader, acts, figures)) : print(`${infoLines(file, reader, header, acts, figures).join('\n')}\n`));
  noteEnd(file, acts, 'was read', setExitCode);
}

type Figures = { readonly tally: TraceTally; readonly ends: ReadonlyMap<string, number> };

async function readAll(file: string, reader: TraceReader, acts: Acts): Promise<Figures> {
  using progress = new TraceProgress(`reading ${file}`, reader.file_bytes);
  const tally = new TraceTally();
  const requests = new RequestEnds();
  const ends = new Map<string, number>();
  for (const { act, offset } of acts) {
    const waiting = progress.pause(offset);
    if (waiting) await waiting;
    tally.add(act);
    const ended = requests.add(act);
    if (ended !== null) ends.set(ended.end.outcome, (ends.get(ended.end.outcome) ?? 0) + 1);
  }
  return { tally, ends };
}

const infoObject = (file: string, { file_bytes, version, header }: TraceReader, acts: Acts, { tally, ends }: Figures): object => ({
  file,
  file_bytes,
  format: version,
  header,
  records: acts.records,
  hash: acts.identity?.hash ?? null,
  acts: tally.acts,
  duration_us: tally.duration_us,
  unexpected: tally.unexpected,
  actors: tally.actors,
  requests: Object.fromEntries(ends),
  messages: tally.types,
  damage: acts.damage,
  stopped: acts.stopped,
});

function infoLines(file: string, reader: TraceReader, header: RunHeader, acts: Acts, { tally, ends }: Figures): string[] {
  const { clock, seed, kernels, model, topology, npus, workers, options, code_version } = header;
  const { cut } = reader.header;
  const perAct = tally.acts === 0 ? '' : `, ${(reader.file_bytes / tally.acts).toFixed(1)} B an act`;
  const lines: readonly (readonly [string, string])[] = [
    ['run', `${clock} clock${seed === null ? '' : `, seed ${seed}`}, ${kernels} kernels, by minipod ${code_version}`],
    ['model', `${model.name}, digest ${model.digest.slice(0, 16)}…`],
    ['pod', `${topology}, ${npus} NPUs on ${workers} workers`],
    ...lined(brief(options).slice(1, -1)).map((text, line) => [line === 0 ? 'options' : '', text] as const),
    ...(cut === undefined ? [] : [['cut', brief(cut)] as const]),
    ['trace', `${grouped(acts.records)} records, ${prettyBytes(reader.file_bytes, { binary: true })}${perAct}`],
    ['hash', acts.identity === null ? 'none: it is damaged' : acts.identity.hash],
    ['lasted', ms(tally.duration_us)],
    ['actors', brief(tally.actors).slice(1, -1)],
    ['requests', ends.size === 0 ? 'none ended' : [...ends].map(([outcome, count]) => `${grouped(count)} ${outcome}`).join(', ')],
    ['unexpected', `${grouped(tally.unexpected)} messages`],
  ];
  const rows = tally.types.map(({ role, type, acts: count }) => [role, type, grouped(count)]);
  return [
    file,
    ...lines.map(([name, text]) => `  ${name.padEnd(12)}${text}`),
    ...versionDifferences(header).map((text) => `  ${text}`),
    '',
    ...markdownTable([['RECEIVER', 'MESSAGE', 'STEPS'], ...rows], { align: ['', '', 'r'] }).split('\n'),
  ];
}

/** Words, in lines of a terminal's width. */
function lined(text: string): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const line = lines.at(-1);
    if (line === undefined || line.length + 1 + word.length > OPTIONS_COLUMNS) lines.push(word);
    else lines[lines.length - 1] = `${line} ${word}`;
  }
  return lines;
}

const EXAMPLES = `
Examples:
  $ minipod trace info run.trace
  $ minipod trace info run.trace --json | jq -r .hash`;
