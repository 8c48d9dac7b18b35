/**
 * The slots of an NPU's batch: who runs holds one, under which the NPU keeps its block table and its sampler's state. A slot that is given back is told to
 * the NPU with the next step, before anybody else has it.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';

export class BatchSlots {
  readonly #free: number[];
  #detached: number[] = [];

  constructor(slots: number) {
    this.#free = Array.from({ length: slots }, (_, index) => slots - 1 - index);
  }

  get hasFree(): boolean {
    return this.#free.length > 0;
  }

  take(): number {
    const slot = this.#free.pop();
    assert(slot !== undefined, 'a slot was asked for, and none is free');
    return slot;
  }

  give(slot: number): void {
    this.#free.push(slot);
    this.#detached.push(slot);
  }

  /** Slots that were given back since this was asked last: the NPU frees what it holds for them. */
  takeDetached(): readonly number[] {
    const detached = this.#detached;
    this.#detached = [];
    return detached;
  }

  toJSON(): object {
    return { slots: [...this.#free], detach: [...this.#detached] };
  }
}
