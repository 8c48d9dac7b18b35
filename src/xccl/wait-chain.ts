/**
 * Whom a wait that has passed its deadline is due to. A rank that waits for a rank that waits for a third should name the third: global memory lets it
 * look into the others' metadata and see what they have been told.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import { type Channel, FIELD_BYTES, FIELD_WORD } from './areas.ts';
import { roundsAhead } from './arrivals.ts';
import type { Membership } from './membership.ts';

/** A field that rank `writer` owes to rank `reader`. */
export type Awaited = { readonly writer: number; readonly reader: number; readonly channel: Channel; readonly round: number };

/** What the writer must have been told, if anything, before it can write the field. */
export type Needs = (field: Awaited) => readonly Awaited[];

/** Ranks that have been told all that they need and are silent, ascending. */
export function silentRanks(membership: Membership, awaited: readonly Awaited[], needs: Needs): number[] {
  const silent = new Set<number>();
  const seen = new Set<string>();
  const visit = (field: Awaited): void => {
    const key = `${field.writer} ${field.reader} ${field.channel} ${field.round}`;
    if (seen.has(key)) return;
    seen.add(key);
    const untold = needs(field).filter((needed) => !isWritten(membership, needed));
    if (untold.length === 0) silent.add(field.writer);
    for (const needed of untold) visit(needed);
  };
  for (const field of awaited) visit(field);
  return [...silent].sort((a, b) => a - b);
}

/** The field is in the reader's metadata, of this round or a later one. */
function isWritten(membership: Membership, { writer, reader, channel, round }: Awaited): boolean {
  const { endpoint, space, tag } = membership;
  const { metadata, peer_bytes } = endpoint.surroundings.areasOf(membership.dieOf(reader));
  const words = space.wordsOf(metadata);
  const at = (offsetOf(metadata) + membership.dieOf(writer) * peer_bytes + channel * FIELD_BYTES) / 4;
  if (Atomics.load(words, at + FIELD_WORD.event) === 0) return false;
  return words[at + FIELD_WORD.d] === tag && roundsAhead(words[at + FIELD_WORD.e] as number, round) >= 0;
}
