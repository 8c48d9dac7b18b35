/**
 * How many tokens went to each expert, by layer and window of time: counted after gating (xDeepServe §4.5), what every placement is planned on.
 * @module
 */
import { MinipodError } from '../../../src/protocol/errors.ts';

/** `tokens`: [window][layer][expert], none negative. Windows are in the order of time. */
export type ExpertLoads = { readonly windows: number; readonly layers: number; readonly experts: number; readonly tokens: Float64Array };

/** In one layer, over all windows: so far sums are exact, and those of single precision, as DeepSeek has them, finite. */
const LAYER_TOKENS_MAX = Number.MAX_SAFE_INTEGER;

/** @throws `invalid_request` unless every window has the same layers, every layer the same experts, and every count is finite and not negative, and no layer has too many tokens */
export function expertLoads(windows: readonly (readonly (readonly number[])[])[]): ExpertLoads {
  const layers = windows[0]?.length ?? 0;
  const experts = windows[0]?.[0]?.length ?? 0;
  if (layers === 0 || experts === 0) throw refuse('there is no count in them; they are [window][layer][expert], at least one of each');
  const tokens = new Float64Array(windows.length * layers * experts);
  const sums = new Float64Array(layers);
  for (const [window, rows] of windows.entries()) {
    if (rows.length !== layers) throw refuse(`window ${window} has ${rows.length} layers, the first one ${layers}; all must have as many`);
    for (const [layer, row] of rows.entries()) {
      if (row.length !== experts)
        throw refuse(`layer ${layer} of window ${window} has ${row.length} experts, the first layer ${experts}; all must have as many`);
      const wrong = row.findIndex((count) => !Number.isFinite(count) || count < 0);
      if (wrong >= 0) throw refuse(`expert ${wrong} of layer ${layer}, window ${window}, has ${row[wrong]} tokens; a count is 0 or more`);
      const sum = row.reduce((before, count) => before + count, sums[layer] as number);
      if (sum > LAYER_TOKENS_MAX)
        throw refuse(`layer ${layer} has ${sum} tokens from window 0 to ${window}; at most ${LAYER_TOKENS_MAX} can be counted, so divide all counts alike`);
      sums[layer] = sum;
      tokens.set(row, (window * layers + layer) * experts);
    }
  }
  return { windows: windows.length, layers, experts, tokens };
}

/** The windows from `first` up to, not including, `end`, without a copy. */
export function windowsOf({ windows, layers, experts, tokens }: ExpertLoads, first: number, end = windows): ExpertLoads {
  if (first < 0 || first >= end || end > windows) throw refuse(`there are no windows ${first} to ${end - 1}, only 0 to ${windows - 1}`);
  const size = layers * experts;
  return { windows: end - first, layers, experts, tokens: tokens.subarray(first * size, end * size) };
}

/** Adds up all windows of one layer into `totals`, by expert. */
export function addWindows({ windows, layers, experts, tokens }: ExpertLoads, layer: number, totals: Float64Array): void {
  totals.fill(0);
  for (let window = 0; window < windows; window++) {
    const row = (window * layers + layer) * experts;
    for (let expert = 0; expert < experts; expert++) totals[expert] = (totals[expert] as number) + (tokens[row + expert] as number);
  }
}

const refuse = (why: string): MinipodError => new MinipodError('invalid_request', `loads: ${why}`, { param: 'loads' });
