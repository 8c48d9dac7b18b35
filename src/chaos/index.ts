/**
 * Breaks things on purpose, in virtual time: one plan, or a campaign of seeds, with everything checked that must hold.
 *
 * @example
 * import { chaos } from 'minipod/chaos';
 * const report = await chaos.run({
 *   pod: { topology: 'pd:prefill=1,decode=1', workers: 2 },
 *   calls: [{ prompt_tokens: 40, max_tokens: 8 }],
 *   faults: [{ kind: 'worker-lost', worker: 1, at: { phase: 'kv-transfer' } }],
 * });
 * expect(report.verdict).toBe('held');
 * @module
 */
import { runCampaign } from './campaign.ts';
import { expandSeed } from './expand.ts';
import { type ChaosPlan, type ChaosPlanInput, parsePlan } from './fault-plan.ts';
import { runLive } from './live.ts';
import { planOf, readPlan } from './plan-file.ts';
import { type RunReport, runPlan } from './run.ts';
import { type Shrunk, shrinkPlan } from './shrink.ts';
import { Undisturbed } from './undisturbed.ts';

export type { CampaignOptions, CampaignReport, SeedReport } from './campaign.ts';
export type { CanaryReport } from './canary.ts';
export type { CallReport } from './client.ts';
export type { CoverageRow } from './coverage.ts';
export { REAL_KERNELS, type Scope } from './expand.ts';
export { type Cell, cellsOf, KIND_TERMS } from './fault-kinds.ts';
export {
  type ChaosCall,
  type ChaosPlan,
  type ChaosPlanInput,
  FAULT_KINDS,
  type Fault,
  type FaultInput,
  type FaultKind,
  PHASES,
  type Phase,
} from './fault-plan.ts';
export type { FaultReport } from './fault-report.ts';
export type { Verdict, Violation } from './invariants.ts';
export type { LiveOptions, LiveReport } from './live.ts';
export type { StallParts } from './live-findings.ts';
export { type Guard, LIVE_KIND_TEXTS, LIVE_KINDS, type LiveKind, WORKER_KINDS } from './live-kinds.ts';
export type { Strike } from './live-strikes.ts';
export { RECOVERIES, RECOVERY_TERMS, type Recovery } from './recoveries.ts';
export type { RunReport } from './run.ts';
export { SHRINKING_RUNS_MAX, type Shrunk } from './shrink.ts';
export { TOPOLOGIES } from './topologies.ts';

/** @throws `invalid_request` for a plan that is none, a pod that cannot be, or a fault of what it does not have; never for an invariant that breaks: see `verdict` */
async function run(plan: ChaosPlanInput, options: { /** A file to record the run in. */ readonly record?: string } = {}): Promise<RunReport> {
  await using undisturbed = new Undisturbed();
  // Awaited here: what it returns would else be waited for when the models are closed already.
  return await runPlan(parsePlan(plan), undisturbed, options);
}

/** The smallest plan found that breaks as this one does; `runs`: what it took. One that holds comes back as it is. */
async function shrink(plan: ChaosPlanInput, onRun?: (runs: number) => void): Promise<Shrunk> {
  await using undisturbed = new Undisturbed();
  return await shrinkPlan(parsePlan(plan), undisturbed, onRun);
}

export const chaos = {
  run,
  shrink,
  /** The plan that a seed stands for. */
  planOf: (seed: number, scope: Parameters<typeof expandSeed>[1] = {}): ChaosPlan => expandSeed(seed, scope),
  readPlan,
  /** The plan that a text is, as a file's. */
  parsePlan: (text: string): ChaosPlan => planOf(text, 'the plan'),
  campaign: runCampaign,
  /** Against real worker threads. */
  live: runLive,
} as const;
