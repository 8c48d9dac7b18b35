/**
 * What quantising a product costs its output: ‖Y − Ŷ‖² and ‖Y‖² over rows of activations, which are quantised a token at a time as the model does it.
 * @module
 */
import { assert } from '../protocol/errors.ts';

export type OutputError = { readonly error: number; readonly size: number };

export const addErrors = (errors: readonly OutputError[]): OutputError =>
  errors.reduce((sum, { error, size }) => ({ error: sum.error + error, size: sum.size + size }), { error: 0, size: 0 });

/** ‖Y − Ŷ‖ ÷ ‖Y‖ */
export const relativeError = ({ error, size }: OutputError): number => (size === 0 ? 0 : Math.sqrt(error / size));

/** Of outputs that are not what they should be. */
export function outputError(exact: Float32Array, found: Float32Array): OutputError {
  assert(exact.length === found.length, `${exact.length} outputs are compared with ${found.length}`);
  let error = 0;
  let size = 0;
  for (let at = 0; at < exact.length; at++) {
    const expected = exact[at] as number;
    error += (expected - (found[at] as number)) ** 2;
    size += expected * expected;
  }
  return { error, size };
}
