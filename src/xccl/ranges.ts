/** Whose memory an address names, before anything is copied from or to it. @module */
import { addressText } from '../fabric/address.ts';
import type { Region } from '../fabric/memory-plan.ts';
import type { Access } from '../fabric/region-table.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import type { Surroundings } from './endpoint.ts';

/** The regions of each die: those of the owner whose region holds the die's areas. */
export class Ranges {
  readonly #surroundings: Surroundings;
  /** By die: the region with its areas. */
  readonly #regionOf: number[] = [];

  constructor(surroundings: Surroundings) {
    this.#surroundings = surroundings;
  }

  /**
   * The region of the die that holds the range. `by`: who touches it. `epoch`: of the region, as the one who named the range saw it.
   * @throws `memory_fault` naming region, owner and access.
   */
  check(die: number, address: number, bytes: number, access: Access, by: { readonly what: string }, epoch?: number): number {
    const { table, regions } = this.#surroundings.space;
    const usual = this.regionOf(die);
    const { base, bytes: length, owner } = regions[usual] as Region;
    // Nearly always there: without the words of an error that is not needed.
    if (address >= base && address + bytes <= base + length && table.stateOf(usual) === 'held' && (epoch === undefined || epoch === table.epochOf(usual)))
      return usual;
    const index = table.check(address, bytes, access, by.what, epoch);
    const region = regions[index] as Region;
    if (region.owner !== owner)
      throw new MinipodError(
        'memory_fault',
        `${by.what} may not ${access} ${bytes} bytes at ${addressText(address)} as memory of ${owner}: they lie in ${region.kind} of ${region.owner}`,
      );
    return index;
  }

  /** The region with the die's areas. */
  regionOf(die: number): number {
    const known = this.#regionOf[die];
    if (known !== undefined) return known;
    const { areasOf, space } = this.#surroundings;
    const { metadata } = areasOf(die);
    const index = space.regions.findIndex(({ base, bytes }) => metadata >= base && metadata < base + bytes);
    assert(index >= 0, `the areas of die ${die} lie in no region`);
    this.#regionOf[die] = index;
    return index;
  }
}
