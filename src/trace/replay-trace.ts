/**
 * Replays a trace from its beginning until it ends, is damaged, lacks an act, or something is not as it was.
 * @module
 */
import { deploy, parseTopology } from '../protocol/topology.ts';
import { VERSION } from '../protocol/version.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import { ActNumbers, isWholeRun } from './act-numbers.ts';
import { actsOf, type Pause } from './acts.ts';
import { inCausalOrder } from './causal-order.ts';
import { grouped, type TraceDamage } from './damage.ts';
import { type DivergenceReport, reportDivergence } from './divergence-report.ts';
import { type Recompute, Replay } from './replay.ts';
import { promptsOf, type RunHeader } from './run-header.ts';
import type { TraceReader } from './trace-reader.ts';

export type ReplayReport = {
  /** `incomplete`: all that can be replayed is as it was, and it is not the whole run. */
  readonly outcome: 'reproduced' | 'diverged' | 'incomplete';
  /** That were replayed and were as they had been. */
  readonly acts: number;
  /** Launches whose kernels were computed again and found the same; null: kernels were left out. */
  readonly launches: number | null;
  /** The time of the last act. */
  readonly duration_us: number;
  readonly divergence: DivergenceReport | null;
  readonly damage: TraceDamage | null;
  /** Why recording ended before the run. */
  readonly stopped: string | null;
  /** Which acts of the run are not in the trace: what comes behind a gap is not replayed, since nobody knows what would be right there. */
  readonly missing: string | null;
  /** What is not as it was when the trace was recorded: a sentence each. */
  readonly differences: readonly string[];
};

export type ReplayOptions = { readonly recompute?: Recompute | null; readonly pause?: Pause };

/**
 * Holds the actors that are alive, and acts that stand in the trace before one that led to them.
 * @throws `invalid_trace` for records of a shape that is not known
 */
export async function replayTrace(reader: TraceReader, header: RunHeader, { recompute = null, pause }: ReplayOptions = {}): Promise<ReplayReport> {
  const replay = new Replay(recompute, promptsOf(header), deploy(parseTopology(header.topology)));
  const acts = actsOf(reader);
  const numbers = isWholeRun(reader.header) ? new ActNumbers() : null;
  let divergence: DivergenceReport | null = null;
  let missing: string | null = null;
  let duration_us = 0;
  // Kernels may find what another thread's have left.
  for (const traced of inCausalOrder(acts)) {
    const waiting = pause?.(traced.offset);
    if (waiting) await waiting;
    const gap = numbers?.next(traced.act) ?? null;
    if (gap !== null) {
      missing = `step ${grouped(traced.index)}: ${gap}`;
      break;
    }
    recompute?.at(traced.act.time_us);
    const differs = replay.feed(traced.act, traced.index);
    duration_us = Math.max(duration_us, traced.act.time_us);
    if (differs === null) continue;
    divergence = await reportDivergence(reader, promptsOf(header), traced, differs, pause);
    break;
  }
  const isRead = acts.damage === null && acts.stopped === null;
  if (isRead && divergence === null) missing ??= numbers?.end() ?? null;
  return {
    outcome: divergence !== null ? 'diverged' : isRead && missing === null ? 'reproduced' : 'incomplete',
    acts: replay.acts,
    launches: recompute === null ? null : replay.launches,
    duration_us,
    divergence,
    damage: acts.damage,
    stopped: acts.stopped,
    missing,
    differences: versionDifferences(header),
  };
}

/** What of minipod is not what the trace was recorded with. */
export function versionDifferences({ code_version, protocol }: RunHeader): string[] {
  const differences: string[] = [];
  if (code_version !== VERSION) differences.push(`recorded by minipod ${code_version}, and this is ${VERSION}`);
  if (protocol !== PROTOCOL_HASH) differences.push(`its messages have other shapes: protocol ${hex(protocol)}, and here it is ${hex(PROTOCOL_HASH)}`);
  return differences;
}

const hex = (hash: number): string => hash.toString(16).padStart(8, '0');
