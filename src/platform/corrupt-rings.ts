/**
 * Rubbish in a worker's ring. A worker that finds it ends itself; the control thread, with which all others would end, and the caller's, which is somebody else's, have
 * its writer ended. In a ring between these two it ends the control thread, which has a successor.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { toErrorRecord } from '../protocol/errors.ts';
import type { ThreadMessage } from '../protocol/threads.ts';
import type { Directory } from '../runtime/directory.ts';

export class CorruptRings {
  readonly #control: ControlPage;
  readonly #directory: Directory;
  readonly #giveUp: (worker: number, reason: string) => void;

  constructor(control: ControlPage, directory: Directory, giveUp: (worker: number, reason: string) => void) {
    this.#control = control;
    this.#directory = directory;
    this.#giveUp = giveUp;
  }

  /** By the control thread. @throws of the caller's ring: nobody else would do what it asks for */
  found(thread: number, error: unknown): void {
    const worker = this.#directory.seating.threads.indexOf(thread);
    if (worker < 0) throw error;
    this.#giveUp(worker, toErrorRecord(error).message);
  }

  /** By the caller. Of one that is lost already its successor's rings are sound. */
  heard({ worker, epoch, reason }: Extract<ThreadMessage, { readonly type: 'PEER_CORRUPT' }>): void {
    if (this.#control.epochOf(this.#directory.threadOfWorker(worker)) === epoch) this.#giveUp(worker, reason);
  }
}
