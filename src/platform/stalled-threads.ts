/**
 * Workers that read nothing while frames wait for them: they hang, and whoever writes to them is stuck next.
 * @module
 */
import type { Links } from '../fabric/links.ts';
import { LIMITS } from '../fabric/outgoing.ts';

/** Longer than any step: half of what a link bears (fabric/outgoing.ts). */
const STALL_MS_MAX = LIMITS.stall_ms_max / 2;

export type StalledThread = { readonly thread: number; readonly reason: string };

/** Of those that this thread's links lead to. */
export const stalledThreads = (links: Links): StalledThread[] =>
  links.counters().flatMap(({ peer, lane, waiting, stalled_ms }) => {
    if (stalled_ms < STALL_MS_MAX) return [];
    const seconds = Math.round(stalled_ms / 1000);
    return [{ thread: peer, reason: `it has read nothing from its ${lane} ring for ${seconds} s, and ${waiting} more payloads wait for room` }];
  });
