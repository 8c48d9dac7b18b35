/**
 * What a step costs: a line through a few steps that were measured at the start, by least squares.
 *
 *   µs = base + token × tokens + attended × (positions that the tokens attend to)
 *
 * Measuring is the host's; which numbers fit best is computed here, so that a replay finds the same.
 * @module
 */
import type { StepCost, StepSample } from '../../src/protocol/balancing.ts';

/** Where nothing was measured: tokens count, and steps and positions a little. */
export const UNMEASURED: StepCost = { base_us: 10, token_us: 10, attended_us: 0.01 };

/** Which coefficients are looked for; the others are 0. */
const CHOICES = [[0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2]] as const;

/** The coefficients that fit best, none below 0, since no step gets cheaper by more work. What samples cannot tell apart is left out. */
export function fitStepCost(samples: readonly StepSample[]): StepCost {
  if (samples.length === 0) return UNMEASURED;
  let best = UNMEASURED;
  let least = Number.POSITIVE_INFINITY;
  for (const kept of CHOICES) {
    const rows = samples.map(({ tokens, attended }) => kept.map((feature) => [1, tokens, attended][feature] as number));
    const solved = leastSquares(
      rows,
      samples.map(({ us }) => us),
    );
    if (solved === null || solved.some((value) => value < 0)) continue;
    const of = (feature: number): number => solved[(kept as readonly number[]).indexOf(feature)] ?? 0;
    const cost = { base_us: of(0), token_us: of(1), attended_us: of(2) };
    const off = samples.reduce((sum, { tokens, attended, us }) => sum + (cost.base_us + cost.token_us * tokens + cost.attended_us * attended - us) ** 2, 0);
    if (off >= least) continue;
    least = off;
    best = cost;
  }
  return best;
}

/** Microseconds to prefill `tokens` that follow `from` others, in steps of at most `chunk` tokens that `decodes` other sequences share. */
export function prefill_us(cost: StepCost, from: number, tokens: number, chunk: number, decodes: number): number {
  const steps = Math.ceil(tokens / Math.max(1, chunk - decodes));
  const attended = tokens * from + (tokens * (tokens + 1)) / 2;
  return cost.base_us * steps + cost.token_us * (tokens + steps * decodes) + cost.attended_us * attended;
}

/** Normal equations by elimination with pivots; null where they have no one solution. Columns are scaled, since positions are many more than steps. */
function leastSquares(rows: readonly (readonly number[])[], values: readonly number[]): number[] | null {
  const columns = rows[0]?.length ?? 0;
  const scales = Array.from({ length: columns }, (_, column) => Math.max(...rows.map((row) => Math.abs(row[column] as number))));
  if (scales.some((scale) => scale === 0)) return null;
  const at = (row: readonly number[], column: number): number => (row[column] as number) / (scales[column] as number);
  const sum = (of: (row: readonly number[], index: number) => number): number => rows.reduce((total, row, index) => total + of(row, index), 0);
  const matrix = Array.from({ length: columns }, (_, i) => [
    ...Array.from({ length: columns }, (_, j) => sum((row) => at(row, i) * at(row, j))),
    sum((row, index) => at(row, i) * (values[index] as number)),
  ]);
  for (let column = 0; column < columns; column++) {
    const pivot = matrix.slice(column).reduce((best, row) => (Math.abs(row[column] as number) > Math.abs(best[column] as number) ? row : best));
    if (Math.abs(pivot[column] as number) < 1e-9) return null;
    const from = matrix.indexOf(pivot);
    [matrix[column], matrix[from]] = [pivot, matrix[column] as number[]];
    for (const [index, row] of matrix.entries()) {
      if (index === column) continue;
      const factor = (row[column] as number) / (pivot[column] as number);
      for (let entry = column; entry <= columns; entry++) row[entry] = (row[entry] as number) - factor * (pivot[entry] as number);
    }
  }
  return matrix.map((row, index) => (row[columns] as number) / (row[index] as number) / (scales[index] as number));
}
