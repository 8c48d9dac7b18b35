/**
 * Reads what happened to the KV blocks of a DP group from the worker that hosts it.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { KvEventBatches, KvEventPage } from '../protocol/kv-events.ts';
import { readKvEvents, type ThreadMessage } from '../protocol/threads.ts';
import { leaderOf } from '../protocol/topology.ts';
import type { Directory, Hosting } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';

const READ_DEADLINE_MS = 5_000;

type Question = { readonly worker: number; readonly resolve: () => void; page: KvEventBatches | null; isLost: boolean };

export type KvEventPorts = { readonly isRunning: (worker: number) => boolean; readonly tell: (worker: number, message: ThreadMessage) => void };

export class KvEventReader {
  readonly #directory: Directory;
  readonly #control: ControlPage;
  readonly #ports: KvEventPorts;
  readonly #open = new Map<number, Question>();
  #query = 0;

  constructor(directory: Directory, control: ControlPage, ports: KvEventPorts) {
    this.#directory = directory;
    this.#control = control;
    this.#ports = ports;
  }

  /** @throws `groups_lost` where the worker is dead and has no successor, `worker_failed` where it has, `deadline_exceeded` where it hangs */
  async read(dp_group: number, from: number): Promise<KvEventPage> {
    const worker = this.#directory.workerOfNpu(leaderOf(this.#directory.hosting.deployment, dp_group));
    if (!this.#ports.isRunning(worker)) throw groupLost(dp_group, this.#directory.hosting);
    const [query, life] = [++this.#query, this.#control.lifeOf(worker)];
    const { promise, resolve } = Promise.withResolvers<void>();
    const question: Question = { worker, page: null, isLost: false, resolve };
    this.#open.set(query, question);
    this.#ports.tell(worker, readKvEvents(query, dp_group, from));
    await waitAtMost(promise, READ_DEADLINE_MS);
    this.#open.delete(query);
    if (question.isLost) throw groupLost(dp_group, this.#directory.hosting);
    if (question.page === null)
      throw new MinipodError('deadline_exceeded', `worker ${worker}, which hosts DP group ${dp_group}, has not answered within ${READ_DEADLINE_MS / 1000} s`);
    return { ...question.page, life };
  }

  answered({ query, batches, next }: Extract<ThreadMessage, { type: 'KV_EVENTS_READ' }>): void {
    const question = this.#open.get(query);
    if (question === undefined) return;
    question.page = { batches, next };
    question.resolve();
  }

  /** It answers nothing any more. */
  lost(worker: number): void {
    for (const question of this.#open.values()) {
      if (question.worker !== worker) continue;
      question.isLost = true;
      question.resolve();
    }
  }
}

/** A successor begins with an empty cache, and with batch 0. */
export const groupLost = (dp_group: number, { respawn }: Pick<Hosting, 'respawn'>): MinipodError =>
  respawn === false
    ? new MinipodError('groups_lost', `DP group ${dp_group} is gone: its worker is lost, and has no successor`, { param: 'dp_group' })
    : new MinipodError('worker_failed', `the worker of DP group ${dp_group} is lost: ask again when its successor has started`, { retry_after_ms: 500 });
