/**
 * `minipod replay`: feeds a recorded run to the actors again and says whether they decide as they did, or names the first that does not.
 * @module
 */
import type { Command } from 'commander';
import { grouped } from '../trace/damage.ts';
import { KernelRecomputation } from '../trace/recompute.ts';
import { type ReplayReport, replayTrace } from '../trace/replay-trace.ts';
import { parseRunHeader, promptsOf, type RunHeader } from '../trace/run-header.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { ms } from '../trace/views/life-text.ts';
import { divergenceLines } from './divergence-text.ts';
import { print, printJson } from './output.ts';
import { INCOMPLETE } from './trace-end.ts';
import { TraceProgress } from './trace-progress.ts';
import { UsageError } from './usage-error.ts';

const EXIT_CODES: Readonly<Record<ReplayReport['outcome'], number>> = { reproduced: 0, diverged: 1, incomplete: INCOMPLETE };

type ReplayFlags = { readonly model?: string; readonly compute: boolean; readonly recordRouting?: string; readonly json?: true };

export function addReplayCommand(program: Command, setExitCode: (code: number) => void): void {
  const summary = 'Replays a recorded run, and says whether everything was decided as it was then.';
  program
    .command('replay')
    .summary(summary)
    .description(`${summary} Where it was not, names the first message that made the difference.`)
    .argument('<file>', 'a trace')
    .option('--no-compute', 'take what the kernels found as recorded, rather than compute it again')
    .option('--record-routing <FILE>', 'record which experts each token of the run went to, as `minipod experts routing` reads it')
    .option('--model <NAME_OR_DIR>', 'where the model of the run is (default: the shipped one of its name)')
    .option('--json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action(async (file: string, flags: ReplayFlags) => setExitCode(await replay(file, flags)));
}

async function replay(file: string, { model, compute, recordRouting, json }: ReplayFlags): Promise<number> {
  if (recordRouting !== undefined && !compute) throw new UsageError('--record-routing needs the kernels: leave --no-compute out');
  using reader = TraceReader.open(file);
  const header = parseRunHeader(reader.header, file);
  if (recordRouting !== undefined && promptsOf(header) === 'redacted')
    throw new UsageError('--record-routing needs the kernels, and the prompts that they compute from were left out of this trace');
  const recompute = compute && promptsOf(header) === 'recorded' ? await loadKernels(header, model, recordRouting) : null;
  const report = await withProgress(file, reader, header, recompute);
  recompute?.closeRouting(report.outcome === 'reproduced');
  await (json ? printJson({ file, ...report }) : print(`${reportLines(file, header, report).join('\n')}\n`));
  return EXIT_CODES[report.outcome];
}

async function loadKernels(header: RunHeader, model: string | undefined, routing: string | undefined): Promise<KernelRecomputation> {
  using progress = new TraceProgress(`loading ${model ?? header.model.name}`, 1);
  return await KernelRecomputation.create(header, model, async ({ loaded_bytes, total_bytes }) => progress.show(loaded_bytes / total_bytes), routing);
}

async function withProgress(file: string, reader: TraceReader, header: RunHeader, recompute: KernelRecomputation | null): Promise<ReplayReport> {
  using progress = new TraceProgress(`replaying ${file}`, reader.file_bytes);
  return await replayTrace(reader, header, { recompute, pause: progress.pause });
}

function reportLines(file: string, header: RunHeader, report: ReplayReport): string[] {
  const { outcome, divergence, damage, stopped, missing, differences } = report;
  const verdict = { reproduced: 'the same', diverged: 'diverged', incomplete: 'the same as far as it can be replayed' }[outcome];
  return [
    `${file}: ${verdict}: ${countsText(header, report)}`,
    ...differences,
    ...(damage === null ? [] : [damage.message]),
    ...(stopped === null ? [] : [`recording ended before the run did: ${stopped}`]),
    ...(missing === null ? [] : [missing]),
    ...(divergence === null ? [] : ['', ...divergenceLines(divergence)]),
  ];
}

function countsText(header: RunHeader, { acts, launches, duration_us }: ReplayReport): string {
  const kernels =
    launches === null
      ? `kernels not computed${promptsOf(header) === 'redacted' ? ', since its prompts were left out' : ''}`
      : `${grouped(launches)} launches computed again`;
  return `${grouped(acts)} acts over ${ms(duration_us)}, ${kernels}`;
}

const HELP = `
Exit codes: 0 the same, 1 diverged, 2 wrong usage or not a trace, 3 damaged or unfinished, or acts are missing (what can be replayed is the same).

Examples:
  $ minipod serve --record run.trace
  $ minipod replay run.trace
  $ minipod replay run.trace --no-compute --json | jq .divergence
  $ minipod replay run.trace --model ./my-model
  $ minipod replay run.trace --record-routing run.routing`;
