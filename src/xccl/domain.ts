/**
 * A domain: the dies that take part in collectives, by rank. Created and destroyed as a whole; made anew without a rank, the ranks above it move down by one
 * (ReviveMoE; xDeepServe §6).
 *
 * Whether it lives is a word of the control page, its generation, odd while it does: so every operation under way sees the end at its next poll, on any thread.
 * @module
 */
import { type ControlPage, DIES_MAX, DOMAINS_MAX } from '../fabric/control-page.ts';
import { assert, MinipodError } from '../protocol/errors.ts';

/** Of no domain that is created: operations that name their own ranks. */
export const OF_OPERATIONS = DOMAINS_MAX - 1;

/** A plain value, so that it travels in messages. */
export type Domain = {
  readonly id: number;
  readonly generation: number;
  /** By rank. */
  readonly dies: readonly number[];
  /** Its life ends with that of any of its dies, and none of its fields is heard in another one (dp-domain.ts). */
  readonly hasLivesOfDies?: boolean;
};

/**
 * A domain of one operation alone, which nobody creates and nobody ends: all ranks know its number and its dies, and it is over when the operation is. Between the
 * same two dies such operations are told apart by their numbers, whichever of them comes first at either end.
 */
export const domainOfOperation = (number: number, dies: readonly number[]): Domain => ({ id: OF_OPERATIONS, generation: number, dies });

/** The control thread alone creates and destroys. @throws `invalid_request` for an id or a die that cannot be. */
export function createDomain(control: ControlPage, id: number, dies: readonly number[]): Domain {
  if (!Number.isInteger(id) || id < 0 || id >= OF_OPERATIONS) throw new MinipodError('invalid_request', `domain ${id}: ids are 0 to ${OF_OPERATIONS - 1}`);
  if (dies.length === 0 || new Set(dies).size < dies.length || dies.some((die) => !Number.isInteger(die) || die < 0 || die >= DIES_MAX))
    throw new MinipodError('invalid_request', `domain ${id} of dies ${dies.join(', ')}: each once, one at least, all from 0 to ${DIES_MAX - 1}`);
  const before = control.generationOf(id);
  assert(before % 2 === 0, `domain ${id} is alive already`);
  control.setGeneration(id, before + 1);
  return { id, generation: before + 1, dies };
}

export function destroyDomain(control: ControlPage, domain: Domain): void {
  assert(isAlive(control, domain), `domain ${domain.id} was destroyed before`);
  control.setGeneration(domain.id, domain.generation + 1);
}

/** Destroys the domain and creates it without a rank. */
export function recreateWithout(control: ControlPage, domain: Domain, rank: number): Domain {
  assert(rank >= 0 && rank < domain.dies.length, `domain ${domain.id} has ${domain.dies.length} ranks, not ${rank}`);
  destroyDomain(control, domain);
  return createDomain(
    control,
    domain.id,
    domain.dies.filter((_, other) => other !== rank),
  );
}

export const isAlive = (control: ControlPage, { id, generation }: Domain): boolean => id === OF_OPERATIONS || control.generationOf(id) === generation;

export const domainDestroyed = ({ id }: Domain, what: string): MinipodError =>
  new MinipodError('closed', `${what} ended: domain ${id} was destroyed while it was under way`);

export function rankOf({ id, dies }: Domain, die: number): number {
  const rank = dies.indexOf(die);
  assert(rank >= 0, `die ${die} is not in domain ${id}`);
  return rank;
}
