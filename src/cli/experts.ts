/**
 * `minipod experts`: what experts do, and where they go.
 * @module
 */
import type { Command } from 'commander';
import { parseOptions } from '../options/options.ts';
import { experts, expertsOptionsSchema } from './experts-look.ts';
import { addPlanCommand } from './experts-plan.ts';
import { addRebalanceCommand } from './experts-rebalance.ts';
import { addRoutingCommand } from './experts-routing.ts';
import { addFlags, EXPERTS_FLAGS, givenFlags } from './flags.ts';

export function addExpertsCommands(program: Command, setExitCode: (code: number) => void): void {
  const summary = 'Shows what the experts of a running server do; sums up recorded routing; plans where experts go; moves them.';
  // Flags behind a subcommand's name are its own: `plan --json`. Commander asks that of all commands above.
  program.enablePositionalOptions();
  const command = program.command('experts').summary(summary).description(summary).enablePositionalOptions();
  addFlags(command, 'Server:', EXPERTS_FLAGS, expertsOptionsSchema.shape);
  command
    .option('--recent', 'tokens between the looks (on a terminal, of the last 5 s) instead of all since the pod’s start')
    .option('--once', 'print once and leave, as where there is no terminal')
    .option('--svg <FILE>', 'write the heat map there instead')
    .option('--json', 'print one JSON object, as pod.experts() gives it')
    .addHelpText('after', EXAMPLES)
    .action(async ({ once, json, recent, svg }: { once?: true; json?: true; recent?: true; svg?: string }) => {
      const options = parseOptions(expertsOptionsSchema, givenFlags(command, EXPERTS_FLAGS), 'experts');
      setExitCode(await experts({ options, once: once ?? false, json: json ?? false, recent: recent ?? false, svg }));
    });
  addRoutingCommand(command, setExitCode);
  addPlanCommand(command, setExitCode);
  addRebalanceCommand(command, setExitCode);
}

const EXAMPLES = `
A row of the map is a layer, MTP 1 the first of those that draft, a column an expert; NPUs: tokens of the busiest NPU over the mean NPU's, which is what the layer's time grows by.
Queued: tokens that wait at the NPU. Times are of batches since somebody looks; an NPU's own decode is sampled, one step in 16.

Examples:
  $ minipod experts
  $ minipod experts --url http://127.0.0.1:9000 --layer 3 --recent
  $ minipod experts --svg experts.svg
  $ minipod experts --json | jq '.task_executors[].layers[].busiest_over_mean_npu'`;
