/**
 * A DP domain (xDeepServe §5.2): attention ranks whose steps go layer by layer together, and the expert ranks, which all domains share. Who its members are never
 * changes; it lives as long as all of them have their dies, and nobody has said that a round failed. Then it begins anew, with all rounds counted from 1.
 *
 * Nobody is asked for that: a life is what a member knows of all members, the die and the epoch of each, and a generation in the control page. Members that know
 * the same have the same tag in their fields and hear one another, and no round ends without all of them: so in a life that some do not know of yet
 * nothing happens but that the others wait.
 * @module
 */
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import type { Membership } from './membership.ts';

/** `id`: of its generation in the control page. */
export type DpDomainPlace = { readonly id: number; readonly attention: readonly number[]; readonly experts: readonly number[] };

/** One member's knowledge of it. */
export class DpDomain {
  readonly place: DpDomainPlace;
  readonly #endpoint: Endpoint;
  readonly #npus: readonly number[];
  readonly #dieOf: (npu: number) => number;
  readonly #dies: number[];

  /** `place`: numbers of NPUs; `dieOf`: which die each has now. */
  constructor(endpoint: Endpoint, place: DpDomainPlace, dieOf: (npu: number) => number) {
    this.place = place;
    this.#endpoint = endpoint;
    this.#npus = [...place.attention, ...place.experts];
    this.#dieOf = dieOf;
    this.#dies = this.#npus.map(dieOf);
  }

  get attention(): number {
    return this.place.attention.length;
  }

  npuOf(rank: number): number {
    return this.#npus[rank] as number;
  }

  /** As it is now. */
  life(): Domain {
    const { control } = this.#endpoint.space;
    return { id: this.place.id, generation: control.generationOf(this.place.id), dies: this.#npus.map(this.#dieOf), hasLivesOfDies: true };
  }

  /** Its present life is the one that the part was begun in. */
  isLifeOf(membership: Membership): boolean {
    for (let rank = 0; rank < this.#npus.length; rank++) this.#dies[rank] = this.#dieOf(this.#npus[rank] as number);
    return membership.isStanding(this.#dies);
  }

  /** A round of that part has failed here: its life is over for all, if it is not yet, and they are told to look. */
  end(membership: Membership): void {
    if (!this.isLifeOf(membership)) return;
    const { id, generation, dies } = membership.domain;
    const { space, arrive } = this.#endpoint.surroundings;
    if (space.control.passGeneration(id, generation)) for (const die of dies) arrive(die);
  }
}
