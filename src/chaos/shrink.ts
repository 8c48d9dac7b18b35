/**
 * Makes a plan that breaks an invariant as small as it can: fewer faults, fewer and shorter calls, a plainer pod; each smaller plan is run, and kept if it breaks
 * the same (Zeller's delta debugging, over faults; one by one over all else).
 * @module
 */
import { type ChaosCall, type ChaosPlan, type Fault, parsePlan } from './fault-plan.ts';
import { type RunOptions, type RunReport, runPlan } from './run.ts';
import type { Undisturbed } from './undisturbed.ts';

export type Shrunk = { readonly plan: ChaosPlan; readonly report: RunReport; readonly runs: number };

/** Each takes as long as a run. */
export const SHRINKING_RUNS_MAX = 400;

/** What a plan says of its pod that it might as well not. */
const PLAINER: readonly ((pod: ChaosPlan['pod']) => ChaosPlan['pod'] | null)[] = [
  () => ({ topology: 'colocated:dp=1' }),
  () => ({ topology: 'colocated:dp=2' }),
  () => ({ topology: 'colocated:dp=2', workers: 2 }),
  ({ topology, workers }) => ({ topology, workers }),
  ...['job_executors', 'kv_blocks', 'prefix_caching', 'async_scheduling', 'load_balancing', 'max_queued', 'max_batch_tokens', 'max_batch_requests'].map(
    (option) => without(option),
  ),
  without('long_prompt_groups', 'long_prompt_tokens'),
  without('dram_blocks', 'dram_bytes_per_s'),
  ...[
    'kernels',
    'kv_lease_ms',
    'kv_fabric',
    'kv_transfer',
    'expert_balancing',
    'prefix_sharing',
    'link_bytes_per_s',
    'micro_batches',
    'schedule',
    'speculative_config',
    'recovery',
    'rehome_after_ms',
    'degraded',
    'role_switch',
    'respawn',
    'scheduling_policy',
    'kv_block_size',
    'kv_checks',
    'row_checks',
    'dram_bytes_per_s',
    'long_prompt_tokens',
    'npu_workers',
    'enforce_eager',
    'kv_cache_dtype',
    'dispatch_dtype',
    'combine_dtype',
    'workers',
  ].map((option) => without(option)),
];

/** `others` do nothing where it is not. */
function without(option: string, ...others: readonly string[]): (pod: ChaosPlan['pod']) => ChaosPlan['pod'] | null {
  return ({ [option]: gone, ...rest }) => (gone === undefined ? null : Object.fromEntries(Object.entries(rest).filter(([name]) => !others.includes(name))));
}

const SMALLER: readonly ((call: ChaosCall) => ChaosCall)[] = [
  (call) => ({ ...call, ms: 0 }),
  (call) => ({ ...call, n: 1 }),
  ({ deadline_ms: _, ...call }) => call,
  ({ priority: _, ...call }) => call,
  ({ data_parallel_rank: _, ...call }) => call,
  ({ speculative_decoding: _, ...call }) => call,
  ({ top_k: _, ...call }) => call,
  ({ frequency_penalty: _, ...call }) => call,
  (call) => ({ ...call, stem_tokens: 0 }),
  (call) => ({ ...call, max_tokens: Math.ceil(call.max_tokens / 2) }),
  (call) => ({ ...call, prompt_tokens: Math.ceil(call.prompt_tokens / 2) }),
];

/** What breaks is the same where it ends alike; a crash has to say the same: another one is soon found, such as a change of shape in a pod that is too small for it. */
function howOf({ verdict, violations }: RunReport): string {
  const crash = violations.find((violation) => violation.verdict === 'crash');
  return verdict === 'crash' ? `crash ${crash?.what.replaceAll(/\d+/g, 'N')}` : verdict;
}

/** `plant`: as for `runPlan`, in each of the runs. */
export async function shrinkPlan(
  broken: ChaosPlan,
  undisturbed: Undisturbed,
  onRun: (runs: number) => void = () => {},
  plant?: RunOptions['plant'],
): Promise<Shrunk> {
  const first = await runPlan(broken, undisturbed, { plant });
  let best = { plan: broken, report: first };
  let runs = 1;
  /** Whether the smaller plan breaks as the first did; then it is the one to go on from. */
  const breaks = async (plan: ChaosPlan): Promise<boolean> => {
    if (runs >= SHRINKING_RUNS_MAX || JSON.stringify(plan) === JSON.stringify(best.plan)) return false;
    onRun(++runs);
    try {
      const report = await runPlan(parsePlan(plan), undisturbed, { plant });
      // A call for a DP group that the smaller pod lacks breaks nothing.
      if (howOf(report) !== howOf(first) || report.calls.some(({ code }) => code === 'invalid_request')) return false;
      best = { plan, report };
      return true;
    } catch {
      // A pod that cannot be, or a fault of what it does not have.
      return false;
    }
  };
  if (first.verdict === 'held') return { ...best, runs };
  for (let before = ''; before !== JSON.stringify(best.plan); ) {
    before = JSON.stringify(best.plan);
    await shrinkFaults(() => best.plan, breaks);
    for (let call = best.plan.calls.length - 1; call >= 0; call--) if (best.plan.calls.length > 1) await breaks(withoutCall(best.plan, call));
    for (const changes of ['shapes', 'rebalances'] as const) {
      const { [changes]: asked, ...unchanged } = best.plan;
      if (asked !== undefined && !(await breaks(unchanged)))
        for (const gone of asked.keys()) await breaks({ ...best.plan, [changes]: best.plan[changes]?.filter((_: unknown, index: number) => index !== gone) });
    }
    const { mtp_layers, ...once } = best.plan;
    if (mtp_layers !== undefined) await breaks(once);
    for (const plainer of PLAINER) {
      const pod = plainer(best.plan.pod);
      if (pod !== null && JSON.stringify(pod).length < JSON.stringify(best.plan.pod).length) await breaks({ ...best.plan, pod });
    }
    for (const smaller of SMALLER)
      for (const index of best.plan.calls.keys())
        await breaks({ ...best.plan, calls: best.plan.calls.map((call, at) => (at === index ? smaller(call) : call)) });
  }
  return { ...best, runs };
}

/** Complements of ever smaller parts, until no fault can be left out. */
async function shrinkFaults(best: () => ChaosPlan, breaks: (plan: ChaosPlan) => Promise<boolean>): Promise<void> {
  for (let size = Math.max(1, best().faults.length); size >= 1; ) {
    let found = false;
    for (let from = 0; from < best().faults.length && !found; from += size)
      found = await breaks({ ...best(), faults: best().faults.filter((_, index) => index < from || index >= from + size) });
    size = found ? Math.min(size, best().faults.length) : Math.floor(size / 2);
  }
}

/** Faults of a client go with its call. */
function withoutCall(plan: ChaosPlan, gone: number): ChaosPlan {
  const faults = plan.faults.flatMap((fault): Fault[] => {
    if (!('call' in fault)) return [fault];
    return fault.call === gone ? [] : [{ ...fault, call: fault.call > gone ? fault.call - 1 : fault.call }];
  });
  return { ...plan, calls: plan.calls.filter((_, index) => index !== gone), faults };
}
