/**
 * Many seeds, each a run: on this thread, or on several at once.
 * @module
 */
import type { Worker } from 'node:worker_threads';
import { MinipodError } from '../protocol/errors.ts';
import { entryPoint } from '../runtime/thread-entry.ts';
import { startThread } from '../runtime/thread-start.ts';
import { type CanaryReport, findCanary } from './canary.ts';
import { Coverage, type CoverageRow } from './coverage.ts';
import { expandSeed, type Scope } from './expand.ts';
import type { Verdict } from './invariants.ts';
import { type Recovery, recoveryOf } from './recoveries.ts';
import { type RunReport, runPlan } from './run.ts';
import { Undisturbed } from './undisturbed.ts';

export type CampaignOptions = Scope & {
  readonly seeds: { readonly first: number; readonly last: number };
  /** Threads that run seeds; 1: this one. */
  readonly jobs: number;
  /** It ends when so many seeds have failed; missing: it goes through them all. */
  readonly failures_max?: number | undefined;
  /** A bug is planted in seeds after the last one, which it has to find. */
  readonly canary?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (done: number, total: number) => void;
};

export type SeedReport = Pick<RunReport, 'verdict' | 'violations' | 'faults' | 'events'> & {
  readonly seed: number;
  readonly calls: number;
  /** Of its pod. */
  readonly topology: string;
  readonly hasRealKernels: boolean;
  readonly recovery: Recovery;
};
export type CampaignReport = {
  readonly runs: number;
  /** Those that ran: all, unless the campaign was interrupted. */
  readonly seeds: readonly number[];
  /** Those that did not hold. */
  readonly failures: readonly SeedReport[];
  readonly verdicts: Readonly<Partial<Record<Verdict, number>>>;
  readonly coverage: readonly CoverageRow[];
  readonly calls: number;
  readonly events: number;
  /** Runs whose pods computed with the model itself. */
  readonly real_kernels: number;
  /** By topology, and by how many faults a plan had: runs. */
  readonly topologies: Readonly<Record<string, number>>;
  readonly faults_a_run: Readonly<Record<string, number>>;
  /** By what their pods do when somebody is lost: runs. */
  readonly recoveries: Readonly<Record<string, number>>;
  /** Null: none was asked for. */
  readonly canary: CanaryReport | null;
};

/** Seeds that a thread is given at once: what it learns of undisturbed calls, it keeps. */
const BATCH = 25;
/** Of one campaign: what ran is kept until its end. */
const SEEDS_MAX = 10_000_000;

export async function runSeed(seed: number, scope: Scope, undisturbed: Undisturbed): Promise<SeedReport> {
  const plan = expandSeed(seed, scope);
  const { verdict, violations, faults, calls, events } = await runPlan(plan, undisturbed);
  const { topology, kernels } = plan.pod;
  const recovery = recoveryOf(plan.pod);
  return { seed, verdict, violations, faults, calls: calls.length, events, topology: String(topology), hasRealKernels: kernels === 'real', recovery };
}

/** What `campaign-thread.ts` is given. */
export type Batch = { readonly seeds: readonly number[]; readonly scope: Scope };

