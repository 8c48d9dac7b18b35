/**
 * Tries every interleaving of a small model of a shared-memory protocol.
 *
 * Memory is sequentially consistent for atomic steps. A plain store may be held back for as long as it likes, past later plain stores of its thread too,
 * but no further than the thread's next atomic store: that is what the JavaScript memory model leaves of order between threads that meet at Atomics
 * (release at the store, acquire at the load). Plain loads stay where they are: none moves before an atomic load that precedes it, nor past an atomic
 * store that follows it, and between the two it makes no difference.
 *
 * A state is a list of small numbers; what each means is the model's. A model's step is one access to shared memory with the private steps that follow it:
 * private steps cannot be seen by other threads, so no interleaving is lost by it.
 */

export type State = readonly number[];
/** A place in the state, and what it holds from now on. */
export type Change = readonly [place: number, value: number];

export function changed(state: State, changes: readonly Change[]): State {
  const next = state.slice();
  for (const [place, value] of changes) next[place] = value;
  return next;
}

/** The one state that a step leads to. */
export const to = (state: State, ...changes: readonly Change[]): State[] => [changed(state, changes)];

export type Model = {
  readonly initial: State;
  /** The states that one step of one thread leads to; a thread that waits leads to none. */
  readonly steps: (state: State) => State[];
  /** What is wrong with the state; null: nothing. */
  readonly wrong: (state: State) => string | null;
  /** What is wrong with a state in which no thread can go on; null: all have done what they had to. */
  readonly wrongAtEnd: (state: State) => string | null;
};

export type Verdict = { readonly states: number; readonly ends: number; readonly wrong: string | null };

const STATES_MAX = 3_000_000;

/** Searches breadth first; stops at the first state that is wrong. */
export function explore(model: Model): Verdict {
  const seen = new Set<string>();
  let frontier: State[] = [];
  const meet = (state: State, into: State[]): void => {
    const key = String.fromCharCode(...state);
    if (seen.has(key)) return;
    seen.add(key);
    into.push(state);
  };
  meet(model.initial, frontier);
  let ends = 0;
  while (frontier.length > 0) {
    const following: State[] = [];
    for (const state of frontier) {
      const wrong = model.wrong(state);
      if (wrong !== null) return { states: seen.size, ends, wrong };
      const next = model.steps(state);
      for (const candidate of next) meet(candidate, following);
      if (next.length > 0) continue;
      ends++;
      const wrongAtEnd = model.wrongAtEnd(state);
      if (wrongAtEnd !== null) return { states: seen.size, ends, wrong: wrongAtEnd };
    }
    if (seen.size > STATES_MAX) throw new Error(`more than ${STATES_MAX} states: the model is not small`);
    frontier = following;
  }
  return { states: seen.size, ends, wrong: null };
}

/** Gives each of a model's variables its place in the state. */
export class Places {
  size = 0;

  one(): number {
    return this.size++;
  }

  many(count: number): number {
    const first = this.size;
    this.size += count;
    return first;
  }
}
