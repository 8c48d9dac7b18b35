/**
 * Whether a trace has all acts of its run. Those of a thread's life count 1, 2, 3 …, so one that was lost leaves a gap; and whoever names an act as its cause
 * says that it happened. A trace that was cut has gaps by right. Where one is damaged, or recording stopped, only the ends of lives are missing, not what is between.
 * @module
 */
import { ACTS_PER_LIFE } from '../runtime/cast.ts';
import { type ActRecord, lifeOf } from './act-record.ts';
import { grouped } from './damage.ts';

/** `named`: the highest number that somebody gives as a cause. Before any act both are the number before the first. */
type Life = { readonly thread: number; last: number; named: number };

export class ActNumbers {
  readonly #lives = new Map<string, Life>();

  /** What is wrong with the place of this act, as a sentence; null: it is the next of its thread's life. Acts come in the order of the file. */
  next(act: ActRecord): string | null {
    const { thread, number, cause_thread, cause } = act;
    if (cause !== 0) {
      const of = this.#lifeOf(cause_thread, cause);
      of.named = Math.max(of.named, cause);
    }
    const life = this.#lifeOf(thread, number);
    const expected = life.last + 1;
    if (number === expected) {
      life.last = number;
      return null;
    }
    if (number < expected) return `act ${grouped(number)} of thread ${thread} comes behind act ${grouped(life.last)}`;
    return `${missing(life, number - 1)} before act ${grouped(number)}`;
  }

  /** Asked at the end of a trace that is whole: acts that led to others and are not in it, as a sentence. */
  end(): string | null {
    const life = [...this.#lives.values()].find(({ last, named }) => named > last);
    return life === undefined ? null : `${missing(life, life.named)}: what they led to is there`;
  }

  #lifeOf(thread: number, number: number): Life {
    const name = lifeOf({ thread, number });
    const known = this.#lives.get(name);
    if (known !== undefined) return known;
    const before = number - (number % ACTS_PER_LIFE);
    const life = { thread, last: before, named: before };
    this.#lives.set(name, life);
    return life;
  }
}

function missing({ thread, last }: Life, to: number): string {
  const acts = to === last + 1 ? `act ${grouped(to)}` : `acts ${grouped(last + 1)} to ${grouped(to)}`;
  return `${acts} of thread ${thread} ${to === last + 1 ? 'is' : 'are'} missing`;
}

/** Whether a trace should have all acts: none is missing from a run's own, and any may be from a part of one. */
export const isWholeRun = (header: Readonly<Record<string, unknown>>): boolean => header['cut'] === undefined;
