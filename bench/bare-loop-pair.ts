/** Two bare loops side by side, each on a thread of its own. @module */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

export class BareLoopPair {
  readonly #threads: readonly Worker[];

  private constructor(threads: readonly Worker[]) {
    this.#threads = threads;
  }

  static async start(): Promise<BareLoopPair> {
    const threads = [0, 1].map(() => new Worker(new URL('./bare-loop-thread.ts', import.meta.url)));
    await Promise.all(threads.map((thread) => once(thread, 'message')));
    return new BareLoopPair(threads);
  }

  /** `count` tokens after each of the prompts, half of which each loop has. */
  async generate(prompts: readonly (readonly number[])[], count: number): Promise<void> {
    const half = prompts.length / 2;
    await Promise.all(
      this.#threads.map((thread, index) => {
        const done = once(thread, 'message');
        thread.postMessage({ prompts: prompts.slice(index * half, (index + 1) * half), count });
        return done;
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const thread of this.#threads) await thread.terminate();
  }
}
