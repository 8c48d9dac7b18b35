/**
 * What a step costs its scheduler, by how many run and how many wait: planning, retiring, and a sequence in place of each that ends.
 *
 * @example
 * node bench/scheduler.ts          # writes bench/results/scheduler.json
 * @module
 */

import { StepScheduler } from '../actors/policies/step-scheduler.ts';
import { address } from '../src/protocol/address.ts';
import { NO_TERMS } from '../src/protocol/constructors.ts';
import type { StepOutcome } from '../src/protocol/steps.ts';
import { atMost, digits, resultsPath } from './fabric-report.ts';
import { GREEDY } from './greedy.ts';
import { median, printTable, writeResults } from './harness.ts';

const STEPS = 400;
const WARM_STEPS = 200;
const PROMPT = 64;
const MAX_TOKENS = 512;
const GOAL_MS = 1;
const SAMPLED: StepOutcome = { token: 7, logprobs: null, more: [], drafts: [], prompt_logprobs: null, error: null };
const NONE: StepOutcome = { ...SAMPLED, token: -1 };

function measure(running: number, waiting: number, kv_blocks: number): { readonly step_ms: number; readonly preemptions: number } {
  const scheduler = new StepScheduler(
    {
      kv_blocks,
      kv_block_size: 16,
      batch_tokens_max: 4_096,
      batch_requests_max: running,
      has_prefix_cache: true,
      is_asynchronous: false,
      has_priorities: true,
      dram_blocks: 0,
      cache_costs: null,
      lends_by_layer: false,
      offers_max: 8,
      shares_prefixes: false,
    },
    'dp-group/0',
  );
  let request = 0;
  const arrive = (): void => {
    request++;
    // Lengths spread, so that ends do.
    const sequence = {
      request,
      choice: 0,
      prompt: Array.from({ length: PROMPT }, (_, at) => (request * 31 + at) % 50_021),
      max_tokens: 1 + ((request * 97) % MAX_TOKENS),
    };
    scheduler.enqueue(address('task', request), {
      ...sequence,
      sampling: GREEDY,
      ...NO_TERMS,
    });
  };
  const took: number[] = [];
  for (let step = -WARM_STEPS; step < STEPS; step++) {
    while (scheduler.running + scheduler.waiting < running + waiting) arrive();
    const start = performance.now();
    const planned = scheduler.plan();
    if (planned === null) throw new Error('nothing can run');
    scheduler.retire(planned.plan.entries.map(({ samples }) => (samples ? SAMPLED : NONE)));
    if (step >= 0) took.push(performance.now() - start);
  }
  return { step_ms: median(took), preemptions: scheduler.preemptions };
}

const CASES = [
  { running: 100, waiting: 0, kv: 'plenty' },
  { running: 100, waiting: 1_000, kv: 'plenty' },
  { running: 1_000, waiting: 0, kv: 'plenty' },
  { running: 1_000, waiting: 10_000, kv: 'plenty' },
  { running: 1_000, waiting: 100_000, kv: 'plenty' },
  { running: 1_000, waiting: 10_000, kv: 'short' },
] as const;

const rows = CASES.map(({ running, waiting, kv }) => {
  const most = Math.ceil((PROMPT + MAX_TOKENS) / 16) * running;
  // Short: about half of what all would need at their longest, so that some give way all the time.
  return { running, waiting, kv, goal_ms: GOAL_MS, ...measure(running, waiting, kv === 'plenty' ? most : Math.ceil(most / 3)) };
});
printTable(
  'A step of the scheduler, planned and retired: ms on one core',
  ['running', 'waiting', 'KV blocks', 'preempted', 'ms', 'goal'],
  rows.map((row) => [String(row.running), String(row.waiting), row.kv, String(row.preemptions), digits(row.step_ms), atMost(row.goal_ms, row.step_ms)]),
);
writeResults(resultsPath('scheduler'), rows);
