/**
 * The scale-up fabric: source and target lie in one global memory, so a verb is done when it returns (`memory.copy`, Atomics).
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { MinipodError } from '../../protocol/errors.ts';
import type { Backend, Pieces, WorkRequest } from './backend.ts';
import { epochOfRegion } from './region-epoch.ts';

export class MemoryBackend implements Backend {
  readonly isMemory = true;
  readonly now_ms = (): number => 0;
  readonly isWaiting = false;
  readonly #space: AddressSpace;
  broken: MinipodError | null = null;

  constructor(space: AddressSpace) {
    this.#space = space;
  }

  read(work: WorkRequest, { to, from, bytes, count }: Pieces): void {
    if (!this.#begin(work)) return;
    for (let index = 0; index < count; index++) this.#space.copy(to[index] as number, from[index] as number, bytes[index] as number);
    work.state = 'done';
  }

  readWords(work: WorkRequest, base: number, indices: Int32Array | null, count: number, into: Int32Array): void {
    if (!this.#begin(work)) return;
    const words = this.#space.wordsOf(base);
    const first = offsetOf(base) / 4;
    // A load may overtake the copies before it (ARM), a read-modify-write ends after them; loads after it begin after it.
    if (count > 0) Atomics.or(words, first + (indices === null ? 0 : (indices[0] as number)), 0);
    for (let index = 0; index < count; index++) into[index] = Atomics.load(words, first + (indices === null ? index : (indices[index] as number)));
    work.state = 'done';
  }

  compareSwap(work: WorkRequest, address: number, expected: number, next: number): void {
    if (!this.#begin(work)) return;
    work.value = Atomics.compareExchange(this.#space.wordsOf(address), offsetOf(address) / 4, expected, next);
    work.state = 'done';
  }

  regionEpoch(work: WorkRequest, address: number, bytes: number): void {
    if (!this.#begin(work)) return;
    work.value = epochOfRegion(this.#space, address, bytes);
    work.state = 'done';
  }

  poll(): void {}

  close(reason: MinipodError): void {
    this.broken ??= reason;
  }

  get isClosed(): boolean {
    return this.broken !== null;
  }

  #begin(work: WorkRequest): boolean {
    if (this.broken === null) return true;
    work.fail(this.broken);
    return false;
  }
}
