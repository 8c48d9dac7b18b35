/** Three calls, two pods for them, and whatever is to strike those. */
import type { ChaosPlanInput, FaultInput } from '../../src/chaos/index.ts';

export const CALLS = [
  { key: 1, prompt_tokens: 40, max_tokens: 9 },
  { key: 2, prompt_tokens: 17, max_tokens: 5, n: 2 },
  { key: 3, prompt_tokens: 33, max_tokens: 9 },
];
export const SPLIT: ChaosPlanInput['pod'] = { topology: 'pd:prefill=1,decode=1', workers: 2, job_executors: 3 };
export const HALVES: ChaosPlanInput['pod'] = { topology: 'moe-attention:domains=1x2,experts=2', workers: 3, job_executors: 2 };
export const plan = (pod: ChaosPlanInput['pod'], ...faults: FaultInput[]): ChaosPlanInput => ({ seed: 5, pod, calls: CALLS, faults });
