/** `minipod chaos campaign`. @module */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chaos, type Verdict } from '../chaos/index.ts';
import { junit } from '../chaos/junit.ts';
import { commandOf, EXIT_CODES, type ScopeFlags, scopeOf } from './chaos-scope.ts';
import { campaignLines } from './chaos-tables.ts';
import { Interrupt } from './interrupt.ts';
import { note, print, printJson } from './output.ts';
import { Progress } from './progress.ts';

type CampaignFlags = ScopeFlags & {
  readonly seeds: { readonly first: number; readonly last: number };
  readonly jobs: number;
  readonly failuresMax?: number;
  readonly junit?: string;
  readonly traces: string;
  readonly canary?: true;
};

const TRACES_MAX = 5;
/** A campaign that does not find its canary has told nothing. */
const CANARY_MISSED = 1;

export async function campaign(flags: CampaignFlags): Promise<number> {
  const { seeds, jobs, failuresMax: failures_max, canary } = flags;
  const scope = scopeOf(flags);
  using interrupt = new Interrupt();
  using progress = new Progress(`seeds ${seeds.first}..${seeds.last}`);
  const began_ms = performance.now();
  const cpu = process.cpuUsage();
  const report = await chaos.campaign({
    seeds,
    jobs,
    failures_max,
    canary,
    ...scope,
    signal: interrupt.signal,
    onProgress: (done, total) => progress.show(done / total),
  });
  const seconds = (performance.now() - began_ms) / 1_000;
  const { user, system } = process.cpuUsage(cpu);
  progress.end();
  const traces = new Map<number, readonly string[]>();
  for (const { seed } of report.failures.slice(0, TRACES_MAX)) {
    if (interrupt.by !== null) break;
    const record = join(flags.traces, `chaos-${seed}.trace`);
    try {
      traces.set(seed, (await chaos.run(chaos.planOf(seed, scope), { record })).traces);
    } catch (error) {
      note(`minipod: seed ${seed} has no trace: ${error instanceof Error ? error.message : error}`);
    }
  }
  const repeat = (seed: number): string => commandOf(seed, scope);
  if (flags.junit !== undefined) writeFileSync(flags.junit, junit(report, repeat));
  if (flags.json) {
    const failures = report.failures.map((failure) => ({ ...failure, command: repeat(failure.seed), traces: traces.get(failure.seed) ?? [] }));
    const { seeds: _, ...sums } = report;
    await printJson({ ...sums, failures, seconds, cpu_seconds: (user + system) / 1e6 });
  } else await print(`${campaignLines(report, seconds, repeat, traces).join('\n')}\n`);
  if (interrupt.by !== null) return interrupt.exit_code;
  if (report.canary?.seed === null) return CANARY_MISSED;
  return Math.max(...(Object.keys(report.verdicts) as Verdict[]).map((verdict) => EXIT_CODES[verdict]));
}
