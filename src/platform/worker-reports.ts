/**
 * Asks all workers for their figures at once, and waits for those that live. Of those that do not, it keeps what their NPUs said last.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { type ExpertsAsked, NO_DRAFTS, type NpuReport, type ThreadMessage } from '../protocol/threads.ts';
import type { Directory } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';

export type WorkerReport = Extract<ThreadMessage, { type: 'REPORTED' }>;

const REPORT_DEADLINE_MS = 5_000;

type Question = { readonly waitsFor: Set<number>; readonly reports: WorkerReport[]; readonly resolve: () => void };

/** What a lost NPU held is free: its requests have failed, and its successor starts with nothing. */
const HOLDS_NOTHING = {
  state: 'lost',
  kv_blocks_used: 0,
  kv_blocks_cached: 0,
  kv_blocks_mapped_out: 0,
  dram_blocks_used: 0,
  dram_blocks_mapped_out: 0,
  requests_running: 0,
  requests_waiting: 0,
  kv_lent: 0,
  kv_expected: 0,
  kv_transfers_open: 0,
  kv_blocks_held: 0,
  reply_bytes: 0,
} as const;
const COUNTED_NOTHING = {
  ...{
    steps: 0,
    tokens_prefilled: 0,
    tokens_decoded: 0,
    preemptions: 0,
    drafting: NO_DRAFTS,
    prefix_queries: 0,
    prefix_hits: 0,
    kv_leases_expired: 0,
    blocks_swapped_out: 0,
    blocks_swapped_in: 0,
    hits_refused: 0,
    blocks_populated: 0,
    blocks_lent: 0,
    remote_hits: 0,
    remote_hits_refused: 0,
    remote_hits_missed: 0,
    kv_blocks_held_max: 0,
    fields_written: 0,
    fields_stale: 0,
  },
  ...{ dispatches_written: 0, dispatches_served: 0, dispatches_refused: 0, rows_damaged: 0, pulled_bytes: 0, reply_bytes_max: 0 },
  ...{ decode_steps_us: [], decode_steps_us_sum: 0, step_gaps_us: [], step_gaps_us_sum: 0 },
} as const;

export class WorkerReports {
  readonly #directory: Directory;
  /** By NPU: what it said last. */
  readonly #npus: NpuReport[];
  readonly #ask: (worker: number, query: number, experts: ExpertsAsked) => void;
  readonly #open = new Map<number, Question>();
  #query = 0;

  constructor(directory: Directory, kv_blocks: number, ask: (worker: number, query: number, experts: ExpertsAsked) => void) {
    this.#directory = directory;
    this.#npus = directory.hosting.deployment.npus.map(({ id: npu, kind }) => ({
      npu,
      kv_blocks: kind === 'attention' ? kv_blocks : 0,
      die: npu,
      ...HOLDS_NOTHING,
      ...COUNTED_NOTHING,
    }));
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
    return this.#npus.map((npu) => (npu.state === HOLDS_NOTHING.state ? { ...npu, die: this.#directory.dieOfNpu(npu.npu) } : npu));
  }

  /** A worker that died answers nothing any more. */
  lost(worker: number): void {
    for (const npu of this.#directory.npusOfWorker(worker)) this.#npus[npu] = { ...(this.#npus[npu] as NpuReport), ...HOLDS_NOTHING };
    for (const question of this.#open.values()) this.#settle(question, worker);
  }

  #settle({ waitsFor, resolve }: Question, worker: number): void {
    waitsFor.delete(worker);
    if (waitsFor.size === 0) resolve();
  }
}
