/**
 * `minipod trace export`: a trace as other tools and a browser show it.
 * @module
 */
import { basename } from 'node:path';
import { type Command, Option } from 'commander';
import { MinipodError } from '../index.ts';
import { address } from '../protocol/address.ts';
import { callOf } from '../protocol/request-ids.ts';
import { type Acts, actsOf } from '../trace/acts.ts';
import { inCausalOrder } from '../trace/causal-order.ts';
import { grouped } from '../trace/damage.ts';
import { parseRunHeader, type RunHeader } from '../trace/run-header.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { mermaidLines, RequestMessages } from '../trace/views/mermaid.ts';
import { PAGE_ACTS_MAX, PageCollector } from '../trace/views/page/data.ts';
import { pageHtml } from '../trace/views/page/html.ts';
import { PerfettoEvents } from '../trace/views/perfetto.ts';
import { isCalled, type RequestLife } from '../trace/views/request-life.ts';
import { RequestLives } from '../trace/views/request-lives.ts';
import { ExportOutput } from './export-output.ts';
import { note } from './output.ts';
import { traceCommand } from './trace-arguments.ts';
import { noteEnd } from './trace-end.ts';
import { requestId } from './trace-explain.ts';
import { TraceProgress } from './trace-progress.ts';
import { UsageError } from './usage-error.ts';

type ExportFlags = { readonly perfetto?: true; readonly html?: true; readonly mermaid?: number; readonly out?: string; readonly overwrite?: true };
type Source = { readonly file: string; readonly reader: TraceReader; readonly header: RunHeader; readonly acts: Acts; readonly progress: TraceProgress };

export function addExportCommand(trace: Command, setExitCode: (code: number) => void): void {
  const summary = 'Writes a trace as Perfetto opens it, as a page for a browser, or a request as a sequence diagram.';
  traceCommand(trace, 'export', summary)
    .addOption(new Option('--perfetto', 'trace events, for ui.perfetto.dev or chrome://tracing').conflicts(['html', 'mermaid']))
    .addOption(new Option('--html', 'a page that needs nothing else: lanes of NPUs and requests, messages, search').conflicts('mermaid'))
    .addOption(new Option('--mermaid <REQUEST>', 'a sequence diagram of one request, such as request/7').argParser(requestId))
    .option('--out <FILE>', 'where to (default: standard output)')
    .option('--overwrite', 'replace what is at --out')
    .addHelpText('after', EXAMPLES)
    .action((file: string, flags: ExportFlags) => exportTrace(file, flags, setExitCode));
}

async function exportTrace(file: string, flags: ExportFlags, setExitCode: (code: number) => void): Promise<void> {
  const write = writerOf(flags);
  if (write === null) throw new UsageError('export: say how: --perfetto, --html or --mermaid REQUEST');
  using reader = TraceReader.open(file);
  const header = parseRunHeader(reader.header, file);
  const acts = actsOf(reader);
  using progress = new TraceProgress(`exporting ${file}`, reader.file_bytes);
  using output = new ExportOutput({ out: flags.out ?? null, overwrite: flags.overwrite ?? false, source: file });
  await write({ file, reader, header, acts, progress }, output);
  noteEnd(file, acts, 'was exported', setExitCode);
}

type Write = (source: Source, output: ExportOutput) => Promise<void>;

function writerOf({ perfetto, html, mermaid }: ExportFlags): Write | null {
  if (perfetto) return writePerfetto;
  if (mermaid !== undefined) return (source, output) => writeMermaid(source, output, mermaid);
  return html ? writePage : null;
}

/** As it is read: memory does not grow with the trace. */
async function writePerfetto({ header, acts, progress }: Source, output: ExportOutput): Promise<void> {
  const events = new PerfettoEvents(header);
  let isFirst = true;
  const flush = async (): Promise<void> => {
    const lines = events.takeLines();
    if (lines.length === 0) return;
    await output.write(`${isFirst ? '' : ',\n'}${lines.join(',\n')}`);
    isFirst = false;
  };
  await output.write('{"displayTimeUnit":"ms","traceEvents":[\n');
  for (const traced of inCausalOrder(acts)) {
    const waiting = progress.pause(traced.offset);
    if (waiting) await waiting;
    events.feed(traced);
    if (events.lines >= LINES_PER_WRITE) await flush();
  }
  events.end();
  await flush();
  await output.write(`\n],"otherData":${JSON.stringify(header)}}\n`);
}

const LINES_PER_WRITE = 512;

async function writeMermaid({ file, header, acts, progress }: Source, output: ExportOutput, request: number): Promise<void> {
  const messages = new RequestMessages(request);
  const name = address('request', request);
  const lives = new RequestLives(header.options, { keepsEvents: (id) => callOf(id) === callOf(request) });
  let life: RequestLife | null = null;
  let last_us = 0;
  for (const { act, offset } of inCausalOrder(acts)) {
    const waiting = progress.pause(offset);
    if (waiting) await waiting;
    last_us = Math.max(last_us, act.time_us);
    messages.feed(act);
    const ended = lives.feed(act);
    if (ended === null || !isCalled(ended, name)) continue;
    life = ended;
    break;
  }
  life ??= lives.unfinished(last_us).find((open) => isCalled(open, name)) ?? null;
  if (life === null)
    throw new MinipodError('invalid_request', `${name} is not in ${file}; minipod trace explain ${file} --slowest says which are`, { param: 'mermaid' });
  await output.write(`${mermaidLines(life, messages).join('\n')}\n`);
}

async function writePage({ file, header, acts, progress }: Source, output: ExportOutput): Promise<void> {
  const collector = new PageCollector(header);
  let left_out = false;
  for (const traced of inCausalOrder(acts)) {
    const waiting = progress.pause(traced.offset);
    if (waiting) await waiting;
    left_out = collector.acts === PAGE_ACTS_MAX;
    if (left_out) break;
    collector.feed(traced);
  }
  const { clock, seed, kernels, model, npus, workers } = header;
  const facts = [
    model.name,
    `${clock} clock${seed === null ? '' : `, seed ${seed}`}`,
    `${kernels} kernels`,
    `${npus} NPUs on ${workers} workers`,
    `${grouped(collector.acts)} messages`,
  ];
  if (left_out) note(`minipod: ${file}: ${TOO_LONG}`);
  await output.write(pageHtml(collector.end({ title: basename(file), facts, damage: left_out ? TOO_LONG : missingOf(acts) })));
}

const missingOf = ({ damage, stopped }: Acts): string | null => damage?.message ?? (stopped === null ? null : `recording ended before the run did: ${stopped}`);

const TOO_LONG = `a page holds ${grouped(PAGE_ACTS_MAX)} acts, and this is the beginning; \`minipod trace cut\` makes a part of the rest, such as --since and --until`;

const EXAMPLES = `
A page holds up to ${grouped(PAGE_ACTS_MAX)} acts; \`minipod trace cut\` makes a part of a longer trace. The others take traces of any length.

Examples:
  $ minipod trace export run.trace --perfetto --out run.json
  $ minipod trace export run.trace --html --out run.html
  $ minipod trace export run.trace --mermaid request/7 > request-7.mmd`;
