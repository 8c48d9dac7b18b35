/**
 * `minipod chaos`: breaks a virtual pod on purpose, and checks what must hold. Exit codes: 0 all held, 3 lost progress, 4 a crash, 5 a wrong result; of several
 * the highest. 1: it could not be told, 2: wrong usage.
 * @module
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type ChaosPlan, chaos, FAULT_KINDS, KIND_TERMS, REAL_KERNELS, RECOVERIES, SHRINKING_RUNS_MAX, type Shrunk, TOPOLOGIES } from '../chaos/index.ts';
import { campaign } from './chaos-campaign.ts';
import { addLiveCommand } from './chaos-live.ts';
import { EXIT_CODES, type ScopeFlags, scopeOf } from './chaos-scope.ts';
import { faultLines, runLines } from './chaos-tables.ts';
import { print, printJson } from './output.ts';
import { Progress } from './progress.ts';
import { positive } from './trace-arguments.ts';
import { UsageError } from './usage-error.ts';

const names =
  (known: readonly string[]) =>
  (text: string): string[] => {
    const given = text.split(',');
    const unknown = given.find((name) => !known.includes(name));
    if (unknown !== undefined) throw new InvalidArgumentError(`There is no ${unknown}; there are ${known.join(', ')}.`);
    return given;
  };

function seedRange(text: string): { first: number; last: number } {
  const [, first = '', last = first] = /^(\d{1,12})(?:\.\.(\d{1,12}))?$/.exec(text) ?? [];
  if (first === '' || Number(last) < Number(first)) throw new InvalidArgumentError('It is not like 1..1000.');
  return { first: Number(first), last: Number(last) };
}

function share(text: string): number {
  if (!/^(?:0|1|0?\.\d{1,6})$/.test(text)) throw new InvalidArgumentError('It is not a share from 0 to 1.');
  return Number(text);
}

const addScope = (command: Command): Command =>
  command
    .addOption(new Option('--topology <NAMES>', `draw pods of these: ${TOPOLOGIES.join(', ')} (default: all)`).argParser(names(TOPOLOGIES)))
    .addOption(new Option('--faults <KINDS>', 'draw faults of these (default: all; minipod chaos kinds)').argParser(names(FAULT_KINDS)))
    .addOption(
      new Option('--recoveries <NAMES>', `draw pods that go on so when somebody is lost: ${RECOVERIES.join(', ')} (default: all)`).argParser(names(RECOVERIES)),
    )
    .addOption(
      new Option(
        '--real-kernels <SHARE>',
        `of the pods that seeds draw, so many compute with the model itself, all others with the hash model (default: ${REAL_KERNELS})`,
      ).argParser(share),
    );

export function addChaosCommands(program: Command, setExitCode: (code: number) => void): void {
  const summary = 'Breaks virtual pods on purpose, from a plan or from seeds, and checks what must hold; shrinks what breaks it.';
  program.enablePositionalOptions();
  const command = program
    .command('chaos')
    .summary('Breaks virtual pods on purpose, and checks what must hold.')
    .description(summary)
    .addHelpText('after', EXAMPLES);
  addScope(command.command('run').summary('Runs one plan, or the plan of a seed.').description('Runs one plan, or the plan of a seed, which it prints first.'))
    .argument('<plan>', 'a YAML or JSON file, a seed, or the plan itself, {…}')
    .option('--record <FILE>', 'record the run in this trace, and in another one beside it where the control thread is lost')
    .option('--json', 'print one JSON object: {plan, verdict, violations, faults, calls, events, virtual_ms, traces}')
    .action(async (name: string, flags: ScopeFlags & { readonly record?: string }) => setExitCode(await runOne(name, flags)));
  addScope(command.command('campaign').summary('Runs many seeds.').description('Runs many seeds, and sums up which faults took effect when.'))
    .addOption(new Option('--seeds <RANGE>', 'such as 1..1000').argParser(seedRange).makeOptionMandatory())
    .addOption(new Option('--jobs <N>', 'threads').argParser(positive).default(1))
    .addOption(new Option('--failures-max <N>', 'end when so many seeds have failed (default: go through them all)').argParser(positive))
    .option('--canary', 'plant a bug in the seeds after these, which must be found there; exit code 1: it was not')
    .option('--junit <FILE>', 'write a JUnit report there')
    .option('--traces <DIR>', 'where the traces of failing seeds go, five at most', '.')
    .option(
      '--json',
      'print one JSON object: {runs, verdicts, failures, coverage, calls, events, real_kernels, topologies, faults_a_run, recoveries, canary, seconds, cpu_seconds}',
    )
    .action(async (flags: ScopeFlags & Parameters<typeof campaign>[0]) => setExitCode(await campaign(flags)));
  addScope(command.command('shrink').summary('Makes a failing plan, or a failing seed’s, as small as it can.'))
    .argument('<plan>', 'a YAML or JSON file, a seed, or the plan itself, {…}')
    .option('--json', 'print one JSON object: {plan, verdict, violations, runs}')
    .action(async (name: string, flags: ScopeFlags) => setExitCode(await shrinkOne(name, flags)));
  addLiveCommand(command, setExitCode);
  command
    .command('kinds')
    .summary('Lists the kinds of faults, with the phases of each, and how a pod survives it.')
    .option('--json', 'print a JSON array')
    .action(async ({ json }: { json?: true }) => {
      if (json) await printJson(FAULT_KINDS.map((kind) => ({ kind, ...KIND_TERMS[kind] })));
      else await print(`${faultLines().join('\n')}\n`);
    });
}

function planNamed(name: string, flags: ScopeFlags): ChaosPlan {
  if (/^\d+$/.test(name)) return chaos.planOf(Number(name), scopeOf(flags));
  if (Object.values(scopeOf(flags)).some((given) => given !== undefined))
    throw new UsageError('--topology, --faults, --recoveries and --real-kernels are for seeds: a plan says itself what it is');
  return name.startsWith('{') ? chaos.parsePlan(name) : chaos.readPlan(name);
}

async function runOne(name: string, flags: ScopeFlags & { readonly record?: string }): Promise<number> {
  const plan = planNamed(name, flags);
  if (!flags.json) await print(`${JSON.stringify(plan)}\n\n`);
  const report = await chaos.run(plan, flags.record === undefined ? {} : { record: flags.record });
  if (flags.json) await printJson({ plan, ...report });
  else await print(`${runLines(plan, report).join('\n')}\n`);
  return EXIT_CODES[report.verdict];
}

async function shrinkOne(name: string, flags: ScopeFlags): Promise<number> {
  const plan = planNamed(name, flags);
  using progress = new Progress(`shrinking ${name}`);
  const shrunk: Shrunk = await chaos.shrink(plan, (runs) => progress.show(Math.min(1, runs / SHRINKING_RUNS_MAX)));
  progress.end();
  const { report, runs } = shrunk;
  if (flags.json) await printJson({ plan: shrunk.plan, verdict: report.verdict, violations: report.violations, runs });
  else if (report.verdict === 'held') await print(`The plan of ${name} holds: there is nothing to shrink.\n`);
  else {
    const smaller = `${shrunk.plan.faults.length} of ${plan.faults.length} faults, ${shrunk.plan.calls.length} of ${plan.calls.length} calls are left after ${runs} runs`;
    await print(
      `${JSON.stringify(shrunk.plan)}\n\n${smaller}.\n\n${runLines(shrunk.plan, report).join('\n')}\n\nThis repeats it:\n  ${commandOf(shrunk.plan)}\n`,
    );
  }
  return EXIT_CODES[report.verdict];
}

/** For a shell to read. */
const commandOf = (plan: ChaosPlan): string => `minipod chaos run '${JSON.stringify(plan).replaceAll("'", "'\\''")}'`;

const EXAMPLES = `
A seed stands for a whole plan: pod, calls, faults, and the interleaving. Exit codes: 0 all held, 2 a plan that is refused, 3 lost progress, 4 a crash,
5 a wrong result; campaign --canary: 1 a planted bug that was not found.

Examples:
  $ minipod chaos campaign --seeds 1..1000 --jobs 2
  $ minipod chaos run 417
  $ minipod chaos shrink 417 --json | jq .plan > small.json && minipod chaos run small.json
  $ minipod chaos campaign --seeds 1..200 --topology prefill-decode --faults worker-lost,link-cut --junit chaos.xml`;
