// Which experts a token goes to, and with what weight. Chosen experts are written in ascending id; ties go to the lowest id.
import { exp1 } from './elementary';
import { expSum, maxOf } from './row';
import { pollStopAt } from './stop';

const CHOSEN: u32 = 1;
const CLOSED: u32 = 2; // in a group that was not kept

/** Marks the largest unmarked value CHOSEN, ties to the lowest id. Comparisons are written so that NaN still gives a valid id. */
function chooseBest(values: usize, marks: usize, n: i32): i32 {
  let best = -1;
  let bestValue: f32 = 0;
  for (let i = 0; i < n; i++) {
    if (load<u32>(marks + (<usize>i << 2))) continue;
    const value = load<f32>(values + (<usize>i << 2));
    if (best < 0 || value > bestValue) {
      best = i;
      bestValue = value;
    }
  }
  if (best >= 0) store<u32>(marks + (<usize>best << 2), CHOSEN);
  return best;
}

/** Writes the CHOSEN ids ascending with weight = p[id]; returns the sum of these in that order. */
function writeChosen(experts: usize, weights: usize, p: usize, marks: usize, n: i32): f32 {
  let sum: f32 = 0;
  for (let i = 0; i < n; i++) {
    if (load<u32>(marks + (<usize>i << 2)) != CHOSEN) continue;
    const weight = load<f32>(p + (<usize>i << 2));
    sum += weight;
    store<u32>(experts, i);
    store<f32>(weights, weight);
    experts += 4;
    weights += 4;
  }
  return sum;
}

/** The sum of a group's best two (of one, if it has no more). */
function groupScore(values: usize, size: i32): f32 {
  let best: f32 = -Infinity;
  let second: f32 = -Infinity;
  for (let i = 0; i < size; i++) {
    const value = load<f32>(values + (<usize>i << 2));
    if (value > best) {
      second = best;
      best = value;
    } else if (value > second) {
      second = value;
    }
  }
  return size > 1 ? best + second : best;
}

/** Marks CLOSED every expert outside the best topkGroup groups. */
function closeGroups(values: usize, marks: usize, n: i32, nGroup: i32, topkGroup: i32, scores: usize, groupMarks: usize): void {
  const size = n / nGroup;
  memory.fill(groupMarks, 0, <usize>nGroup << 2);
  for (let g = 0; g < nGroup; g++) store<f32>(scores + (<usize>g << 2), groupScore(values + (<usize>(g * size) << 2), size));
  for (let k = 0; k < topkGroup; k++) chooseBest(scores, groupMarks, nGroup);
  for (let i = 0; i < n; i++) if (!load<u32>(groupMarks + (<usize>(i / size) << 2))) store<u32>(marks + (<usize>i << 2), CLOSED);
}

/**
 * DeepSeek-V3 gating. p = sigmoid(logit); choose by p + bias among the best topkGroup of nGroup groups; weights are p, divided by their sum + 1e-20 if
 * `normalise`, times scalingFactor. logits [rows, nExperts], bias [nExperts], experts u32 and weights f32 [rows, topK].
 * scratch: 20 * nExperts bytes.
 */
export function gateSigmoid(
  experts: usize, weights: usize, logits: usize, rows: i32, nExperts: i32, bias: usize,
  nGroup: i32, topkGroup: i32, topK: i32, normalise: i32, scalingFactor: f32, scratch: usize,
): void {
  const column = <usize>nExperts << 2;
  const p = scratch, choice = p + column, marks = choice + column, scores = marks + column, groupMarks = scores + column;
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    for (let i: usize = 0; i < column; i += 4) {
      const probability: f32 = 1 / (1 + exp1(-load<f32>(logits + i)));
      store<f32>(p + i, probability);
      store<f32>(choice + i, probability + load<f32>(bias + i));
    }
    memory.fill(marks, 0, column);
    if (topkGroup < nGroup) closeGroups(choice, marks, nExperts, nGroup, topkGroup, scores, groupMarks);
    for (let k = 0; k < topK; k++) chooseBest(choice, marks, nExperts);
    const sum = writeChosen(experts, weights, p, marks, nExperts);
    for (let k = 0; k < topK; k++) {
      let weight = load<f32>(weights);
      if (normalise) weight = weight / (sum + <f32>1e-20);
      store<f32>(weights, weight * scalingFactor);
      weights += 4;
    }
    experts += <usize>topK << 2;
    logits += column;
  }
}

/**
 * Qwen3 gating. p = softmax over all experts; choose the best topK by p; weights are p, divided by their sum if `normalise`.
 * scratch: 8 * nExperts bytes.
 */
export function gateSoftmax(experts: usize, weights: usize, logits: usize, rows: i32, nExperts: i32, topK: i32, normalise: i32, scratch: usize): void {
  const column = <usize>nExperts << 2;
  const p = scratch, marks = p + column;
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const top = maxOf(logits, nExperts);
    const total = expSum(logits, nExperts, top);
    for (let i: usize = 0; i < column; i += 4) store<f32>(p + i, exp1(load<f32>(logits + i) - top) / total);
    memory.fill(marks, 0, column);
    for (let k = 0; k < topK; k++) chooseBest(p, marks, nExperts);
    const sum = writeChosen(experts, weights, p, marks, nExperts);
    if (normalise) for (let k: usize = 0; k < <usize>topK << 2; k += 4) store<f32>(weights + k, load<f32>(weights + k) / sum);
    weights += <usize>topK << 2;
    experts += <usize>topK << 2;
    logits += column;
  }
}
