/**
 * Asks all workers for their figures at once, and waits for those that live.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { ThreadMessage } from '../protocol/threads.ts';
import { waitAtMost } from '../runtime/event-loop.ts';

export type WorkerReport = Extract<ThreadMessage, { type: 'INSPECTED' }>;

const INSPECT_DEADLINE_MS = 5_000;

type Inspection = { readonly waitsFor: Set<number>; readonly reports: WorkerReport[]; readonly resolve: () => void };

export class Inspections {
  readonly #ask: (worker: number, query: number) => void;
  readonly #open = new Map<number, Inspection>();
  #query = 0;

  constructor(ask: (worker: number, query: number) => void) {
    this.#ask = ask;
  }

  /** @throws `deadline_exceeded` naming the workers that live and do not answer. */
  async inspect(workers: readonly number[]): Promise<WorkerReport[]> {
    const query = ++this.#query;
    const { promise, resolve } = Promise.withResolvers<void>();
    const inspection: Inspection = { waitsFor: new Set(workers), reports: [], resolve };
    this.#open.set(query, inspection);
    for (const worker of workers) this.#ask(worker, query);
    if (workers.length > 0) await waitAtMost(promise, INSPECT_DEADLINE_MS);
    this.#open.delete(query);
    const silent = [...inspection.waitsFor];
    if (silent.length > 0)
      throw new MinipodError('deadline_exceeded', `workers ${silent.join(', ')} did not report within ${INSPECT_DEADLINE_MS / 1000} s: they hang`);
    return inspection.reports;
  }

  answered(report: WorkerReport): void {
    const inspection = this.#open.get(report.query);
    if (inspection === undefined) return;
    inspection.reports.push(report);
    this.#settle(inspection, report.worker);
  }

  /** A worker that died answers nothing any more. */
  lost(worker: number): void {
    for (const inspection of this.#open.values()) this.#settle(inspection, worker);
  }

  #settle({ waitsFor, resolve }: Inspection, worker: number): void {
    waitsFor.delete(worker);
    if (waitsFor.size === 0) resolve();
  }
}
