/** `minipod chaos live`. @module */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { chaos, LIVE_KINDS, type LiveKind, type LiveReport, type StallParts } from '../chaos/index.ts';
import { RECOVERIES, type Recovery } from '../protocol/recovery.ts';
import { EXIT_CODES } from './chaos-scope.ts';
import { type Column, NONE, table } from './columns.ts';
import { Interrupt } from './interrupt.ts';
import { print, printJson } from './output.ts';
import { Progress } from './progress.ts';
import { positive } from './trace-arguments.ts';

type LiveFlags = {
  readonly seed: number;
  readonly strikes: number;
  readonly topology: string;
  readonly workers: number;
  readonly recovery?: Recovery;
  readonly kinds?: LiveKind[];
  readonly json?: true;
};

function kinds(text: string): LiveKind[] {
  const unknown = text.split(',').find((name) => !LIVE_KINDS.includes(name as LiveKind));
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no ${unknown}; there are ${LIVE_KINDS.join(', ')}.`);
  return text.split(',') as LiveKind[];
}

function seed(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It is not a number from 0 on.');
  return Number(text);
}

export function addLiveCommand(command: Command, setExitCode: (code: number) => void): void {
  const summary = 'Kills and hangs worker threads of a live pod under load, and checks every token.';
  command
    .command('live')
    .summary(summary)
    .description(summary)
    .addOption(new Option('--strikes <N>', 'how often a thread is struck, once in two seconds').argParser(positive).default(20))
    .addOption(new Option('--seed <N>', 'decides what is asked, and what strikes whom').argParser(seed).default(1))
    .option('--topology <TOPOLOGY>', 'of the pod', 'colocated:dp=2')
    .addOption(new Option('--workers <N>', 'worker threads').argParser(positive).default(2))
    .addOption(new Option('--recovery <HOW>', 'what the pod does where a worker is lost').choices(RECOVERIES))
    .addOption(new Option('--kinds <KINDS>', `of ${LIVE_KINDS.join(', ')} (default: all, in turn)`).argParser(kinds))
    .option('--json', 'print one JSON object: {strikes, calls, tokens, losses, verdict, violations}')
    .action(async (flags: LiveFlags) => setExitCode(await live(flags)));
}

async function live({ json, ...options }: LiveFlags): Promise<number> {
  using interrupt = new Interrupt();
  using progress = new Progress(`strikes ${options.strikes}`);
  const report = await chaos.live({ ...options, signal: interrupt.signal, onProgress: (done, total) => progress.show(done / total) });
  progress.end();
  if (json) await printJson(report);
  else await print(`${liveLines(report, interrupt.by !== null).join('\n')}\n`);
  // Its pod closes no faster than the thread that hangs ends.
  if (interrupt.by !== null) process.exit(interrupt.exit_code);
  return EXIT_CODES[report.verdict];
}

type Row = { readonly kind: LiveKind; readonly stalls: readonly number[]; readonly parts: readonly StallParts[] };
const COLUMNS: readonly Column<Row>[] = [
  ['kind', ({ kind }) => kind],
  ['struck', ({ stalls }) => stalls.length],
  ['stall p50 ms', ({ stalls }) => percentile(stalls, 0.5)],
  ['p99 ms', ({ stalls }) => percentile(stalls, 0.99)],
  ['longest ms', ({ stalls }) => percentile(stalls, 1)],
  ...(['found', 'end', 'release', 'start', 'resume'] as const).map(
    (part): Column<Row> => [
      part,
      ({ parts }) =>
        parts.length === 0
          ? NONE
          : percentile(
              parts.map((one) => one[part]).sort((a, b) => a - b),
              0.5,
            ),
    ],
  ),
];

function liveLines({ strikes, calls, tokens, losses, verdict, violations }: LiveReport, isBrokenOff: boolean): string[] {
  const rows = LIVE_KINDS.map((kind): Row => {
    const struck = strikes.filter((strike) => strike.kind === kind && strike.struck);
    return { kind, stalls: struck.map(({ stall_ms }) => stall_ms).sort((a, b) => a - b), parts: struck.flatMap(({ parts }) => parts ?? []) };
  }).filter(({ stalls }) => stalls.length > 0);
  const end = isBrokenOff ? 'broken off' : verdict === 'held' ? 'all held' : `it did not hold: ${verdict}`;
  return [
    ...table(rows, COLUMNS, 4),
    '',
    ...violations.map(({ verdict: how, what }) => `${how}: ${what}`),
    `${strikes.length} strikes, ${calls} calls, ${tokens} tokens, ${losses} threads lost: ${end}.`,
  ];
}

/** Of a sorted list, the smallest value that so large a share does not exceed. */
const percentile = (sorted: readonly number[], share: number): string =>
  String(Math.round(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] as number));
