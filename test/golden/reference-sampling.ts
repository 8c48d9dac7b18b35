/**
 * Sampling in scalar float32, as assembly/sampling.ts does it, but by plain sorting.
 * @module
 */
import { at, exp, f, laneSum, log } from './reference.ts';
import { ranked } from './reference-gating.ts';

export type Draw = {
  seedLow: number;
  seedHigh: number;
  choice: number;
  position: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  bias: [id: number, value: number][];
  output: [id: number, times: number][];
  banned: number[];
};

/** Philox4x32-10 (Salmon et al. 2011) with BigInt products. */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  let [c0, c1, c2, c3] = counter.map((c) => BigInt(c >>> 0)) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map((k) => BigInt(k >>> 0)) as [bigint, bigint];
  const low = (x: bigint) => x & 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c0;
    const b = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, low(b), (a >> 32n) ^ c3 ^ k1, low(a)];
    k0 = low(k0 + 0x9e3779b9n);
    k1 = low(k1 + 0xbb67ae85n);
  }
  return [c0, c1, c2, c3].map(Number);
}

/** Gumbel noise of a token. */
export function gumbel(id: number, draw: Draw): number {
  const words = philox([id >>> 2, draw.choice, draw.position, 0], [draw.seedLow, draw.seedHigh]);
  const u = f(f((at(words, id & 3) >>> 9) + 0.5) * 2 ** -23);
  return -log(-log(u));
}

/** Bias, penalties and bans. */
export function adjusted(logits: Float32Array, draw: Draw): Float32Array {
  const w = logits.slice();
  for (const [id, value] of draw.bias) w[id] = f(at(w, id) + f(value));
  for (const [id, times] of draw.output) {
    let x = at(w, id);
    x = x > 0 ? f(x / f(draw.repetitionPenalty)) : f(x * f(draw.repetitionPenalty));
    x = f(x - f(f(draw.frequencyPenalty) * times));
    w[id] = f(x - f(draw.presencePenalty));
  }
  for (const id of draw.banned) w[id] = -Infinity;
  return w;
}

/** The tokens that top_k, top_p and min_p leave, by (logit descending, id ascending). */
export function keptTokens(w: Float32Array, draw: Draw): number[] {
  let kept = ranked(w);
  const best = at(w, at(kept, 0));
  const weight = (id: number) => exp(f(at(w, id) - best));
  if (draw.topK > 0 && draw.topK < w.length) kept = kept.slice(0, draw.topK);
  if (draw.topP < 1) {
    // the whole vocabulary is summed by lanes, a top_k list in its own order
    let total = 0;
    if (kept.length === w.length) total = laneSum(w.length, weight);
    else for (const id of kept) total = f(total + weight(id));
    const target = f(f(draw.topP) * total);
    let sum = 0;
    const end = kept.findIndex((id) => {
      sum = f(sum + weight(id));
      return sum >= target;
    });
    if (end >= 0) kept = kept.slice(0, end + 1);
  }
  if (draw.minP > 0) kept = kept.filter((id, i) => i === 0 || weight(id) >= f(draw.minP));
  return kept;
}

export function sample(logits: Float32Array, draw: Draw): number {
  const adjustedLogits = adjusted(logits, draw);
  if (draw.temperature === 0) return at(ranked(adjustedLogits), 0);
  const w = adjustedLogits.map((x) => f(x / f(draw.temperature)));
  const scores = new Float32Array(w.length).fill(-Infinity);
  for (const id of keptTokens(w, draw)) scores[id] = f(at(w, id) + gumbel(id, draw));
  return at(ranked(scores), 0);
}
