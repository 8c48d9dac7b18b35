/**
 * `minipod quantize`: a checkpoint in INT8 from one in BF16.
 * @module
 */
import { type Command, Option } from 'commander';
import prettyBytes from 'pretty-bytes';
import { readText } from '../fidelity/text-windows.ts';
import { type Quantized, quantizeModel } from '../index.ts';
import { type Column, NONE, table } from './columns.ts';
import { Interrupt } from './interrupt.ts';
import { print, printJson } from './output.ts';
import { Progress } from './progress.ts';
import { positive } from './trace-arguments.ts';

type QuantizeFlags = {
  readonly text: string;
  readonly window?: number;
  readonly skipTokens?: number;
  readonly maxTokens?: number;
  readonly expertTokensMin?: number;
  readonly smoothing: boolean;
  readonly compensation: boolean;
  readonly json?: true;
};

export function addQuantizeCommand(program: Command, setExitCode: (code: number) => void): void {
  program
    .command('quantize')
    .summary('Makes an INT8 checkpoint of a model: weights a channel, activations a token at a time.')
    .description('Makes an INT8 checkpoint of a model, smoothed and compensated on a text, in the layout that vLLM reads.')
    .argument('<model>', 'a shipped model, or a folder in the Hugging Face layout')
    .argument('<out>', 'the folder to make')
    .addOption(new Option('--text <FILE>', 'the text to calibrate on, in UTF-8').makeOptionMandatory())
    .addOption(new Option('--max-tokens <N>', 'take so much of it at most (default: 16384)').argParser(positive))
    .addOption(new Option('--skip-tokens <N>', 'leave out so many tokens at its beginning').argParser(positive))
    .addOption(new Option('--window <N>', 'tokens that the model sees at once (default: 256)').argParser(positive))
    .addOption(new Option('--expert-tokens-min <N>', 'tokens that each expert has to have been chosen for (default: 4)').argParser(positive))
    .option('--no-smoothing', 'leave outliers in the activations, to compare with')
    .option('--no-compensation', 'round weights plainly, to compare with')
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXAMPLES)
    .action(async (model: string, out: string, flags: QuantizeFlags) => setExitCode(await quantize(model, out, flags)));
}

async function quantize(model: string, out: string, flags: QuantizeFlags): Promise<number> {
  const { window, skipTokens: skip_tokens, maxTokens: max_tokens, expertTokensMin: expert_tokens_min, smoothing, compensation } = flags;
  using interrupt = new Interrupt();
  using progress = new Progress(`${model} → ${out}`);
  try {
    const found = await quantizeModel({
      ...{ model, out, text: readText(flags.text), window, skip_tokens, max_tokens, expert_tokens_min, smoothing, compensation },
      signal: interrupt.signal,
      onProgress: (done, total) => progress.show(done / total),
    });
    progress.end();
    if (flags.json) await printJson(found);
    else await print(`${lines(found).join('\n')}\n`);
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    if (flags.json) await printJson({ error: { code: 'cancelled', message: 'it was stopped' } });
  }
  return interrupt.exit_code;
}

const COVERAGE_COLUMNS: readonly Column<Quantized['coverage'][number]>[] = [
  ['LAYER', ({ layer }) => layer],
  ['LEAST CHOSEN EXPERT', ({ least }) => least],
  ['MEDIAN', ({ median }) => median],
  ['MOST CHOSEN', ({ most }) => most],
];

const percent = (share: number): string => `${(100 * share).toFixed(3)} %`;

const PRODUCT_COLUMNS: readonly Column<Quantized['products'][number]>[] = [
  ['PRODUCT', ({ product }) => product],
  ['LAYER', ({ layer }) => layer],
  ['MOVED', ({ alpha }) => alpha ?? NONE],
  ['ROUNDED PLAINLY', ({ plain }) => percent(plain)],
  ['SMOOTHED', ({ smoothed }) => percent(smoothed)],
  ['COMPENSATED', ({ compensated }) => percent(compensated)],
];

function lines({ out, tokens, coverage, products, bytes }: Quantized): string[] {
  const size = (count: number): string => prettyBytes(count, { binary: true });
  const ratio = (part: number, whole: number): string => (part / whole).toFixed(3);
  return [
    `${out}: calibrated on ${tokens} tokens`,
    `Quantised weights with their scales: ${size(bytes.weights)}, ${ratio(bytes.weights, bytes.weights_before)} of ${size(bytes.weights_before)} in BF16; the whole file ${size(bytes.file)}, ${ratio(bytes.file, bytes.file_before)} of ${size(bytes.file_before)}.`,
    ...(coverage.length === 0 ? [] : ['', 'Tokens that experts were chosen for:', '', ...table(coverage, COVERAGE_COLUMNS, 4)]),
    '',
    'Error of the outputs, relative to them, on tokens that were not calibrated on:',
    '',
    ...table(products, PRODUCT_COLUMNS, 5),
  ];
}

const EXAMPLES = `
Weights get one scale an output channel, activations one a token while the model computes. Outlier channels are moved from activations to weights where that
lowers the error (SmoothQuant), and rounding errors are compensated (GPTQ). Attention's projections but kv_b, dense, shared and routed experts are
quantised; embedding, norms, router, head and MTP layers stay as they are. Every expert must have been chosen for some tokens of the text.

Examples:
  $ minipod quantize tiny-deepseek-v3 ./tiny-int8 --text tales.txt
  $ minipod eval ./tiny-int8 --against tiny-deepseek-v3 --text other.txt --window 256 --layers
  $ minipod serve --model ./tiny-int8`;
