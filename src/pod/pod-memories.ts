/**
 * In which memory the next life of a pod's threads begins: in that of the latest, cleared, where nobody writes any more, else in another, as long as there is room beside all
 * those that are left to who may still write there.
 * @module
 */
import { totalmem } from 'node:os';
import { MinipodError } from '../protocol/errors.ts';

export type Memories = readonly WebAssembly.Memory[];

/** One that is left is free when V8 has found that nobody has it: all together take no more of the machine's. */
const MEMORY_SHARE_MAX = 0.75;

export class PodMemories {
  readonly #machine_bytes: number;
  /** Each is as large. */
  #bytes = 0;
  #free: Memories | null = null;
  /** Whoever served there finds its stop word raised: only the latest one's counts. */
  #isLostLeft = false;
  /** Whoever was to serve there and did not may have had nobody to tell it to stop: these count to the pod's end. */
  #left = 0;

  constructor(machine_bytes = totalmem()) {
    this.#machine_bytes = machine_bytes;
  }

  setSize(bytes: number): void {
    this.#bytes = bytes;
  }

  /** Whether there is room for another one beside that of who serves. */
  get fitsTwice(): boolean {
    return this.#fits(2);
  }

  /** Who served is lost. `hasEnded`, here and below: it is proven that nobody writes there any more. */
  lose(memories: Memories, hasEnded: boolean): void {
    this.#free = hasEnded ? memories : null;
    this.#isLostLeft = !hasEnded;
  }

  /** Where the next one is to begin. Undefined: in a new one. @throws `out_of_memory` */
  take(): Memories | undefined {
    const memories = this.#free;
    this.#free = null;
    if (memories !== null) return memories;
    const left = this.#left + Number(this.#isLostLeft);
    if (!this.#fits(left + 1))
      throw new MinipodError(
        'out_of_memory',
        `the pod ends: ${left === 1 ? 'the memory of its control thread is' : `${left} memories of its control threads are`} left to threads that have not ended, and there is no room for another one of ${this.#bytes} bytes beside that: all together may have ${Math.floor(this.#machine_bytes * MEMORY_SHARE_MAX)}`,
      );
    return undefined;
  }

  /** Who was to serve does not. Without memories: those were its own, and nobody else knows them. */
  giveUp(memories: Memories | undefined, hasEnded: boolean): void {
    if (!hasEnded) this.#left++;
    else if (memories !== undefined) this.#free = memories;
  }

  #fits(count: number): boolean {
    return count * this.#bytes <= this.#machine_bytes * MEMORY_SHARE_MAX;
  }
}
