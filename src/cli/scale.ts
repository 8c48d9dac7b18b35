/**
 * `minipod scale`: changes how many DP groups of a running server serve.
 * @module
 */
import type { Command } from 'commander';
import * as z from 'zod';
import { parseOptions } from '../options.ts';
import { addFlags, givenFlags, SCALE_FLAGS } from './flags.ts';
import { Interrupt } from './interrupt.ts';
import { printJson, printLine } from './output.ts';
import { askServer, serverSchema } from './server.ts';

/** A change may take half a minute before it is given up, and as long to be undone. */
const CHANGE_MS_MAX = 90_000;

export const scaleOptionsSchema = serverSchema.extend({ attention: z.int().min(1).optional(), experts: z.int().min(1).optional() });

type Changed = { readonly attention: number; readonly was: number; readonly duration_ms: number };

export function addScaleCommand(program: Command, setExitCode: (code: number) => void): void {
  const summary = 'Changes how many DP groups of a running server serve, while requests run.';
  const command = program.command('scale').summary(summary).description(summary);
  addFlags(command, 'Server:', SCALE_FLAGS, scaleOptionsSchema.shape);
  command
    .option('--json', 'print one JSON object: {attention, was, duration_ms}')
    .addHelpText('after', EXAMPLES)
    .action(async ({ json }: { json?: true }) => {
      const { attention, experts, ...server } = parseOptions(scaleOptionsSchema, givenFlags(command, SCALE_FLAGS), 'scale');
      using interrupt = new Interrupt();
      const ask = { body: { attention, experts }, answer_ms_max: CHANGE_MS_MAX };
      const changed = JSON.parse(await askServer(server, '/admin/scale', interrupt.signal, ask)) as Changed;
      if (json) await printJson(changed);
      else await printLine(`${changed.attention} DP groups serve; before, ${changed.was} did. It took ${changed.duration_ms.toFixed(1)} ms.`);
      setExitCode(0);
    });
}

const EXAMPLES = `
The server has to keep room for it: minipod serve --npus 2 --scale-max attention=4. Who runs on a group that is to stand by goes on in another.

Examples:
  $ minipod scale --attention 4
  $ minipod scale --attention 2 --url http://127.0.0.1:9000 --json`;
