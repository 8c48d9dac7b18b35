/**
 * `transfer(source, target)`: many ranges of one length to as many others, by raw addresses (DeepServe §4.4). A record that can be resumed: it is polled, and
 * never waits. For swaps between HBM and DRAM, for populating from another executor, and for a pull (pull.ts) of what is on offer.
 *
 *   region: whose? ─▶ copy, a bounded number of bytes a poll ─▶ generations as promised? ─▶ region: still his? ─▶ sums as promised? ─▶ done
 * @module
 */
import { addressText } from '../../fabric/address.ts';
import { WorkRequest } from './backend.ts';
import type { WalkOrder } from './block-walk.ts';
import { checksumAtRest } from './checksum.ts';
import { Copying, POLL_BYTES, type SumAtRest } from './copying.ts';
import type { End } from './end.ts';
import { DONE, type FailureReason, failed, PENDING, type Poll, reasonOf } from './outcome.ts';
import { type LayerRange, mustBeHeld, type Scatter, type Span, shapeOf, spanOf } from './scatter.ts';

/** The generation that the block of each range must have after the copy: u32 by block at the source, `table` + 4 × block. */
export type Generations = { readonly table: number; readonly blocks: Int32Array; readonly values: ArrayLike<number> };

export type Terms = {
  /** Null: ranges are copied whole. */
  readonly layers: LayerRange | null;
  readonly generations: Generations | null;
  /** Of each range as it must arrive (checksum.ts); `later`: they are summed, and whoever asked compares; `at rest`: the same by sums at rest, each of a whole range. */
  readonly checksums: ArrayLike<number> | 'later' | 'at rest' | null;
  /** As `Copying`; null: nothing is guarded. */
  readonly sumAtRest: SumAtRest | null;
};
export const PLAIN: Terms = { layers: null, generations: null, checksums: null, sumAtRest: null };

const PHASE = { region: 0, copy: 1, generations: 2, regionAgain: 3, settle: 4, over: 5 } as const;

export class Transfer {
  /** Layers that may be copied, where they come one by one. */
  layers_there = Number.POSITIVE_INFINITY;
  readonly #end: End;
  readonly #source: Scatter;
  readonly #span: Span;
  readonly #terms: Terms;
  readonly #copying: Copying;
  readonly #found: Int32Array;
  readonly #work = new WorkRequest();
  #phase: number;
  #epoch = -1;
  #result: Poll;

  /** @throws `invalid_request` for lists that do not fit each other; `memory_fault` where the target is no memory that is held. */
  constructor(end: End, source: Scatter, target: Scatter, terms: Terms, order: WalkOrder = 'by request') {
    const shape = shapeOf(source, target, terms.layers);
    mustBeHeld(end, target);
    this.#end = end;
    this.#source = source;
    this.#terms = terms;
    this.#span = spanOf(source);
    const checksum = terms.checksums === 'at rest' ? checksumAtRest(end.space, end.checksum) : terms.checksums === null ? null : end.checksum;
    this.#copying = new Copying(end.backend, checksum, shape, source.addresses, target.addresses, order, terms.sumAtRest);
    this.#found = new Int32Array(terms.generations === null ? 0 : shape.blocks);
    this.#phase = shape.blocks === 0 ? PHASE.over : PHASE.region;
    this.#result = shape.blocks === 0 ? DONE : PENDING;
  }

  /** That have arrived; they count once it is done. */
  get copied_bytes(): number {
    return this.#copying.copied_bytes;
  }

  /** Of each range as it arrived, where sums are wanted. */
  get sums(): Int32Array {
    return this.#copying.sums;
  }

  /** All that is there was copied. */
  get waitsForHolder(): boolean {
    return this.#phase === PHASE.copy && this.#copying.hasAllOf(this.layers_there);
  }

  get isOver(): boolean {
    return this.#phase === PHASE.over;
  }

