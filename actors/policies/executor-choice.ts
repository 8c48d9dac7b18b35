/**
 * Which task executor a job executor gives a task to, and how many choices the pod holds (DeepServe §5: each job executor schedules by itself).
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { Placement } from '../../src/protocol/messages.ts';
import type { ExecutorRole } from '../../src/protocol/topology.ts';

/** `npus`: how much of the load it can take. */
export type ExecutorSeat = { readonly address: Address; readonly role: ExecutorRole; readonly npus: number; readonly groups: readonly number[] };
/** `gone`: why it cannot serve for now, nor is about to; null: it serves, or will soon. */
type ExecutorLoad = ExecutorSeat & { isReady: boolean; gone: ErrorRecord | null; choices: number };

/**
 * Of those that do what is to be done, the executor with the fewest choices in hand for each of its NPUs, the first of those alike; that of the DP group
 * which was asked for, if one was.
 */
export class ExecutorChoice {
  readonly #executors: readonly ExecutorLoad[];
  /** By request: where its choices are. */
  readonly #requests = new Map<Address, ExecutorLoad[]>();
  #choices = 0;

  constructor(executors: readonly ExecutorSeat[]) {
    this.#executors = executors.map((executor) => ({ ...executor, isReady: false, gone: null, choices: 0 }));
  }

  get choices(): number {
    return this.#choices;
  }

  get addresses(): readonly Address[] {
    return this.#executors.map(({ address }) => address);
  }

  get allReady(): boolean {
    return this.#executors.every(({ isReady }) => isReady);
  }

  /** Whether any of its groups serves. */
  ready(executor: Address, isReady: boolean): void {
    const load = this.#executors.find(({ address }) => address === executor);
    if (load !== undefined) [load.isReady, load.gone] = [isReady, null];
  }

  /** Until it is ready again, or about to be. */
  gone(executor: Address, error: ErrorRecord): void {
    const load = this.#executors.find(({ address }) => address === executor);
    if (load !== undefined) [load.isReady, load.gone] = [false, error];
  }

  /** Why a request cannot be computed to its end for now, wherever it begins; null: it can, or will be soon. */
  refusalOf(data_parallel_rank: number): ErrorRecord | null {
    const begin = this.#executors.filter(begins(data_parallel_rank));
    const decode = this.#executors.filter(({ role }) => role === 'decode');
    if (begin.some((executor) => executor.gone === null && this.#mayEnd(executor))) return null;
    return (begin.find(({ gone }) => gone !== null) ?? decode.find(({ gone }) => gone !== null))?.gone ?? null;
  }

  #mayEnd({ role }: ExecutorSeat): boolean {
    return role !== 'prefill' || this.#executors.some((other) => other.role === 'decode' && other.gone === null);
  }

  /** By choice of the request: where it begins. */
  take(request: Address, choices: number, data_parallel_rank: number): readonly Placement[] {
    const begin = begins(data_parallel_rank);
    // Whatever is prefilled where nobody is left to decode comes back, and would be again and again.
    const fits = (executor: ExecutorLoad): boolean => begin(executor) && this.#mayEnd(executor);
    const chosen = Array.from({ length: choices }, () => this.#choose(this.#executors.some(fits) ? fits : begin));
    this.#requests.set(request, chosen);
    this.#choices += choices;
    return chosen.map(({ address, role }) => ({ executor: address, stage: role === 'prefill' ? 'prefill' : 'whole' }));
  }

  /** A choice goes on from its prefill to a decode executor, by the load of this moment (xDeepServe §5.1, step 4). Null: its request has left. */
  moveToDecode(request: Address, from: Address): Address | null {
    const held = this.#requests.get(request);
    const index = held?.findIndex(({ address }) => address === from) ?? -1;
    const left = held?.[index];
    if (held === undefined || left === undefined) return null;
    left.choices--;
    const next = this.#choose(({ role }) => role === 'decode');
    held[index] = next;
    return next.address;
  }

  leave(request: Address): void {
    const chosen = this.#requests.get(request) ?? [];
    this.#requests.delete(request);
    for (const load of chosen) load.choices--;
    this.#choices -= chosen.length;
  }

  #choose(fits: (executor: ExecutorLoad) => boolean): ExecutorLoad {
    const fitting = this.#executors.filter(fits);
    const serving = fitting.filter(({ isReady }) => isReady);
    // Where none serves they wait at the least loaded of those that will.
    const coming = fitting.filter(({ gone }) => gone === null);
    const candidates = serving.length > 0 ? serving : coming.length > 0 ? coming : fitting;
    const load = candidates.reduce((best, other) => (other.choices * best.npus < best.choices * other.npus ? other : best));
    load.choices++;
    return load;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    const requests = Object.fromEntries([...this.#requests].map(([request, chosen]) => [request, chosen.map(({ address }) => address)]));
    return { choices: this.#choices, executors: this.#executors, requests };
  }
}

/** It takes requests in, or that of the group which was asked for does. */
const begins =
  (data_parallel_rank: number) =>
  ({ role, groups }: ExecutorSeat): boolean =>
    role !== 'decode' && (data_parallel_rank < 0 || groups.includes(data_parallel_rank));
