/**
 * Gating in scalar float32, as assembly/gating.ts does it.
 * @module
 */
import { at, exp, f, laneSum, sigmoid } from './reference.ts';

export type Chosen = { experts: number[]; weights: number[] };

/** Indices by (value descending, index ascending). */
export function ranked(values: ArrayLike<number>): number[] {
  return Array.from(values, (_, i) => i).sort((a, b) => at(values, b) - at(values, a) || a - b);
}

function weigh(chosen: number[], p: ArrayLike<number>, normalise: boolean, tiny: number, factor: number): Chosen {
  const experts = chosen.toSorted((a, b) => a - b);
  let sum = 0;
  for (const e of experts) sum = f(sum + at(p, e));
  const weights = experts.map((e) => f((normalise ? f(at(p, e) / f(sum + tiny)) : at(p, e)) * factor));
  return { experts, weights };
}

export type SigmoidGate = { nGroup: number; topkGroup: number; topK: number; normalise: boolean; scalingFactor: number };

export function gateSigmoid(logits: Float32Array, bias: Float32Array, gate: SigmoidGate): Chosen {
  const p = logits.map(sigmoid);
  const choice = p.map((v, i) => f(v + at(bias, i)));
  const size = logits.length / gate.nGroup;
  const scores = Array.from({ length: gate.nGroup }, (_, g) => {
    const [best = -Infinity, second] = choice.slice(g * size, (g + 1) * size).toSorted((a, b) => b - a);
    return second === undefined ? best : f(best + second);
  });
  const kept = new Set(ranked(scores).slice(0, gate.topkGroup));
  const open = ranked(choice).filter((e) => kept.has(Math.floor(e / size)));
  return weigh(open.slice(0, gate.topK), p, gate.normalise, f(1e-20), f(gate.scalingFactor));
}

export function gateSoftmax(logits: Float32Array, topK: number, normalise: boolean): Chosen {
  const top = Math.max(...logits);
  const total = laneSum(logits.length, (i) => exp(f(at(logits, i) - top)));
  const p = logits.map((x) => f(exp(f(x - top)) / total));
  return weigh(ranked(p).slice(0, topK), p, normalise, 0, 1);
}