  /** Goes on by about so many bytes at most. After `done` or `failed` it answers the same again and touches nothing. */
  poll(budget_bytes = POLL_BYTES): Poll {
    const work = this.#work;
    let mayCopy = true;
    while (this.#phase !== PHASE.over) {
      if (this.#phase === PHASE.settle) {
        if (!this.#isSettled()) return PENDING;
        this.#phase = PHASE.over;
      } else if (this.#end.isGivenUp) this.#fail('given_up', `die ${this.#end.die} was given up`);
      else if (this.#phase === PHASE.copy) {
        if (!mayCopy) return PENDING;
        mayCopy = false;
        this.#copy(budget_bytes);
      } else if (work.state === 'failed') this.#failBy(work);
      else if (work.state === 'done') this.#take();
      else if (work.state === 'posted') return PENDING;
      else {
        this.#post();
        if (work.isIdle) return PENDING;
      }
    }
    return this.#result;
  }

  /** What is under way lands first: the target is the caller's again once `poll` has said so. */
  cancel(): void {
    if (this.#phase < PHASE.settle) this.#fail('cancelled', 'the transfer was cancelled');
  }

  #post(): void {
    const { backend } = this.#end;
    const { generations } = this.#terms;
    if (this.#phase === PHASE.generations && generations !== null)
      backend.readWords(this.#work, generations.table, generations.blocks, this.#found.length, this.#found);
    else backend.regionEpoch(this.#work, this.#span.address, this.#span.bytes);
  }

  #take(): void {
    const { value } = this.#work;
    this.#work.state = 'idle';
    switch (this.#phase) {
      case PHASE.region:
        this.#epoch = value;
        this.#phase = PHASE.copy;
        if (value < 0) this.#fail('fault', `no region that is held has the ${this.#span.bytes} bytes at ${addressText(this.#span.address)}`);
        break;
      case PHASE.generations:
        this.#phase = PHASE.regionAgain;
        this.#compareGenerations();
        break;
      default:
        if (value === this.#epoch) this.#compareSums();
        else this.#fail('source_lost', `the region of ${addressText(this.#span.address)} changed hands under the copy`);
    }
  }

  #copy(budget_bytes: number): void {
    const copying = this.#copying;
    copying.poll(this.layers_there, budget_bytes);
    if (copying.work.state === 'failed') this.#failBy(copying.work);
    else if (copying.isDone) this.#phase = this.#terms.generations === null ? PHASE.regionAgain : PHASE.generations;
  }

  #compareGenerations(): void {
    const { values } = this.#terms.generations as Generations;
    const stale = this.#found.findIndex((generation, index) => generation !== ((values[index] as number) | 0));
    if (stale >= 0) this.#fail('stale', `${this.#range(stale)} got new content before it was copied`);
  }

  #compareSums(): void {
    const { checksums } = this.#terms;
    this.#phase = PHASE.over;
    this.#result = DONE;
    if (checksums === null || typeof checksums === 'string') return;
    const corrupt = this.sums.findIndex((sum, index) => sum !== ((checksums[index] as number) | 0));
    if (corrupt >= 0) this.#fail('corrupt', `${this.#range(corrupt)} arrived with another sum`);
  }

  #range(index: number): string {
    return `range ${index}, ${this.#source.bytes} bytes at ${addressText(this.#source.addresses[index] as number)},`;
  }

  #isSettled(): boolean {
    this.#copying.settle();
    return (!this.#work.isUnderWay && !this.#copying.work.isUnderWay) || this.#end.backend.isClosed;
  }

  #failBy({ error }: WorkRequest): void {
    this.#fail(reasonOf(error), error?.message ?? 'its work failed');
  }

  #fail(reason: FailureReason, what: string): void {
    this.#result = failed(reason, `transfer to die ${this.#end.die}: ${what}`);
    this.#phase = this.#isSettled() ? PHASE.over : PHASE.settle;
  }
}
