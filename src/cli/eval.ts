/**
 * `minipod eval`: how well a model foresees a text, and how far its predictions are from another model's.
 * @module
 */
import type { Command } from 'commander';
import { Option } from 'commander';
import { readText } from '../fidelity/text-windows.ts';
import { type Divergence, divergenceOf, type LayerError, type Perplexity, type PodOptions, perplexityOf, type WorstToken } from '../index.ts';
import { parseOptions, podOptionsSchema } from '../options/options.ts';
import { numericsOf } from '../protocol/numerics.ts';
import { type Column, table } from './columns.ts';
import { addFlags, givenFlags, POD_FLAGS } from './flags.ts';
import { Interrupt } from './interrupt.ts';
import { openPod } from './open-pod.ts';
import { print, printJson } from './output.ts';
import { Progress } from './progress.ts';
import { positive } from './trace-arguments.ts';
import { UsageError } from './usage-error.ts';

type EvalFlags = {
  readonly text: string;
  readonly against?: string;
  readonly layers?: true;
  readonly worst?: number;
  readonly window?: number;
  readonly stride?: number;
  readonly skipTokens?: number;
  readonly maxTokens?: number;
  readonly json?: true;
};

const { model: _model, ...SERVING_FLAGS } = POD_FLAGS;

export function addEvalCommand(program: Command, setExitCode: (code: number) => void): void {
  const summary = 'Measures how well a model foresees a text: perplexity and bits per byte; against another model, how far their predictions are apart.';
  const command = program
    .command('eval')
    .summary('Measures how well a model foresees a text, and how far it is from another model.')
    .description(summary)
    .argument('[model]', 'a shipped model, or a folder in the Hugging Face layout', podOptionsSchema.shape.model.parse(undefined))
    .addOption(new Option('--text <FILE>', 'the text, in UTF-8').makeOptionMandatory())
    .addOption(new Option('--window <N>', 'tokens that the model sees at once (default: its context length, less one)').argParser(positive))
    .addOption(new Option('--stride <N>', 'tokens from one window’s beginning to the next one’s (default: half a window)').argParser(positive))
    .addOption(new Option('--skip-tokens <N>', 'leave out so many at the beginning of the text').argParser(positive))
    .addOption(new Option('--max-tokens <N>', 'take so many at most').argParser(positive))
    .option('--against <MODEL>', 'hold it against this model: KL divergence, agreement on the likeliest token, the worst tokens')
    .option('--layers', 'with --against: how far each layer’s output is from the other model’s')
    .addOption(new Option('--worst <N>', 'with --against: show so many of the tokens that they differ most on (default: 10)').argParser(positive))
    .option('--json', 'print one JSON object');
  addFlags(command, 'Pod:', SERVING_FLAGS, podOptionsSchema.shape);
  command.addHelpText('after', EXAMPLES).action(async (model: string, flags: EvalFlags) => {
    setExitCode(await evaluate(model, flags, givenFlags(command, SERVING_FLAGS)));
  });
}

async function evaluate(model: string, flags: EvalFlags, pod: PodOptions): Promise<number> {
  const { against, layers = false, worst, window, stride, skipTokens: skip_tokens, maxTokens: max_tokens } = flags;
  if (against === undefined && (layers || worst !== undefined)) throw new UsageError('--layers and --worst need --against');
  const numerics = against === undefined ? {} : numericsOf(parseOptions(podOptionsSchema, pod, 'eval'));
  const [served] = Object.keys(pod).filter((name) => !/^(kv_cache|dispatch|combine)_dtype$/.test(name));
  if (against !== undefined && served !== undefined)
    throw new UsageError(`with --against both models are computed on one NPU, without a pod: leave out --${served.replaceAll('_', '-')}`);
  const part = { text: readText(flags.text), window, stride, skip_tokens, max_tokens };
  using interrupt = new Interrupt();
  using progress = new Progress(`${model}: ${flags.text}`);
  const watched = { ...part, signal: interrupt.signal, onProgress: (done: number, total: number): void => progress.show(done / total) };
  try {
    if (against === undefined) {
      await using opened = await openPod({ ...pod, model });
      const found = await perplexityOf(opened, { ...watched, model });
      progress.end();
      if (flags.json) await printJson({ model, text: flags.text, ...found });
      else await print(`${perplexityLines(model, found).join('\n')}\n`);
    } else {
      const found = await divergenceOf({ ...watched, ...numerics, model, against, layers, ...(worst !== undefined && { worst }) });
      progress.end();
      if (flags.json) await printJson({ text: flags.text, models: [model, against], ...found });
      else await print(`${divergenceLines(model, against, found).join('\n')}\n`);
    }
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    if (flags.json) await printJson({ error: { code: 'cancelled', message: 'it was stopped' } });
  }
  return interrupt.exit_code;
}

