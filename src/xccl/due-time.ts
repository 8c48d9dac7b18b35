/**
 * When the step that asks is due, in the bits that a dispatch's count of segments leaves of its word: so that whoever serves many takes the one that is due first
 * (xDeepServe §5.3). All steps of a pod may take equally long, so the one that began first is due first; a deadline is known by the beginning of its step.
 *
 *   | due, in eighths of a millisecond, mod 2²⁰: 131 s | segments |
 *
 * Two are compared the short way round, as sequence numbers are: right as long as they are less than 65 s apart, and no step waits for half of that.
 * @module
 */
import { assert } from '../protocol/errors.ts';

const SEGMENT_BITS = 12;
const SEGMENT_MASK = (1 << SEGMENT_BITS) - 1;
const DUE_BITS = 32 - SEGMENT_BITS;
const UNITS_PER_MS = 8;

/** As it is compared: 0 to 2²⁰ − 1. */
export const dueOf = (began_ms: number): number => Math.floor(began_ms * UNITS_PER_MS) % 2 ** DUE_BITS;

export const isDueBefore = (due: number, other: number): boolean => (due - other) << SEGMENT_BITS < 0;

export function withDue(segments: number, due: number): number {
  assert(segments >= 0 && segments <= SEGMENT_MASK, `a dispatch of ${segments} segments, of ${SEGMENT_MASK} at most`);
  return (due << SEGMENT_BITS) | segments;
}

export const segmentsIn = (word: number): number => word & SEGMENT_MASK;
export const dueIn = (word: number): number => word >>> SEGMENT_BITS;
