/**
 * The terms of an operation with one peer: it ends with an error once its domain is destroyed, one of both dies is given up, or its deadline has passed.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { MinipodError } from '../protocol/errors.ts';
import { type Domain, domainDestroyed, isAlive } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { domainTag } from './message.ts';
import { deadlineExceeded, type Poll, pendingOn } from './operation.ts';

export class Terms {
  readonly domain: Domain;
  readonly tag: number;
  readonly rank: number;
  readonly die: number;
  readonly event: number;
  /** What an operation under these terms answers while it goes on. */
  readonly pending: Poll;
  readonly #endpoint: Endpoint;
  readonly #control: ControlPage;
  readonly #verb: string;
  readonly #epoch: number;
  readonly #start_ms: number;
  readonly #timeout_ms: number;

  /** `verb`: `send to`. `rank`: the peer's in the domain. `timeout_ms`: from now on, by the clock of the surroundings. */
  constructor(endpoint: Endpoint, verb: string, domain: Domain, rank: number, event: number, timeout_ms: number) {
    const die = domain.dies[rank];
    if (die === undefined) throw new MinipodError('invalid_request', `${verb} rank ${rank} of domain ${domain.id}, which has ${domain.dies.length} ranks`);
    if (!domain.dies.includes(endpoint.die))
      throw new MinipodError('invalid_request', `${verb} rank ${rank} of domain ${domain.id}, in which die ${endpoint.die} has no rank itself`);
    if ((event | 0) !== event) throw new MinipodError('invalid_request', `${verb} rank ${rank} of event ${event}, which is no 32-bit integer`);
    this.domain = domain;
    this.tag = domainTag(domain);
    this.rank = rank;
    this.die = die;
    this.event = event;
    this.pending = pendingOn(rank);
    this.#endpoint = endpoint;
    this.#control = endpoint.surroundings.space.control;
    this.#verb = verb;
    this.#epoch = endpoint.epochOf(die);
    this.#start_ms = endpoint.surroundings.now_ms();
    this.#timeout_ms = timeout_ms;
  }

  get what(): string {
    return `${this.#verb} rank ${this.rank} (die ${this.die}) of event ${this.event}`;
  }

  /** Why the operation cannot go on, or null. Looked at once more after data was taken: what a die left before it was given up may be torn. */
  broken(): MinipodError | null {
    const { die, epoch } = this.#endpoint;
    const control = this.#control;
    if (control.epochOfDie(die) !== epoch) return this.#givenUp('its own die', die, epoch);
    if (!isAlive(control, this.domain)) return domainDestroyed(this.domain, this.what);
    if (control.epochOfDie(this.die) !== this.#epoch) return this.#givenUp(`rank ${this.rank}`, this.die, this.#epoch);
    return null;
  }

  /** The peer may be told: this die has not been given up, nor has the one that the operation began with. */
  get mayWrite(): boolean {
    const { die, epoch } = this.#endpoint;
    return this.#control.epochOfDie(die) === epoch && this.#control.epochOfDie(this.die) === this.#epoch;
  }

  /** The error of a deadline that has passed, or null. */
  expired(): MinipodError | null {
    const waited_ms = this.#endpoint.surroundings.now_ms() - this.#start_ms;
    return waited_ms < this.#timeout_ms ? null : deadlineExceeded(this.what, [this.rank], waited_ms);
  }

  #givenUp(who: string, die: number, epoch: number): MinipodError {
    const current = this.#control.epochOfDie(die);
    return new MinipodError('worker_failed', `${this.what} ended: ${who} was given up, the epoch of die ${die} rose from ${epoch} to ${current}`);
  }
}
