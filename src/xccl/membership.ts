/**
 * One rank's part in a domain: who the others are, and whether all of them are still who they were.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import { invariantBroken, MinipodError } from '../protocol/errors.ts';
import { type Domain, domainDestroyed, isAlive, rankOf } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { domainTag, livesTag } from './message.ts';

/** By rank, as the end knows them from now on: a die that was restarted joins as a new one. */
function epochsOf(endpoint: Endpoint, { dies }: Domain): Int32Array {
  for (const die of dies) endpoint.refresh(die);
  return Int32Array.from(dies, (die) => (die === endpoint.die ? endpoint.epoch : endpoint.epochOf(die)));
}

/** Of this life of the domain: what was left of an earlier one is not heard. */
export const tagOf = (endpoint: Endpoint, domain: Domain, epochs = epochsOf(endpoint, domain)): number =>
  domain.hasLivesOfDies === true ? livesTag(domain, epochs) : domainTag(domain);

export class Membership {
  readonly endpoint: Endpoint;
  readonly domain: Domain;
  readonly rank: number;
  readonly tag: number;
  /** Why this rank's part is over: an operation failed, so it is a step behind or ahead of the others. */
  failure: MinipodError | null = null;
  /** By rank, as they were when this part began. */
  readonly #epochs: Int32Array;
  /** The member whose epoch the next check looks at. */
  #next = 0;

  constructor(endpoint: Endpoint, domain: Domain) {
    this.endpoint = endpoint;
    this.domain = domain;
    this.rank = rankOf(domain, endpoint.die);
    this.#epochs = epochsOf(endpoint, domain);
    this.tag = tagOf(endpoint, domain, this.#epochs);
  }

  get space(): AddressSpace {
    return this.endpoint.space;
  }

  get size(): number {
    return this.domain.dies.length;
  }

  dieOf(rank: number): number {
    const die = this.domain.dies[rank];
    if (die === undefined) invariantBroken(`rank ${rank} of domain ${this.domain.id}, which has ${this.size}`);
    return die as number;
  }

  /** `rank 3 (die 5)` */
  nameOf(rank: number): string {
    return `rank ${rank} (die ${this.dieOf(rank)})`;
  }

  /**
   * What ends an operation for everyone; for each poll, so the others' epochs are looked at one a call, in turn.
   * @throws `closed` when the domain was destroyed, `worker_failed` naming a rank that was given up.
   */
  check(what: string): void {
    const { control } = this.space;
    if (!isAlive(control, this.domain)) throw domainDestroyed(this.domain, what);
    if (control.epochOfDie(this.endpoint.die) !== this.endpoint.epoch) throw this.givenUp(what, this.rank);
    this.#next = this.#next + 1 < this.size ? this.#next + 1 : 0;
    this.checkMember(what, this.#next);
  }

  checkMember(what: string, rank: number): void {
    if (this.space.control.epochOfDie(this.dieOf(rank)) !== this.#epochs[rank]) throw this.givenUp(what, rank);
  }

  /** None of its members was given up. */
  get isWhole(): boolean {
    return this.domain.dies.every((die, rank) => this.space.control.epochOfDie(die) === this.#epochs[rank]);
  }

  /** Nothing has ended it for all, and its members, all of them, still have the dies of `dies`, by rank. */
  isStanding(dies: readonly number[]): boolean {
    const { control } = this.space;
    if (dies.length !== this.size || !isAlive(control, this.domain)) return false;
    for (let rank = 0; rank < this.size; rank++) {
      const die = this.dieOf(rank);
      if (dies[rank] !== die || control.epochOfDie(die) !== this.#epochs[rank]) return false;
    }
    return true;
  }

  givenUp(what: string, rank: number): MinipodError {
    return new MinipodError('worker_failed', `${what} ended: ${this.nameOf(rank)} was given up while it was under way`);
  }
}