const MODEL_COLUMNS: readonly Column<readonly [string, Perplexity]>[] = [
  ['MODEL', ([name]) => name],
  ['PERPLEXITY', ([, { perplexity }]) => perplexity.toFixed(4)],
  ['BITS PER BYTE', ([, { bits_per_byte }]) => bits_per_byte.toFixed(4)],
];

const LAYER_COLUMNS: readonly Column<LayerError>[] = [
  ['LAYER', ({ layer }) => layer],
  ['RELATIVE ERROR', ({ relative_error }) => percent(relative_error, 3)],
  ['WORST ROW', ({ worst_row }) => percent(worst_row, 3)],
];

const WORST_COLUMNS: readonly Column<WorstToken>[] = [
  ['TOKEN', ({ token }) => quoted(token)],
  ['AFTER', ({ before }) => quoted(before)],
  ['KL, NATS', ({ kl }) => kl.toFixed(4)],
  ['LOGPROB', ({ logprob }) => logprob.toFixed(3)],
  ['AGAINST', ({ against_logprob }) => against_logprob.toFixed(3)],
];

const percent = (share: number, digits: number): string => `${(100 * share).toFixed(digits)} %`;
const quoted = (text: string): string => JSON.stringify(text).replaceAll('|', '\\|');

const cutLine = ({ tokens, bytes, windows, window, stride }: Perplexity): string =>
  `${tokens} tokens, ${bytes} bytes, in ${windows} window${windows === 1 ? '' : 's'} of ${window}, ${stride} tokens apart`;

const perplexityLines = (model: string, found: Perplexity): string[] => [cutLine(found), '', ...table([[model, found] as const], MODEL_COLUMNS, 2)];

function divergenceLines(model: string, name: string, { model: own, against, kl_mean, kl_max, top1_agreement, worst, layers }: Divergence): string[] {
  const ratio = own.perplexity / against.perplexity - 1;
  return [
    cutLine(own),
    '',
    ...table([[model, own] as const, [name, against] as const], MODEL_COLUMNS, 2),
    '',
    `Perplexity ${ratio < 0 ? '−' : '+'}${percent(Math.abs(ratio), 3)}; the same likeliest token at ${percent(top1_agreement, 2)} of positions; KL ${kl_mean.toExponential(3)} nats a token, ${kl_max.toFixed(4)} at most.`,
    ...(layers === null ? [] : ['', ...table(layers, LAYER_COLUMNS, 3)]),
    ...(worst.length === 0 ? [] : ['', ...table(worst, WORST_COLUMNS, 3)]),
  ];
}

const EXAMPLES = `
Each window begins with the model's bos token; a token is scored once, in the first window that it is in. What is scored is served by a pod, as prompt
log-probabilities; with --against both models are computed side by side, the first by --kv-cache-dtype, --dispatch-dtype and --combine-dtype.

Examples:
  $ minipod eval --text tales.txt
  $ minipod eval ./my-model --text tales.txt --window 512 --stride 512 --json
  $ minipod eval ./my-model-int8 --against ./my-model --text tales.txt --skip-tokens 20000 --layers
  $ minipod eval ./my-model --against ./my-model --kv-cache-dtype int8 --text tales.txt`;
