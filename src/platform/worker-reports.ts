/**
 * Asks all workers for their figures at once, and waits for those that live. Of those that do not, it keeps what their NPUs said last.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { ExpertsAsked, NpuReport, ThreadMessage } from '../protocol/threads.ts';
import type { Directory } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import { isLostReport, lostReport, unheardReport } from './lost-reports.ts';

export type WorkerReport = Extract<ThreadMessage, { type: 'REPORTED' }>;

const REPORT_DEADLINE_MS = 5_000;

type Question = { readonly waitsFor: Set<number>; readonly reports: WorkerReport[]; readonly resolve: () => void };

export class WorkerReports {
  readonly #directory: Directory;
  /** By NPU: what it said last. */
  readonly #npus: NpuReport[];
  readonly #ask: (worker: number, query: number, experts: ExpertsAsked) => void;
  readonly #open = new Map<number, Question>();
  #query = 0;

  constructor(directory: Directory, kv_blocks: number, ask: (worker: number, query: number, experts: ExpertsAsked) => void) {
    this.#directory = directory;
    this.#npus = directory.hosting.deployment.npus.map((place) => unheardReport(place, kv_blocks));
    this.#ask = ask;
  }

  /** @throws `deadline_exceeded` naming the workers that live and do not answer. */
  async ask(workers: readonly number[], experts: ExpertsAsked = 'none'): Promise<WorkerReport[]> {
    const query = ++this.#query;
    const { promise, resolve } = Promise.withResolvers<void>();
    const question: Question = { waitsFor: new Set(workers), reports: [], resolve };
    this.#open.set(query, question);
    for (const worker of workers) this.#ask(worker, query, experts);
    if (workers.length > 0) await waitAtMost(promise, REPORT_DEADLINE_MS);
    this.#open.delete(query);
    const silent = [...question.waitsFor];
    if (silent.length > 0)
      throw new MinipodError('deadline_exceeded', `workers ${silent.join(', ')} did not report within ${REPORT_DEADLINE_MS / 1000} s: they hang`);
    return question.reports;
  }

  answered(report: WorkerReport): void {
    const question = this.#open.get(report.query);
    for (const npu of report.npus) this.#npus[npu.npu] = npu;
    if (question === undefined) return;
    question.reports.push(report);
    this.#settle(question, report.worker);
  }

  /** Of all NPUs, in order: as it was after the last report, `lost` where none has reported since its worker was lost. */
  npus(): NpuReport[] {
    return this.#npus.map((npu) => (isLostReport(npu) ? lostReport(npu, this.#directory.dieOfNpu(npu.npu)) : npu));
  }

  /** A worker that died answers nothing any more. */
  lost(worker: number): void {
    for (const npu of this.#directory.npusOfWorker(worker)) this.#npus[npu] = lostReport(this.#npus[npu] as NpuReport, this.#directory.dieOfNpu(npu));
    for (const question of this.#open.values()) this.#settle(question, worker);
  }

  #settle({ waitsFor, resolve }: Question, worker: number): void {
    waitsFor.delete(worker);
    if (waitsFor.size === 0) resolve();
  }
}
