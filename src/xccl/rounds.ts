/**
 * The rounds of one end of an exchange: dispatch, combine, dispatch, combine, …, each an operation that can be resumed.
 *
 * Race: areas and fields are used again in every round, and a rank may be a step ahead of another. No reader sees them half overwritten, since each step
 * acknowledges the one before it:
 *
 *   a rank writes its dispatch area and its dispatch fields for round r + 1 after its combine of round r is done, which had a field of every expert rank;
 *   an expert rank writes that field after its dispatch of round r is done: it has read the fields and pulled the tokens of round r.
 *   An expert rank writes its reply area and its combine fields for round r + 1 after its dispatch of round r + 1 is done, which had a field of every rank
 *   with tokens; such a rank writes that field after its combine of round r is done: it has read the fields and pulled the answers of round r.
 *
 * So one buffer of each is enough, as long as dispatch and combine take turns, which is asserted, and nobody else uses the same extents and fields.
 * A round that failed leaves some ranks a step behind the others: the exchange is over for this end, and a new one begins in a new life of the domain.
 * A reader that is still in an old life's poll when its peers write for the new one finds the domain destroyed when it is through, and keeps nothing.
 * @module
 */
import { assert, MinipodError } from '../protocol/errors.ts';
import type { Arrivals } from './arrivals.ts';
import type { Membership } from './membership.ts';
import { DONE, deadlineExceeded, failed, type Operation, type Poll } from './operation.ts';
import { type Needs, silentRanks } from './wait-chain.ts';

export type Step = 'dispatch' | 'combine';
/** What the steps are called in errors: `dispatch`, `A2E`. */
export type StepNames = Readonly<Record<Step, string>>;

export type StepWork = {
  readonly timeout_ms: number;
  /** What stays with this rank; what it throws goes to the caller of `start`, and the step has not begun. */
  readonly prepare?: (what: string) => void;
  /** What needs nobody: writes to the peers. */
  readonly begin: (round: number) => void;
  /** Goes on as far as it can: null when it is done, else what it waits for. Without one, the step is done when it has begun. */
  readonly resume: ((what: string, round: number) => Arrivals | null) | null;
};

export class Rounds {
  readonly membership: Membership;
  readonly names: StepNames;
  readonly needs: Needs;
  #round = 0;
  #next: Step = 'dispatch';
  #isOpen = false;

  constructor(membership: Membership, names: StepNames, needs: Needs) {
    this.membership = membership;
    this.names = names;
    this.needs = needs;
  }

  /**
   * @throws `closed` if an earlier step failed, and what `prepare` throws. A domain that is no more, or a rank that was given up, is for the first poll to
   * say, as it is later on.
   */
  start(step: Step, work: StepWork): Operation {
    this.#mayStart(step);
    const round = step === 'dispatch' ? (this.#round + 1) | 0 : this.#round;
    const what = `${this.names[step]} of round ${round} at rank ${this.membership.rank}`;
    const operation = new StepOperation(this, what, round, work);
    this.#round = round;
    this.#isOpen = operation.isOpen;
    this.#next = step === 'dispatch' ? 'combine' : 'dispatch';
    return operation;
  }

  settle(failure: MinipodError | null): void {
    this.#isOpen = false;
    this.membership.failure ??= failure;
  }

  #mayStart(step: Step): void {
    const { failure, rank } = this.membership;
    if (failure !== null) throw new MinipodError('closed', `no ${this.names[step]} at rank ${rank} after a failure (${failure.message}): make a new domain`);
    assert(!this.#isOpen, `${this.names[step]} at rank ${this.membership.rank} before the step at hand is done`);
    assert(this.#next === step, `${this.names[step]} at rank ${this.membership.rank} out of turn: ${this.names[this.#next]} is next`);
  }
}

class StepOperation implements Operation {
  readonly #rounds: Rounds;
  readonly #what: string;
  readonly #round: number;
  readonly #work: StepWork;
  readonly #started_ms: number;
  #end: Poll | null = null;

  constructor(rounds: Rounds, what: string, round: number, work: StepWork) {
    this.#rounds = rounds;
    this.#what = what;
    this.#round = round;
    this.#work = work;
    this.#started_ms = this.#now_ms();
    if (!this.#isStanding()) return;
    work.prepare?.(what);
    work.begin(round);
    if (work.resume === null) this.#settle();
  }

  get isOpen(): boolean {
    return this.#end === null;
  }

  poll(): Poll {
    if (this.#end !== null) return this.#end;
    try {
      this.#rounds.membership.check(this.#what);
      const waiting = this.#work.resume?.(this.#what, this.#round) ?? null;
      if (waiting !== null) {
        this.#checkDeadline(waiting);
        return waiting.pending;
      }
      // What was pulled while the domain ended is not whole.
      this.#rounds.membership.check(this.#what);
      return this.#settle();
    } catch (error) {
      return this.#fail(error);
    }
  }

  #isStanding(): boolean {
    try {
      this.#rounds.membership.check(this.#what);
      return true;
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  #checkDeadline(waiting: Arrivals): void {
    const waited_ms = this.#now_ms() - this.#started_ms;
    if (waited_ms < this.#work.timeout_ms) return;
    throw deadlineExceeded(this.#what, silentRanks(this.#rounds.membership, waiting.awaited(), this.#rounds.needs), waited_ms);
  }

  #settle(): Poll {
    this.#rounds.settle(null);
    this.#end = DONE;
    return DONE;
  }

  #fail(error: unknown): Poll {
    const reason = error instanceof MinipodError ? error : new MinipodError('internal', `${this.#what} broke off`, { cause: error });
    this.#rounds.settle(reason);
    this.#end = failed(reason);
    // Such as a kernel that was stopped: whoever stopped it knows what to do.
    if (error !== reason) throw error;
    return this.#end;
  }

  #now_ms(): number {
    return this.#rounds.membership.endpoint.surroundings.now_ms();
  }
}
