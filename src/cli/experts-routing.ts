/**
 * `minipod experts routing`: a recorded routing in figures, as a heat map, or step by step.
 * @module
 */
import type { Command } from 'commander';
import prettyBytes from 'pretty-bytes';
import { RoutingTraceReader } from '../index.ts';
import { grouped } from '../trace/damage.ts';
import { type RoutingLoads, readLoads } from '../trace/routing-loads.ts';
import { ms } from '../trace/views/life-text.ts';
import { busiest, type HeatMap, heatLines } from './expert-heat.ts';
import { writeSvg } from './expert-svg-file.ts';
import { paper } from './experts-look.ts';
import { note, print, printJson } from './output.ts';
import { INCOMPLETE } from './trace-end.ts';

type RoutingFlags = { readonly json?: true; readonly steps?: true; readonly svg?: string };

export function addRoutingCommand(experts: Command, setExitCode: (code: number) => void): void {
  const summary = 'Sums up a recorded routing: tokens by layer and expert, in all and by phase.';
  experts
    .command('routing')
    .summary(summary)
    .description(summary)
    .argument('<file>', 'a routing trace, as --record-routing writes it')
    .option('--svg <FILE>', 'write the heat map there instead')
    .option('--steps', 'print each step, a JSON object a line, with its experts and weights')
    .option('--json', 'print one JSON object, whose logical_count is loads for `experts plan`')
    .addHelpText('after', EXAMPLES)
    .action(async (file: string, flags: RoutingFlags) => setExitCode(await (flags.steps ? steps(file) : summed(file, flags))));
}

async function summed(file: string, { json, svg }: RoutingFlags): Promise<number> {
  using reader = RoutingTraceReader.open(file);
  const loads = readLoads(reader);
  const { header, file_bytes } = reader;
  const { all, incomplete, steps, tokens, duration_us } = loads;
  if (svg !== undefined) {
    writeSvg(svg, [mapOf(file, reader, loads)]);
    note(`minipod: ${svg} is written`);
  }
  if (json) await printJson({ file, file_bytes, header, steps, tokens, duration_us, incomplete, logical_count: all });
  else if (svg === undefined) await print(`${lines(file, reader, loads).join('\n')}\n`);
  if (incomplete === null) return 0;
  note(`minipod: ${file}: ${incomplete}; what is before is counted`);
  return INCOMPLETE;
}

const mapOf = (file: string, { header }: RoutingTraceReader, { all }: RoutingLoads): HeatMap => ({
  title: `${header.model.name}, ${file}`,
  rows: all.map((loads, row) => ({ layer: String(header.layers[row] ?? row), loads, note: busiest(loads) })),
});

function lines(file: string, reader: RoutingTraceReader, loads: RoutingLoads): string[] {
  const { clock, seed, kernels, model, topology, npus, layers, experts, top_k, code_version } = reader.header;
  const { prefill, decode } = loads.tokens;
  const all = prefill + decode;
  const facts: readonly (readonly [string, string])[] = [
    ['run', `${clock} clock${seed === null ? '' : `, seed ${seed}`}, ${kernels} kernels, by minipod ${code_version}`],
    ['model', `${model.name}, digest ${model.digest.slice(0, 16)}…: top ${top_k} of ${experts} experts in ${layers.length} layers`],
    ['pod', `${topology}, ${npus} NPUs`],
    [
      'tokens',
      `${grouped(all)} routed: ${grouped(prefill)} in prefill, ${grouped(decode)} in decode; ${grouped(loads.steps)} steps, over ${ms(loads.duration_us)}`,
    ],
    ['file', `${prettyBytes(reader.file_bytes, { binary: true })}${all === 0 ? '' : `, ${(reader.file_bytes / all).toFixed(1)} B a token`}`],
  ];
  return [file, ...facts.map(([name, text]) => `  ${name.padEnd(8)}${text}`), '', ...heatLines(mapOf(file, reader, loads), paper()).slice(1)];
}

async function steps(file: string): Promise<number> {
  using reader = RoutingTraceReader.open(file);
  const all = reader.steps();
  for (const { experts, weights, ...step } of all) await printJson({ ...step, experts: [...experts], weights: [...weights] });
  const incomplete = all.damage?.message ?? all.stopped;
  if (incomplete === null) return 0;
  note(`minipod: ${file}: ${incomplete}; what is before was printed`);
  return INCOMPLETE;
}

const EXAMPLES = `
Exit code 3: the trace is damaged, unfinished, or recording stopped before the run did.

Examples:
  $ minipod generate "Once upon a time" --npus 4 --record-routing run.routing
  $ minipod experts routing run.routing
  $ minipod experts plan run.routing --ranks 4 --slots 40
  $ minipod experts routing run.routing --steps | jq -c '{npu, step, spans}'`;
