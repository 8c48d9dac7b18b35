/**
 * Which task executor a job executor gives a task to, and how many choices the pod holds (DeepServe §5: each job executor schedules by itself).
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';

/** `npus`: how much of the load it can take. */
export type ExecutorSeat = { readonly address: Address; readonly npus: number };
type ExecutorLoad = ExecutorSeat & { isReady: boolean; choices: number };

/** The executor with the fewest choices in hand for each of its NPUs, the first of those alike. */
export class ExecutorChoice {
  readonly #executors: readonly ExecutorLoad[];
  /** By request: where its choices are. */
  readonly #requests = new Map<Address, readonly ExecutorLoad[]>();
  #choices = 0;

  constructor(executors: readonly ExecutorSeat[]) {
    this.#executors = executors.map((executor) => ({ ...executor, isReady: false, choices: 0 }));
  }

  get choices(): number {
    return this.#choices;
  }

  get allReady(): boolean {
    return this.#executors.every(({ isReady }) => isReady);
  }

  ready(executor: Address): void {
    const load = this.#executors.find(({ address }) => address === executor);
    if (load !== undefined) load.isReady = true;
  }

  /** By choice of the request: the executor that it goes to. */
  take(request: Address, choices: number): readonly Address[] {
    const chosen = Array.from({ length: choices }, () => {
      const load = this.#executors.reduce((best, other) => (other.choices * best.npus < best.choices * other.npus ? other : best));
      load.choices++;
      return load;
    });
    this.#requests.set(request, chosen);
    this.#choices += choices;
    return chosen.map(({ address }) => address);
  }

  leave(request: Address): void {
    const chosen = this.#requests.get(request) ?? [];
    this.#requests.delete(request);
    for (const load of chosen) load.choices--;
    this.#choices -= chosen.length;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const requests = Object.fromEntries([...this.#requests].map(([request, chosen]) => [request, chosen.map(({ address }) => address)]));
    return { choices: this.#choices, executors: this.#executors, requests };
  }
}
