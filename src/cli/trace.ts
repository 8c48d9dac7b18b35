/**
 * `minipod trace`: what a recorded run was, told from its trace.
 * @module
 */
import type { Command } from 'commander';
import { addCutCommand } from './trace-cut.ts';
import { addDiffCommand } from './trace-diff.ts';
import { addExplainCommand } from './trace-explain.ts';
import { addExportCommand } from './trace-export.ts';
import { addInfoCommand } from './trace-info.ts';
import { addLsCommand } from './trace-ls.ts';
import { addOpenCommand } from './trace-open.ts';
import { addShowCommand } from './trace-show.ts';

export function addTraceCommands(program: Command, setExitCode: (code: number) => void): void {
  const summary = 'Asks a recorded run what happened: who said what to whom, why, and what came of it.';
  const trace = program.command('trace').summary(summary).description(summary).addHelpText('after', HELP);
  addInfoCommand(trace, setExitCode);
  addLsCommand(trace, setExitCode);
  addShowCommand(trace, setExitCode);
  addOpenCommand(trace, setExitCode);
  addExplainCommand(trace, setExitCode);
  addDiffCommand(trace, setExitCode);
  addCutCommand(trace, setExitCode);
  addExportCommand(trace, setExitCode);
}

const HELP = `
A step is one message delivered to one actor, and what came of it; steps are numbered from 0 in the order of the file.
Exit codes: 0 done, 1 different (diff), 2 wrong usage or not a trace, 3 damaged or unfinished: what is before the damage is told.

Examples:
  $ minipod trace info run.trace
  $ minipod trace explain run.trace --slowest
  $ minipod trace ls run.trace --actor request/7
  $ minipod trace show run.trace 1234`;
