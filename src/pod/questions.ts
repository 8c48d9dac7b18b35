/**
 * What callers ask of a pod's control thread and have no answer to yet. Where that is lost first its successor is asked: nothing is left then of what the lost one
 * may have done.
 * @module
 */

/** Why a question was not answered. */
const LOST = Symbol('the control thread was lost before it answered');

export type QuestionsPorts = {
  /** Throws where nobody will ever answer. */
  readonly checkOpen: () => void;
  /** Until there is a control thread; null: there is one. */
  readonly succession: () => Promise<void> | null;
};

export class Questions {
  readonly #ports: QuestionsPorts;
  readonly #open = new Set<(reason: unknown) => void>();

  constructor(ports: QuestionsPorts) {
    this.#ports = ports;
  }

  /** `ask`: asks whoever is there then; at once, where one is. */
  async ask<Value>(ask: () => Promise<Value>): Promise<Value> {
    const { checkOpen, succession } = this.#ports;
    for (;;) {
      checkOpen();
      const waits = succession();
      if (waits !== null) {
        // One that has just begun may be lost again.
        await waits;
        continue;
      }
      // A race with one promise that lives as long as the pod would keep every question ever asked.
      const { promise, resolve, reject } = Promise.withResolvers<Value>();
      this.#open.add(reject);
      ask().then(resolve, reject);
      try {
        return await promise;
      } catch (error) {
        if (error !== LOST) throw error;
      } finally {
        this.#open.delete(reject);
      }
    }
  }

  /** Whoever was asked is lost: the successor is asked. */
  lose(): void {
    this.fail(LOST);
  }

  /** Nobody will answer any more. */
  fail(reason: unknown): void {
    for (const reject of this.#open) reject(reason);
  }
}
