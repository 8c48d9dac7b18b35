/**
 * A DP domain (xDeepServe §5.2): attention ranks whose steps go layer by layer together, and the expert ranks, which all domains share. Its members are those of its
 * place that are not lost; it lives as long as all of them have their dies, nobody has said that a round failed, and nobody is back. Then it begins anew, with all
 * rounds counted from 1.
 *
 *   place   attention a b c │ experts X Y Z           X is lost       X is back, or has a successor
 *   life    ranks     0 1 2 │         3 4 5    ─▶   0 1 2 │ – 3 4    ─▶   0 1 2 │ 3 4 5
 *
 * Nobody is asked for that: a life is what a member knows of all members: who is lost, the die and the epoch of each other one, and a generation in the control page.
 * Members that know the same have the same tag in their fields and hear one another, and no round ends without all of them: so in a life that some do not know of yet
 * nothing happens but that the others wait.
 *
 * Nobody is in one life twice: where the same NPUs are left as before, since who had come back is lost again, whoever finds himself there once more passes the generation. Else
 * he would count his rounds from 1 while others go on, and take for an answer what was one to his first round in it before.
 *
 * Race: who hears last that somebody is back may still pull what a member left in the life before, while that one writes anew there. What it makes of torn rows goes to that
 * member alone, in a life that it does not listen to any more; a table that cannot be is a round that failed.
 * @module
 */
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { type Membership, tagOf } from './membership.ts';

/** `id`: of its generation in the control page. */
export type DpDomainPlace = { readonly id: number; readonly attention: readonly number[]; readonly experts: readonly number[] };

/** By rank: NPUs with attention, then those with experts; all that are not lost. */
export type DpDomainLife = Domain & {
  readonly npus: readonly number[];
  readonly attention: number;
  readonly experts: number;
  /** By index into the place's expert NPUs: the number among the life's expert ranks; −1: it is lost. */
  readonly rankOfExpert: readonly number[];
};

/** One member's knowledge of it. */
export class DpDomain {
  readonly place: DpDomainPlace;
  readonly #endpoint: Endpoint;
  readonly #npus: readonly number[];
  readonly #dieOf: (npu: number) => number;
  readonly #lost: ReadonlySet<number>;
  readonly #dies: number[] = [];
  /** Tags of the lives that this member has been in, of one generation. */
  readonly #seen = new Set<number>();
  #generation = 0;

  /** `place`: numbers of NPUs; `dieOf`: which die each has now; `lost`: who has none now. */
  constructor(endpoint: Endpoint, place: DpDomainPlace, dieOf: (npu: number) => number, lost: ReadonlySet<number>) {
    this.place = place;
    this.#endpoint = endpoint;
    this.#npus = [...place.attention, ...place.experts];
    this.#dieOf = dieOf;
    this.#lost = lost;
  }

  /** As it is now, to be begun: no other one is than this member has been in before. */
  life(): DpDomainLife {
    const life = this.#now();
    const { id, generation, dies } = life;
    if (generation !== this.#generation) this.#seen.clear();
    this.#generation = generation;
    const tag = tagOf(this.#endpoint, life);
    if (!this.#seen.has(tag)) {
      this.#seen.add(tag);
      return life;
    }
    this.#pass(id, generation, dies);
    return this.life();
  }

  #now(): DpDomainLife {
    const { control } = this.#endpoint.space;
    const { id, attention, experts } = this.place;
    const isThere = (npu: number): boolean => !this.#lost.has(npu);
    const npus = this.#npus.filter(isThere);
    let rank = 0;
    return {
      ...{ id, generation: control.generationOf(id), dies: npus.map(this.#dieOf), hasLivesOfDies: true },
      ...{ npus, attention: attention.filter(isThere).length, experts: experts.filter(isThere).length },
      rankOfExpert: experts.map((npu) => (isThere(npu) ? rank++ : -1)),
    };
  }

  /** Its present life is the one that the part was begun in. */
  isLifeOf(membership: Membership): boolean {
    const dies = this.#dies;
    dies.length = 0;
    for (const npu of this.#npus) if (!this.#lost.has(npu)) dies.push(this.#dieOf(npu));
    return membership.isStanding(dies);
  }

  /** A round of that part has failed here: its life is over for all, if it is not yet, and they are told to look. */
  end(membership: Membership): void {
    if (!this.isLifeOf(membership)) return;
    const { id, generation, dies } = membership.domain;
    this.#pass(id, generation, dies);
  }

  #pass(id: number, generation: number, dies: readonly number[]): void {
    const { space, arrive } = this.#endpoint.surroundings;
    if (space.control.passGeneration(id, generation)) for (const die of dies) arrive(die);
  }
}
