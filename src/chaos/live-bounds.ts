/**
 * How long clients may wait for their next tokens where what is struck is found by nobody, since it heals by itself: as long as the slowest that it heals by, and what
 * the pod needs anyway. A thread that waits for a processor can heal nothing: on a crowded machine what all of them have waited meanwhile comes on top.
 * @module
 */
import { STALL_LOOK_MS, TURNS_PER_CLOCK } from '../fabric/links.ts';
import { SLEEP_IDLE_MS, SLEEP_STEPPING_MS, SPINS_IDLE } from '../runtime/idle-ladder.ts';
import { timesOfAll } from '../runtime/os-thread.ts';
import type { LiveKind } from './live-kinds.ts';

/** Less than the silence for which a thread is given up. */
export const FULL_MS = { min: 20, max: 100 } as const;
/** Time for a peer to see what is stale. */
export const STALE_MS = 0.5;
/** Steps with a prompt, collections, what is compiled anew: the goal for the stall that a thread which hangs makes. */
const ORDINARY_MS = 500;
const NS_PER_MS = 1_000_000;

const HEALED_MS: Readonly<Partial<Record<LiveKind, number>>> = {
  /** A writer with something that waits for room tries again whenever it looks up. */
  'ring-full': FULL_MS.max + SLEEP_STEPPING_MS,
  /** Whoever sleeps looks up by himself: the longest that any thread sleeps while there are calls. */
  'bell-lost': SLEEP_IDLE_MS,
  /** What was told anew is there at once behind it; a peer that has slept for it looks up. */
  'field-stale': STALE_MS + SLEEP_STEPPING_MS,
  /** Its reader, where it sleeps in between, says it anew in its next look at stalls behind so many looks for work. */
  'acknowledgement-stale': STALL_LOOK_MS + Math.ceil(TURNS_PER_CLOCK / SPINS_IDLE) * SLEEP_IDLE_MS,
};

/** Null: what ends it has no clock, or is found. */
export const boundOf = (kind: LiveKind): number | null => {
  const healed_ms = HEALED_MS[kind];
  return healed_ms === undefined ? null : healed_ms + ORDINARY_MS;
};

/** By thread of this process: how long it has waited for a processor, ns. */
export type Waits = ReadonlyMap<number, number>;

export const waitsOfAll = (): Waits => new Map([...timesOfAll()].map(([id, { wait_ns }]) => [id, wait_ns]));

/** How long all of them together have waited since. Null: this system does not say. */
export function waitedSince(before: Waits): number | null {
  const now = waitsOfAll();
  if (now.size === 0) return null;
  return [...now].reduce((sum, [id, wait_ns]) => sum + wait_ns - (before.get(id) ?? 0), 0) / NS_PER_MS;
}
