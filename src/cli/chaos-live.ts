/** `minipod chaos live`. @module */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { chaos, LIVE_KIND_TEXTS, LIVE_KINDS, type LiveKind, type LiveReport, type StallParts, WORKER_KINDS } from '../chaos/index.ts';
import { type PodOptions, podOptionsSchema } from '../options/options.ts';
import { RECOVERIES, type Recovery } from '../protocol/recovery.ts';
import { EXIT_CODES } from './chaos-scope.ts';
import { type Column, NONE, table } from './columns.ts';
import { addFlags, givenFlags, POD_FLAGS } from './flags.ts';
import { Interrupt } from './interrupt.ts';
import { print, printJson } from './output.ts';
import { Progress } from './progress.ts';
import { positive } from './trace-arguments.ts';

type LiveFlags = {
  readonly seed: number;
  readonly strikes: number;
  readonly topology: string;
  readonly workers?: number;
  readonly recovery?: Recovery;
  readonly kinds?: readonly LiveKind[] | 'all';
  readonly json?: true;
};

function kinds(text: string): readonly LiveKind[] | 'all' {
  if (text === 'all') return text;
  const unknown = text.split(',').find((name) => !LIVE_KINDS.includes(name as LiveKind));
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no ${unknown}; there are ${LIVE_KINDS.join(', ')}, and all.`);
  return text.split(',') as LiveKind[];
}

function seed(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It is not a number from 0 on.');
  return Number(text);
}

/** As on serve. */
const KV_FLAGS = { kv_fabric: POD_FLAGS.kv_fabric, kv_transfer: POD_FLAGS.kv_transfer };

const KIND_WIDTH = Math.max(...LIVE_KINDS.map(({ length }) => length)) + 2;

export function addLiveCommand(command: Command, setExitCode: (code: number) => void): void {
  const summary = 'Breaks threads, memory and rings of a live pod under load, and checks every token.';
  const liveCommand = command.command('live');
  liveCommand
    .summary(summary)
    .description(summary)
    .addOption(new Option('--strikes <N>', 'how often a thread is struck, once in two seconds where one is lost').argParser(positive).default(20))
    .addOption(new Option('--seed <N>', 'decides what is asked, and what strikes whom').argParser(seed).default(1))
    .option('--topology <TOPOLOGY>', 'of the pod', 'colocated:dp=2')
    .addOption(new Option('--workers <N>', 'worker threads, at most one for each NPU (default: 2, or 1 for one NPU)').argParser(positive))
    .addOption(new Option('--recovery <HOW>', 'what the pod does where a worker is lost').choices(RECOVERIES))
    .addOption(
      new Option(
        '--kinds <KINDS>',
        `what strikes, in turn: some of those below, or all that the pod has something for (default: ${WORKER_KINDS.join(',')})`,
      ).argParser(kinds),
    )
    .option('--json', 'print one JSON object: {strikes, calls, tokens, losses, verdict, violations}');
  addFlags(liveCommand, 'KV:', KV_FLAGS, podOptionsSchema.shape);
  liveCommand
    .addHelpText(
      'after',
      `\nKinds, of the worker that is struck:\n${LIVE_KINDS.map((kind) => `  ${kind.padEnd(KIND_WIDTH)}${LIVE_KIND_TEXTS[kind]}`).join('\n')}`,
    )
    .action(async (flags: LiveFlags) => setExitCode(await live(flags, givenFlags(liveCommand, KV_FLAGS))));
}

type KvOptions = Pick<PodOptions, 'kv_fabric' | 'kv_transfer'>;

async function live({ json, seed, strikes, topology, workers, recovery, kinds }: LiveFlags, kv: KvOptions): Promise<number> {
  using interrupt = new Interrupt();
  using progress = new Progress(`strikes ${strikes}`);
  const options = { seed, strikes, topology, workers, recovery, kinds, ...kv };
  const report = await chaos.live({ ...options, signal: interrupt.signal, onProgress: (done, total) => progress.show(done / total) });
  progress.end();
  if (json) await printJson(report);
  else await print(`${liveLines(report, interrupt.by !== null).join('\n')}\n`);
  // Its pod closes no faster than the thread that hangs ends.
  if (interrupt.by !== null) process.exit(interrupt.exit_code);
  return EXIT_CODES[report.verdict];
}

type Row = { readonly kind: LiveKind; readonly given: number; readonly stalls: readonly number[]; readonly parts: readonly StallParts[] };
const COLUMNS: readonly Column<Row>[] = [
  ['kind', ({ kind }) => kind],
  ['given', ({ given }) => given],
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
              parts.flatMap((one) => one[part] ?? []).sort((a, b) => a - b),
              0.5,
            ),
    ],
  ),
];

function liveLines({ strikes, calls, tokens, losses, verdict, violations }: LiveReport, isBrokenOff: boolean): string[] {
  const rows = LIVE_KINDS.map((kind): Row => {
    const given = strikes.filter((strike) => strike.kind === kind);
    const struck = given.filter((strike) => strike.struck);
    return {
      kind,
      given: given.length,
      stalls: struck.map(({ stall_ms }) => stall_ms).sort((a, b) => a - b),
      parts: struck.flatMap(({ parts }) => parts ?? []),
    };
  }).filter(({ given }) => given > 0);
  const end = isBrokenOff ? 'broken off' : verdict === 'held' ? 'all held' : `it did not hold: ${verdict}`;
  return [
    ...table(rows, COLUMNS, 4),
    '',
    ...violations.map(({ verdict: how, what }) => `${how}: ${what}`),
    `${strikes.length} strikes, ${strikes.filter(({ struck }) => struck).length} of them with an effect, ${calls} calls, ${tokens} tokens, ${losses} threads lost: ${end}.`,
  ];
}

/** Of a sorted list, the smallest value that so large a share does not exceed. */
const percentile = (sorted: readonly number[], share: number): string =>
  sorted.length === 0 ? NONE : String(Math.round(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] as number));
