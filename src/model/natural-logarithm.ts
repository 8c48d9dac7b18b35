/**
 * ln x with the same bits on every engine: `Math.log` is not (it differs between Node and Deno).
 * Only +, −, ×, ÷ of float64 are used, which IEEE 754 defines exactly. For a few calls at load time, not for kernels.
 * @module
 */
import { assert } from '../protocol/errors.ts';

/** s ≤ 0.172 below, so the term after these is under 2⁻⁵⁴ of the sum. */
const TERMS = 12;

/** ln x for a finite x > 0: x = m · 2^e with √½ ≤ m ≤ √2, ln m = 2 · artanh((m − 1) / (m + 1)). */
export function naturalLogarithm(x: number): number {
  assert(x > 0 && Number.isFinite(x), `ln of ${x}`);
  let mantissa = x;
  let exponent = 0;
  for (; mantissa > Math.SQRT2; exponent++) mantissa /= 2;
  for (; mantissa < Math.SQRT1_2; exponent--) mantissa *= 2;
  const s = (mantissa - 1) / (mantissa + 1);
  const square = s * s;
  let sum = 0;
  for (let term = TERMS; term >= 0; term--) sum = sum * square + 1 / (2 * term + 1);
  return exponent * Math.LN2 + 2 * s * sum;
}