/** @throws `invalid_request` for a scope of what there is not, or no seeds */
export async function runCampaign({
  seeds: { first, last },
  jobs,
  failures_max = Number.POSITIVE_INFINITY,
  canary = false,
  signal,
  onProgress = () => {},
  topologies,
  faults,
  recoveries,
  real_kernels,
}: CampaignOptions): Promise<CampaignReport> {
  const scope: Scope = { topologies, faults, recoveries, real_kernels };
  const refuse = (what: string, param: string): MinipodError => new MinipodError('invalid_request', `campaign: ${what}`, { param });
  if (!Number.isSafeInteger(first) || !Number.isSafeInteger(last) || first < 0 || last < first || last - first >= SEEDS_MAX)
    throw refuse(`seeds must be from 0 on, the last not before the first, and ${SEEDS_MAX} at most, not ${first} to ${last}`, 'seeds');
  if (!(failures_max >= 1)) throw refuse(`failures_max must be 1 at least, not ${failures_max}`, 'failures_max');
  if (!Number.isSafeInteger(jobs) || jobs < 1) throw refuse(`jobs must be 1 at least, not ${jobs}`, 'jobs');
  // What is wrong with the scope is said before any thread starts.
  expandSeed(first, scope);
  const coverage = new Coverage();
  const failures: SeedReport[] = [];
  const verdicts: Partial<Record<Verdict, number>> = {};
  const total = last - first + 1;
  const ran: number[] = [];
  const sums = { runs: 0, calls: 0, events: 0, real_kernels: 0 };
  const topologies_run: Record<string, number> = {};
  const faults_a_run: Record<string, number> = {};
  const recoveries_run: Record<string, number> = {};
  const count = (counts: Record<string, number>, name: string | number): void => {
    counts[name] = (counts[name] ?? 0) + 1;
  };
  const note = (report: SeedReport): void => {
    const { seed, verdict, faults: struck, calls, events, topology, hasRealKernels, recovery } = report;
    ran.push(seed);
    sums.runs++;
    sums.calls += calls;
    sums.events += events;
    if (hasRealKernels) sums.real_kernels++;
    count(topologies_run, topology);
    count(faults_a_run, struck.length);
    count(recoveries_run, recovery);
    verdicts[verdict] = (verdicts[verdict] ?? 0) + 1;
    coverage.add(struck, recovery);
    if (verdict !== 'held') failures.push(report);
    onProgress(sums.runs, total);
  };
  const batches = batchesOf(first, last, Math.max(1, Math.min(BATCH, Math.ceil(total / (4 * jobs)))));
  const isOver = (): boolean => signal?.aborted === true || failures.length >= failures_max;
  if (jobs === 1) await runHere(batches, scope, note, isOver);
  else await runOnThreads(batches, scope, jobs, note, isOver);
  failures.sort((a, b) => a.seed - b.seed);
  ran.sort((a, b) => a - b);
  return {
    ...{ ...sums, seeds: ran, failures, verdicts, coverage: coverage.rows, topologies: topologies_run, faults_a_run, recoveries: recoveries_run },
    canary: canary ? await lookForCanary(last + 1, signal) : null,
  };
}

async function lookForCanary(first: number, signal: AbortSignal | undefined): Promise<CanaryReport> {
  await using undisturbed = new Undisturbed();
  return await findCanary(first, undisturbed, () => signal?.aborted === true);
}

const batchesOf = (first: number, last: number, size: number): number[][] =>
  Array.from({ length: Math.ceil((last - first + 1) / size) }, (_, batch) =>
    Array.from({ length: Math.min(size, last - first + 1 - batch * size) }, (__, index) => first + batch * size + index),
  );

async function runHere(batches: readonly (readonly number[])[], scope: Scope, note: (report: SeedReport) => void, isOver: () => boolean): Promise<void> {
  await using undisturbed = new Undisturbed();
  for (const seeds of batches)
    for (const seed of seeds) {
      if (isOver()) return;
      note(await runSeed(seed, scope, undisturbed));
    }
}

/** Each thread is given another batch when it has answered the last. */
async function runOnThreads(
  batches: readonly (readonly number[])[],
  scope: Scope,
  jobs: number,
  note: (report: SeedReport) => void,
  isOver: () => boolean,
): Promise<void> {
  const waiting = [...batches];
  const work = async (): Promise<void> => {
    const thread = startThread(entryPoint('../chaos/campaign-thread'));
    try {
      for (let seeds = waiting.shift(); seeds !== undefined && !isOver(); seeds = waiting.shift())
        for (const report of await answerOf(thread, { seeds, scope })) note(report);
    } catch (error) {
      // Nobody will read what the others find.
      waiting.length = 0;
      throw error;
    } finally {
      await thread.terminate();
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, batches.length) }, work));
}

function answerOf(thread: Worker, batch: Batch): Promise<SeedReport[]> {
  const { promise, resolve, reject } = Promise.withResolvers<SeedReport[]>();
  const died = (code: number): void => reject(new MinipodError('internal', `a thread of the campaign exited with code ${code}`));
  thread.once('message', resolve);
  thread.once('error', reject);
  thread.once('exit', died);
  thread.postMessage(batch);
  return promise.finally(() => {
    thread.off('error', reject);
    thread.off('exit', died);
  });
}
