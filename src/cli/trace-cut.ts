/**
 * `minipod trace cut`: a part of a trace that still replays.
 * @module
 */
import type { Command } from 'commander';
import { type Address, address } from '../protocol/address.ts';
import { type CutReport, cutTrace } from '../trace/cut-trace.ts';
import { grouped } from '../trace/damage.ts';
import { parseRunHeader } from '../trace/run-header.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { note, print, printJson } from './output.ts';
import { addWindowFlags, traceCommand, type WindowFlags, windowOf } from './trace-arguments.ts';
import { INCOMPLETE } from './trace-end.ts';
import { requestId } from './trace-explain.ts';
import { TraceProgress } from './trace-progress.ts';
import { UsageError } from './usage-error.ts';

type CutFlags = WindowFlags & { readonly request?: readonly Address[]; readonly overwrite?: true; readonly json?: true };

export function addCutCommand(trace: Command, setExitCode: (code: number) => void): void {
  const summary = 'Cuts out a part that still replays: the actors that act within it, each from its beginning.';
  const command = traceCommand(trace, 'cut', summary)
    .argument('<out>', 'the part, a trace too')
    .option('--request <REQUEST>', 'only this request, what works for it and where, such as request/7; may be given more than once', requests);
  addWindowFlags(command);
  command
    .option('--overwrite', 'replace what is at <out>')
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXAMPLES)
    .action(async (file: string, out: string, flags: CutFlags) => setExitCode(await cut(file, out, flags)));
}

const requests = (text: string, earlier: readonly Address[] = []): readonly Address[] => [...earlier, address('request', requestId(text))];

async function cut(file: string, out: string, flags: CutFlags): Promise<number> {
  const window = { ...windowOf(flags), requests: flags.request ?? [] };
  if (window.from === null && window.to === null && window.requests.length === 0)
    throw new UsageError('cut: say which part: --from and --to (steps), --since and --until (milliseconds), or --request');
  using reader = TraceReader.open(file);
  parseRunHeader(reader.header, file);
  const report = await withProgress(file, reader, out, window, flags.overwrite ?? false);
  const { acts, acts_before, actors, damage } = report;
  await (flags.json ? printJson({ file: out, ...report }) : print(`${out}: ${grouped(acts)} of ${grouped(acts_before)} acts, of ${grouped(actors)} actors\n`));
  if (damage === null) return 0;
  note(`minipod: ${file}: ${damage.message}; what is before was cut`);
  return INCOMPLETE;
}

async function withProgress(file: string, reader: TraceReader, out: string, window: Parameters<typeof cutTrace>[2], overwrite: boolean): Promise<CutReport> {
  // It is read twice, with --request three times.
  using progress = new TraceProgress(`cutting ${file}`, reader.file_bytes);
  return await cutTrace(reader, out, window, { overwrite, pause: progress.pause });
}

const EXAMPLES = `
Examples:
  $ minipod trace cut run.trace part.trace --request request/7
  $ minipod trace cut run.trace part.trace --since 100 --until 150
  $ minipod replay part.trace`;
