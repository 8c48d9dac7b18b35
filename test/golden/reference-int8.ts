/**
 * INT8 as assembly/int8.ts and wire.ts have it, in scalar TypeScript: one scale a token, one an output channel, sums of integers.
 * @module
 */
import { at, f } from './reference.ts';

export type Quantized = { q: Int8Array; scale: number };

/** To the nearest integer, half to even. */
export function nearest(t: number): number {
  const below = Math.floor(t);
  const rest = t - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/** Of a row with that largest magnitude: a 127th of it, in the 16 upper bits of a float's 24. */
export function scaleOf(largest: number): number {
  word[0] = largest / 127;
  bits[0] = (bits[0] as number) & 0xffff_ff00;
  return Math.max(word[0] as number, 2 ** -126);
}

const word = new Float32Array(1);
const bits = new Uint32Array(word.buffer);

export function quantize(x: Float32Array): Quantized {
  const largest = x.reduce((top, v) => Math.max(top, Math.abs(v)), 0);
  if (!x.every(Number.isFinite)) return { q: new Int8Array(x.length), scale: Number.NaN };
  if (largest === 0) return { q: new Int8Array(x.length), scale: 0 };
  const scale = scaleOf(largest);
  return { q: Int8Array.from(x, (v) => Math.min(Math.max(nearest(f(v / scale)), -127), 127)), scale };
}

/** y[o] of one row; w is [outDim, inDim]. The sum is exact in 64 bits too: f rounds it once, as the conversion of an integer does. */
export function matvecInt8(x: Float32Array, w: Int8Array, weightScales: ArrayLike<number>, outDim: number): Float32Array {
  const { q, scale } = quantize(x);
  return Float32Array.from({ length: outDim }, (_, o) => {
    let sum = 0;
    for (let k = 0; k < q.length; k++) sum += at(q, k) * at(w, o * q.length + k);
    return f(f(f(sum) * scale) * at(weightScales, o));
  });
}
