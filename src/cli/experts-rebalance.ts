/**
 * `minipod experts rebalance`: has a running server plan its experts' places now, and says what became of it.
 * @module
 */
import type { Command } from 'commander';
import { parseOptions } from '../options/options.ts';
import type { ExpertMove, RebalanceReport } from '../protocol/expert-maps.ts';
import { type Column, table } from './columns.ts';
import { addFlags, givenFlags, SERVER_FLAGS } from './flags.ts';
import { Interrupt } from './interrupt.ts';
import { print, printJson } from './output.ts';
import { askServer, serverSchema } from './server.ts';

/** Each state of a rebalance has a deadline, a minute at most, and a large plan has many rounds. */
const REBALANCE_MS_MAX = 600_000;
const MOVES_SHOWN = 24;
const PER_CENT = 100;

type Answer = { readonly outcomes: readonly RebalanceReport[] };
type Flags = { readonly force?: true; readonly json?: true };

export function addRebalanceCommand(experts: Command, setExitCode: (code: number) => void): void {
  const summary = 'Plans experts’ places on what a running server has routed, moves them while requests run, and says what became of it.';
  const command = experts.command('rebalance').summary(summary).description(summary);
  addFlags(command, 'Server:', SERVER_FLAGS, serverSchema.shape);
  command
    .option('--force', 'move them though the plan is predicted no better')
    .option('--json', 'print one JSON object: {outcomes: […]}, as pod.rebalance() gives them')
    .addHelpText('after', EXAMPLES)
    .action(async ({ force, json }: Flags) => {
      const server = parseOptions(serverSchema, givenFlags(command, SERVER_FLAGS), 'experts rebalance');
      using interrupt = new Interrupt();
      const ask = { body: { force: force ?? false }, answer_ms_max: REBALANCE_MS_MAX };
      const { outcomes } = JSON.parse(await askServer(server, '/admin/rebalance', interrupt.signal, ask)) as Answer;
      if (json) await printJson({ outcomes });
      else await print(`${outcomes.flatMap(linesOf).join('\n')}\n`);
      setExitCode(outcomes.some(({ outcome }) => outcome === 'rolled_back' || outcome === 'aborted' || outcome === 'refused') ? 1 : 0);
    });
}

const COLUMNS: readonly Column<ExpertMove>[] = [
  ['LAYER', ({ layer }) => layer],
  ['EXPERT', ({ expert }) => expert ?? 'none'],
  ['ONTO NPU', ({ npu }) => npu],
  ['FROM NPU', ({ source }) => source ?? '–'],
  ['IN PLACE OF', ({ replaced }) => replaced ?? 'nothing'],
];

/** Of one task executor: what became of it, what was predicted, and what moved. */
export function linesOf({ task_executor, outcome, reason, before, after, slots, epoch, moves }: RebalanceReport): string[] {
  const head = `TE ${task_executor}: ${outcome.replace('_', ' ')}, ${slots === 0 ? 'nothing moved' : `${slots} slots changed`}; ${reason}; map ${epoch}`;
  if (before === 0) return [head];
  const gain = after < before ? `, ${(PER_CENT * (1 - after / before)).toFixed(1)} % less to wait for` : '';
  const predicted = `busiest NPU over mean, a mean over layers: ${before.toFixed(3)}, then ${after.toFixed(3)} predicted${gain}`;
  const more = moves.length > MOVES_SHOWN ? [`and ${moves.length - MOVES_SHOWN} more`] : [];
  return [head, predicted, ...(moves.length > 0 ? ['', ...table(moves.slice(0, MOVES_SHOWN), COLUMNS, COLUMNS.length), ...more] : [])];
}

const EXAMPLES = `
The server has to balance its experts: minipod serve --npus 4 --expert-balancing '{"redundant_slots":8}'. Exits with 1 where a rebalance was refused or taken back.

Examples:
  $ minipod experts rebalance
  $ minipod experts rebalance --force --json | jq '.outcomes[].moves'`;
