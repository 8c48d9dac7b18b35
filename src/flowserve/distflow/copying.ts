/**
 * Many blocks from a source to as many here, a bounded number of bytes at a time, and the sum of each as it arrived.
 * @module
 */
import { type Backend, Pieces, WorkRequest } from './backend.ts';
import { type BlockShape, BlockWalk, type WalkOrder } from './block-walk.ts';
import type { Checksum } from './checksum.ts';

/** Takes, of what lies at the address, the sum by which that one of the targets is guarded from then on. */
export type SumAtRest = (index: number, address: number) => void;

/** How targets are guarded from then on. */
export type Guard = {
  readonly sum: SumAtRest;
  /** That one of the targets has this sum at rest, by which what came there was proved. */
  readonly keep: (index: number, sum: number) => void;
};

/** Bytes that one poll copies at most, and sums: 0.05 to 0.2 ms of a thread that has others to serve. */
export const POLL_BYTES = 1 << 20;

export class Copying {
  readonly walk: BlockWalk;
  /** By block, as far as it was copied; zeros where sums are not wanted. */
  readonly sums: Int32Array;
  copied_bytes = 0;
  readonly work = new WorkRequest();
  readonly #backend: Backend;
  readonly #checksum: Checksum | null;
  readonly #sources: ArrayLike<number>;
  readonly #targets: ArrayLike<number>;
  readonly #sumAtRest: SumAtRest | null;
  readonly #pieces = new Pieces();
  /** Goes after the walk: what is copied and not summed lies between. */
  readonly #summed: BlockWalk;
  #filled_bytes = 0;
  #posted_bytes = 0;

  /** `sumAtRest`: called for each block before it is copied, with its source; by memory, block by block, and where sums are wanted alone. */
  constructor(
    backend: Backend,
    checksum: Checksum | null,
    shape: BlockShape,
    sources: ArrayLike<number>,
    targets: ArrayLike<number>,
    order: WalkOrder,
    sumAtRest: SumAtRest | null = null,
  ) {
    this.#backend = backend;
    this.#checksum = checksum;
    this.#sumAtRest = sumAtRest;
    this.#sources = sources;
    this.#targets = targets;
    this.walk = new BlockWalk(shape, order);
    this.#summed = new BlockWalk(shape, order);
    this.sums = new Int32Array(shape.blocks);
  }

  /** All is here, and summed. */
  get isDone(): boolean {
    return this.walk.isDone && this.#posted_bytes === 0;
  }

  /** Layers below that are here, and more of them are to come. */
  hasAllOf(layers_there: number): boolean {
    return !this.walk.isDone && this.walk.layer >= layers_there && this.#posted_bytes === 0;
  }

  /** Goes on by at most `budget_bytes`, through layers below `layers_there`. Bytes that arrived; look at `work` where it is none. */
  poll(layers_there: number, budget_bytes: number): number {
    if (this.#posted_bytes > 0) {
      const landed = this.#land();
      if (landed > 0 || this.#posted_bytes > 0) return landed;
    }
    if (this.#checksum !== null && this.#backend.isMemory) return this.#copySummed(this.#checksum, layers_there, budget_bytes);
    this.#fill(layers_there, budget_bytes);
    return this.#post();
  }

  /** Copy and sum in one pass over the memory: as fast as the copy alone, where a sum of what was copied takes as long again. */
  #copySummed(checksum: Checksum, layers_there: number, budget_bytes: number): number {
    const { walk, sums } = this;
    let bytes = 0;
    while (!walk.isDone && walk.layer < layers_there && (bytes === 0 || bytes + walk.bytes <= budget_bytes) && this.#backend.broken === null) {
      const { block, at, bytes: size } = walk;
      const source = this.#sources[block] as number;
      if (at === 0) this.#sumAtRest?.(block, source);
      sums[block] = checksum.copy(sums[block] as number, (this.#targets[block] as number) + at, source + at, size);
      bytes += size;
      walk.advance();
    }
    this.copied_bytes += bytes;
    if (this.#backend.broken !== null) this.work.fail(this.#backend.broken);
    return bytes;
  }

  /** Takes what has landed, and goes on no further. */
  settle(): void {
    if (this.#posted_bytes > 0) this.#land();
  }

  #fill(layers_there: number, budget_bytes: number): void {
    const pieces = this.#pieces;
    if (pieces.count > 0) return;
    const { walk } = this;
    let bytes = 0;
    while (!walk.isDone && walk.layer < layers_there && !pieces.isFull) {
      const size = walk.bytes;
      if (bytes > 0 && bytes + size > budget_bytes) break;
      pieces.add((this.#targets[walk.block] as number) + walk.at, (this.#sources[walk.block] as number) + walk.at, size);
      bytes += size;
      walk.advance();
    }
    this.#filled_bytes = bytes;
  }

  #post(): number {
    if (this.#pieces.count === 0) return 0;
    this.#backend.read(this.work, this.#pieces);
    if (this.work.state === 'idle') return 0;
    this.#posted_bytes = this.#filled_bytes;
    return this.#land();
  }

  #land(): number {
    if (this.work.state !== 'done') return 0;
    const bytes = this.#posted_bytes;
    this.copied_bytes += bytes;
    this.#posted_bytes = 0;
    this.#pieces.count = 0;
    this.work.state = 'idle';
    this.#sum();
    return bytes;
  }

  /** What has just arrived, while it is in the cache. */
  #sum(): void {
    const checksum = this.#checksum;
    if (checksum === null) return;
    const summed = this.#summed;
    while (!summed.isAt(this.walk)) {
      const { block } = summed;
      this.sums[block] = checksum.sum(this.sums[block] as number, (this.#targets[block] as number) + summed.at, summed.bytes);
      summed.advance();
    }
  }
}
