/**
 * SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): a few input channels are so much larger than the rest that a token's one scale leaves nothing of the others.
 * Each channel is divided by a factor where it is produced, and multiplied by it in the weights that read it.
 *
 *   s_j = max |X_j| ^ α ÷ max |W_j| ^ (1 − α)        X′_j = X_j ÷ s_j        W′_j = W_j · s_j
 *
 * How much is moved (α) is tried out on rows of the calibration text, and tuned channel by channel (tune-factors.ts); not at all is tried too. Norms that take
 * factors back decide what exactly these are (LayerQuantizer), so that nothing is lost where they are kept in BF16; the outputs' scales of weights that are quantised
 * themselves take any factor; W_UV is rounded to BF16 again.
 * @module
 */
import { exp, log } from '../model/kernels/float64.ts';
import { columnMaxima, type Matrix, scaleColumns } from './matrix.ts';
import { addErrors, outputError } from './output-error.ts';
import { roundPlainly } from './round-weights.ts';
import type { RowProducts } from './row-products.ts';
import { groupsOf, tuneFactors } from './tune-factors.ts';

export type Smoothing = {
  /** By input channel. */
  readonly factors: Float32Array;
  /** How the factors came about; null: nothing is moved. */
  readonly alpha: number | 'tuned' | null;
};

/** Less than this is as likely to be the few rows that it is tried on. */
const WORTH = 0.99;
const ALPHAS = [0.3, 0.5, 0.7, 0.9] as const;
/** Norm weights and channels stay far from what BF16 cannot hold. */
const EXPONENT_MAX = 12;

export const noSmoothing = (columns: number): Smoothing => ({ factors: new Float32Array(columns).fill(1), alpha: null });

/**
 * The α whose factors lose least of the outputs, rounded plainly. `rows`: of the same channels, with the weights that they are multiplied
 * with: some to judge by, others to tune on. `tied`: by channel, the first of those that must have the same factor.
 */
export function chooseSmoothing(
  multiplied: RowProducts,
  rows: readonly { readonly inputs: Matrix; readonly weights: Matrix; readonly tuned: Matrix }[],
  channelMaxima: Float32Array,
  tied?: Uint32Array,
): Smoothing {
  const products = rows.map(({ inputs, weights }): Trial => ({ inputs, weights, exact: multiplied.outputs(inputs, weights) }));
  const errorOf = (smoothing: Pick<Smoothing, 'factors'>): number => errorWith(multiplied, products, smoothing);
  const columns = channelMaxima.length;
  const inputMaxima = tiedMaxima(channelMaxima, tied);
  const weightMaxima = tiedMaxima(maximaOf(products.map(({ weights }) => columnMaxima(weights))), tied);
  let best = noSmoothing(columns);
  let least = WORTH * errorOf(best);
  for (const alpha of ALPHAS) {
    const factors = Float32Array.from({ length: columns }, (_, column) => factorOf(inputMaxima[column] as number, weightMaxima[column] as number, alpha));
    const tried = { factors: centred(factors), alpha };
    const error = errorOf(tried);
    if (error < least) [best, least] = [tried, error];
  }
  // The loss that is tuned for has one minimum: where that begins matters little.
  const tuned = tuneFactors(
    rows.map(({ tuned: inputs, weights }) => ({ inputs, weights })),
    best.factors,
    groupsOf(columns, tied),
  );
  const factors = tuned.map((factor) => Math.max(2 ** -EXPONENT_MAX, Math.min(2 ** EXPONENT_MAX, factor)));
  if (errorOf({ factors }) < least) best = { factors, alpha: 'tuned' };
  return best;
}

/** Rows, what they are multiplied with, and the exact outputs. */
type Trial = { readonly inputs: Matrix; readonly weights: Matrix; readonly exact: Float32Array };

function errorWith(multiplied: RowProducts, products: readonly Trial[], { factors }: Pick<Smoothing, 'factors'>): number {
  const inverse = factors.map((factor) => 1 / factor);
  const found = products.map(({ inputs, weights, exact }) =>
    outputError(exact, multiplied.quantizedOutputs(scaleColumns(inputs, inverse), roundPlainly(scaleColumns(weights, factors)))),
  );
  return addErrors(found).error;
}

/** Channels that are never seen, or never read, stay as they are. */
function factorOf(input: number, weight: number, alpha: number): number {
  if (input === 0 || weight === 0) return 1;
  return exp(alpha * log(input) - (1 - alpha) * log(weight));
}

/** To powers of two about 1: what all channels have in common changes nothing. */
function centred(factors: Float32Array): Float32Array {
  const logs = Float64Array.from(factors, (factor) => log(factor) / Math.LN2);
  const middle = Math.round(logs.toSorted()[logs.length >> 1] as number);
  return Float32Array.from(logs, (value) => 2 ** Math.max(-EXPONENT_MAX, Math.min(EXPONENT_MAX, Math.round(value) - middle)));
}

function maximaOf(all: readonly Float32Array[]): Float32Array {
  const maxima = new Float32Array(all[0]?.length ?? 0);
  for (const one of all) for (let column = 0; column < maxima.length; column++) maxima[column] = Math.max(maxima[column] as number, one[column] as number);
  return maxima;
}

function tiedMaxima(maxima: Float32Array, tied: Uint32Array | undefined): Float32Array {
  if (tied === undefined) return maxima;
  const first = new Float32Array(maxima.length);
  for (const [column, to] of tied.entries()) first[to] = Math.max(first[to] as number, maxima[column] as number);
  return Float32Array.from(tied, (to) => first[to] as number);
}
