/**
 * The table that the rope kernels read: f32 [position][ropeDim / 2][cos, sin].
 * Frequencies and angles are rounded to float32 where the reference implementations (DeepSeek, Hugging Face) hold them in float32, since the
 * checkpoints were trained with those angles; sin and cos of such an angle are then correctly rounded but for a hair.
 * @module
 */
import { log, pow, sinCos } from './float64.ts';

const { fround } = Math;

/** YaRN (Peng et al. 2023) as in DeepSeek-V3's config.json, `rope_scaling`. */
export type Yarn = {
  factor: number;
  betaFast: number;
  betaSlow: number;
  mscale: number;
  mscaleAllDim: number;
  originalMaxPosition: number;
};

/** 0.1 · mscale · ln(factor) + 1. Squared, with mscaleAllDim, it is also a factor of the attention's softmax scale. */
export function yarnMscale(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/** The dimension whose wave turns `rotations` times over the original context. */
function correctionDim(rotations: number, ropeDim: number, theta: number, originalMaxPosition: number): number {
  return (ropeDim * log(originalMaxPosition / (rotations * 2 * Math.PI))) / (2 * log(theta));
}

/** Frequencies of the ropeDim / 2 pairs in radians a position: theta^(−2i / d); under YaRN low dimensions keep theirs, high ones are divided by factor. */
export function ropeFrequencies(ropeDim: number, theta: number, yarn: Yarn | null): Float32Array {
  const plain = Float32Array.from({ length: ropeDim / 2 }, (_, i) => fround(1 / fround(pow(theta, (2 * i) / ropeDim))));
  if (!yarn) return plain;
  const low = Math.max(Math.floor(correctionDim(yarn.betaFast, ropeDim, theta, yarn.originalMaxPosition)), 0);
  const high = Math.min(-Math.floor(-correctionDim(yarn.betaSlow, ropeDim, theta, yarn.originalMaxPosition)), ropeDim - 1);
  const width = high === low ? 0.001 : high - low;
  return plain.map((frequency, i) => {
    const kept = fround(1 - fround(Math.min(Math.max(fround(fround(i - low) / fround(width)), 0), 1)));
    return fround(fround(fround(frequency / yarn.factor) * fround(1 - kept)) + fround(frequency * kept));
  });
}

/** Floats of a table for positions 0..maxPosition − 1. */
export function ropeTableLength(maxPosition: number, ropeDim: number): number {
  return maxPosition * ropeDim;
}

/** The table for positions 0..maxPosition − 1, into `table` if given (a view of the segment, ropeTableLength floats). */
export function ropeTable(
  maxPosition: number,
  ropeDim: number,
  theta: number,
  yarn: Yarn | null,
  table = new Float32Array(ropeTableLength(maxPosition, ropeDim)),
): Float32Array {
  const frequencies = ropeFrequencies(ropeDim, theta, yarn);
  const magnitude = yarn ? fround(yarnMscale(yarn.factor, yarn.mscale) / yarnMscale(yarn.factor, yarn.mscaleAllDim)) : 1;
  let at = 0;
  for (let position = 0; position < maxPosition; position++) {
    for (const frequency of frequencies) {
      const { sin, cos } = sinCos(fround(position * frequency));
      table[at++] = fround(fround(cos) * magnitude);
      table[at++] = fround(fround(sin) * magnitude);
    }
  }
  return table;
}
