/** Whether memory still is whose it was. @module */
import type { AddressSpace } from '../../fabric/address-space.ts';

/** The epoch of the region that has these bytes; −1: they lie in none, or nobody holds it. Unchanged after a copy, the copy is of that owner's memory. */
export function epochOfRegion({ regions, table, control }: AddressSpace, address: number, bytes: number): number {
  for (let region = 0; region < regions.length; region++) {
    const { base, bytes: size } = regions[region] as (typeof regions)[number];
    if (address < base || address + bytes > base + size) continue;
    // Ends after the copies before it, as in `MemoryBackend.readWords`.
    const entry = control.regionEntry(region);
    Atomics.or(entry.words, entry.at, 0);
    return table.stateOf(region) === 'held' ? table.epochOf(region) : -1;
  }
  return -1;
}
