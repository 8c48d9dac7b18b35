/** Whether a live pod has found what struck it, by its own account. @module */
import type { Pod } from '../pod.ts';
import type { Clock } from '../runtime/clock.ts';
import type { PodStats, RecoveryStats } from '../stats.ts';
import type { Guard } from './live-kinds.ts';

/**
 * Of a stall: it took so long until the loss was found, the end was proven, peers had let go, the successor ran, and until those tokens came that were waited for.
 * Null: nobody waited for that, since the successor of a control thread has memory of its own.
 */
export type StallParts = {
  readonly found: number;
  readonly end: number | null;
  readonly release: number | null;
  readonly start: number;
  readonly resume: number;
  readonly warm: boolean;
};

/** What the pod has found so far that ends nobody. `lives`: of all threads: who began anew counts from 0. */
type Findings = { readonly kv: readonly number[]; readonly rows: number; readonly lives: number };

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);

export const findingsOf = ({ npus, kv_links, fabric }: PodStats): Findings => ({
  kv: [sum(kv_links.map(({ failed }) => failed['corrupt'] ?? 0)), ...npus.map(({ kv_blocks_mapped_out }) => kv_blocks_mapped_out)],
  rows: sum(npus.map(({ rows_damaged }) => rows_damaged)),
  lives: sum(fabric.threads.map(({ epoch }) => epoch)),
});

/** Threads that were lost or given up, in this life of the pod. Spare seats begin with 2. */
export const lossesOf = ({ fabric }: PodStats, spare_workers: number): number => sum(fabric.threads.map(({ epoch }) => epoch - 1)) - spare_workers;

/** More of what the guard guards. */
export function hasFoundMore(guard: Guard, before: Findings, after: Findings): boolean {
  if (guard === 'rows') return after.rows > before.rows;
  return guard === 'kv' && after.kv.some((count, index) => count > (before.kv[index] ?? 0));
}

/** Whose end tells of a strike: the struck worker's, or whosever reason says so, since who reads rubbish may be another one. */
export function endsFor(guard: Guard, worker: number): ((recovery: RecoveryStats) => boolean) | null {
  switch (guard) {
    case 'end':
      return (recovery) => recovery.worker === worker;
    case 'frame':
      return ({ reason }) => reason.includes('the ring is corrupt');
    case 'weights':
      return ({ reason }) => reason.includes('do not hold what was loaded');
    default:
      return null;
  }
}

/** The last loss since then that it is, and when it was by this run's clock, which differs from the pod's by when they began. Null: none. */
export async function lossOf(
  pod: Pod,
  isIt: (recovery: RecoveryStats) => boolean,
  struck_ms: number,
  clock: Clock,
): Promise<{ readonly recovery: RecoveryStats; readonly lost_ms: number } | null> {
  const { recoveries, uptime_seconds } = await pod.stats();
  const offset_ms = clock.now_ms() - uptime_seconds * 1000;
  const lost_ms = ({ lost_at_seconds }: RecoveryStats): number => lost_at_seconds * 1000 + offset_ms;
  const recovery = recoveries.findLast((one) => isIt(one) && lost_ms(one) >= struck_ms - 1);
  return recovery === undefined ? null : { recovery, lost_ms: lost_ms(recovery) };
}

/** `ended_ms`: when the tokens came that were waited for longest. Null: nobody was lost, or has no successor yet. */
export async function partsOf(
  pod: Pod,
  isIt: (recovery: RecoveryStats) => boolean,
  struck_ms: number,
  ended_ms: number,
  clock: Clock,
): Promise<StallParts | null> {
  const loss = await lossOf(pod, isIt, struck_ms, clock);
  if (loss === null) return null;
  const { end_ms: end, release_ms: release, start_ms: start, warm } = loss.recovery;
  if (end === null || release === null || start === null) return null;
  const found = loss.lost_ms - struck_ms;
  return { found, end, release, start, resume: Math.max(0, ended_ms - struck_ms - found - end - release - start), warm };
}
