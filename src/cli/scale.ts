/**
 * `minipod scale`: changes how many DP groups of a running server serve, and how many NPUs have its experts.
 * @module
 */
import type { Command } from 'commander';
import { parseOptions } from '../options/options.ts';
import { scaleSchema } from '../options/scale-options.ts';
import type { ScaleReport, ServingShape } from '../stats.ts';
import { addFlags, givenFlags, SCALE_FLAGS } from './flags.ts';
import { Interrupt } from './interrupt.ts';
import { printJson, printLine } from './output.ts';
import { askServer, serverSchema } from './server.ts';

/** As long as a change may take it may take to be undone; and some more. */
const REVERT_SHARE = 2;
const MARGIN_MS = 30_000;

export const scaleOptionsSchema = serverSchema.extend(scaleSchema.shape);

const shapeText = ({ attention, experts }: ServingShape): string =>
  `${attention} DP ${attention === 1 ? 'group' : 'groups'}${experts === null ? '' : ` and ${experts} expert ${experts === 1 ? 'NPU' : 'NPUs'}`}`;

export function addScaleCommand(program: Command, setExitCode: (code: number) => void): void {
  const summary = 'Changes how many DP groups and expert NPUs of a running server serve, while requests run.';
  const command = program.command('scale').summary(summary).description(summary);
  addFlags(command, 'Server:', SCALE_FLAGS, scaleOptionsSchema.shape);
  command
    .option('--json', 'print one JSON object: {attention, experts, was, duration_ms}')
    .addHelpText('after', EXAMPLES)
    .action(async ({ json }: { json?: true }) => {
      const { attention, experts, executor, deadline_ms, ...server } = parseOptions(scaleOptionsSchema, givenFlags(command, SCALE_FLAGS), 'scale');
      using interrupt = new Interrupt();
      const ask = { body: { attention, experts, executor, deadline_ms }, answer_ms_max: REVERT_SHARE * deadline_ms + MARGIN_MS };
      const changed = JSON.parse(await askServer(server, '/admin/scale', interrupt.signal, ask)) as ScaleReport;
      if (json) await printJson(changed);
      else if (attention === undefined && experts === undefined) await printLine(`${shapeText(changed)} serve.`);
      else await printLine(`${shapeText(changed)} serve; before, ${shapeText(changed.was)} did. It took ${changed.duration_ms.toFixed(1)} ms.`);
      setExitCode(0);
    });
}

const EXAMPLES = `
The server has to keep room for it: minipod serve --npus 2 --scale-max attention=4. Who runs on a group that is to stand by goes on in another.
Where experts are apart their number of NPUs changes too, by copies of their weights: --topology moe-attention:domains=1x2,experts=2 --scale-max experts=4.
Without --attention and --experts nothing changes: it says what serves.

Examples:
  $ minipod scale --attention 4
  $ minipod scale --experts 2
  $ minipod scale --attention 2 --url http://127.0.0.1:9000 --json`;
