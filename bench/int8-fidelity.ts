/**
 * What quantising loses: perplexity, agreement and divergence of both trained checkpoints in INT8 against BF16 on several parts of several texts, by layer and by
 * product. Nothing here is timed but the quantising itself, by CPU time.
 *
 *   node bench/int8-fidelity.ts FOLDER      of texts as ../shared/corpus has them, which the tiny checkpoints were trained on; calibration sees their beginnings
 * @module
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Divergence, divergenceOf, quantizeModel } from '../src/index.ts';
import { printTable, writeResults } from './harness.ts';

const MODELS = { 'tiny-deepseek-v3': 'tiny-deepseek-v3', 'tiny-qwen3-moe': fileURLToPath(new URL('../test/models/tiny-qwen3-moe', import.meta.url)) } as const;
/** The tiny checkpoints were trained on so many positions. */
const WINDOW = 256;
/** Of the beginning of each, so many characters: some 7,000 tokens. */
const CALIBRATION = { files: ['grimms_fairy_tales.txt', 'little_women.txt', 'twain.txt'], characters: 24_000 } as const;
const TOKENS = Number(process.env['BENCH_EVAL_TOKENS'] ?? 8_000);
/** By file, the tokens at which parts begin. Shakespeare is no text that a checkpoint was trained on. */
const HELD_OUT: Readonly<Record<string, readonly number[]>> = {
  'little_women.txt': [60_000, 200_000],
  'grimms_fairy_tales.txt': [60_000, 120_000],
  'twain.txt': [60_000, 130_000],
  'shakespeare.txt': [60_000],
};

const [texts] = process.argv.slice(2);
if (texts === undefined) {
  console.error('int8-fidelity: give the folder of the texts');
  process.exit(2);
}
const textOf = (file: string): string => readFileSync(join(texts, file), 'utf8');
const percent = (share: number, digits = 2): string => `${(100 * share).toFixed(digits)} %`;
const folder = mkdtempSync(join(tmpdir(), 'minipod-fidelity-'));
const results: Record<string, unknown> = {};
try {
  const calibration = CALIBRATION.files.map((file) => textOf(file).slice(0, CALIBRATION.characters)).join('\n');
  for (const [name, model] of Object.entries(MODELS)) {
    const out = join(folder, name);
    const before = process.cpuUsage();
    const { bytes, coverage, products, tokens } = await quantizeModel({ model, out, text: calibration, window: WINDOW });
    const { user, system } = process.cpuUsage(before);
    const cpu_s = (user + system) / 1e6;
    const parts: ({ readonly file: string; readonly skip_tokens: number } & Omit<Divergence, 'worst'>)[] = [];
    for (const [file, starts] of Object.entries(HELD_OUT))
      for (const skip_tokens of starts) {
        const part = { text: textOf(file), skip_tokens, max_tokens: TOKENS, window: WINDOW, stride: WINDOW - 1 };
        const { worst: _worst, ...found } = await divergenceOf({ model: out, against: model, layers: true, ...part });
        parts.push({ file, skip_tokens, ...found });
      }
    printTable(
      `${name}: calibrated on ${tokens} tokens in ${cpu_s.toFixed(0)} s of CPU time; quantised bytes ${(bytes.weights / bytes.weights_before).toFixed(3)}, file ${(bytes.file / bytes.file_before).toFixed(3)}`,
      ['text', 'from token', 'perplexity', 'INT8', 'change', 'same likeliest', 'KL, nats'],
      parts.map(({ file, skip_tokens, model: own, against, top1_agreement, kl_mean }) => [
        ...[file, String(skip_tokens), against.perplexity.toFixed(3), own.perplexity.toFixed(3), percent(own.perplexity / against.perplexity - 1, 3)],
        ...[percent(top1_agreement), kl_mean.toExponential(2)],
      ]),
    );
    printTable(
      'Error of what each layer leaves, on the first of the parts',
      ['layer', 'relative', 'worst row'],
      (parts[0]?.layers ?? []).map(({ layer, relative_error, worst_row }) => [String(layer), relative_error.toFixed(4), worst_row.toFixed(4)]),
    );
    printTable(
      "Error of products' outputs on tokens that were not calibrated on",
      ['layer', 'product', 'plain', 'smoothed', 'compensated'],
      products.map(({ layer, product, plain, smoothed, compensated }) => [
        ...[String(layer), product],
        ...[plain, smoothed, compensated].map((error) => percent(error, 3)),
      ]),
    );
    results[name] = { bytes, coverage, products, parts, cpu_s };
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
writeResults('bench/results/int8-fidelity.json', results);
