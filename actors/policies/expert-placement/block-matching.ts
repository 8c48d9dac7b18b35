/**
 * Reorders blocks of slots so that as many slots as possible hold what another order of them holds: blocks are matched greedily, from the pair with the most
 * in common down, of equals the first.
 * @module
 */
import { NO_EXPERT } from './expert-map.ts';

/** In maps of so many experts, over at most so many slots at once; in memory of its own. */
export class BlockMatching {
  /** [block to be placed][block that is there]: how many slots they could have alike, empty ones too. */
  readonly #alike: Int32Array;
  /** By expert, empty slots before them: how many slots of the block that is there are not matched. */
  readonly #left: Int32Array;
  readonly #blockAt: Int32Array;
  readonly #isPlaced: Uint8Array;
  readonly #before: Int32Array;

  constructor(experts: number, slots_max: number, blocks_max: number) {
    this.#alike = new Int32Array(blocks_max * blocks_max);
    this.#left = new Int32Array(experts - NO_EXPERT);
    this.#blockAt = new Int32Array(blocks_max);
    this.#isPlaced = new Uint8Array(blocks_max);
    this.#before = new Int32Array(slots_max);
  }

  /** Reorders `plan`, from slot `first` on, in place: so many blocks of so many slots. */
  match(plan: Int32Array, present: Int32Array, first: number, blocks: number, size: number): void {
    const [alike, blockAt, isPlaced, before] = [this.#alike, this.#blockAt, this.#isPlaced, this.#before];
    const most = this.#countAlike(plan, present, first, blocks, size);
    blockAt.fill(-1, 0, blocks);
    isPlaced.fill(0, 0, blocks);
    for (let count = most; count >= 0; count--) {
      for (let block = 0; block < blocks; block++) {
        if (isPlaced[block] === 1) continue;
        for (let at = 0; at < blocks; at++) {
          if (blockAt[at] !== -1 || alike[block * blocks + at] !== count) continue;
          blockAt[at] = block;
          isPlaced[block] = 1;
          break;
        }
      }
    }
    for (let slot = 0; slot < blocks * size; slot++) before[slot] = plan[first + slot] as number;
    for (let at = 0; at < blocks; at++)
      for (let slot = 0; slot < size; slot++) plan[first + at * size + slot] = before[(blockAt[at] as number) * size + slot] as number;
  }

  /** The most that two blocks could have alike. */
  #countAlike(plan: Int32Array, present: Int32Array, first: number, blocks: number, size: number): number {
    const [alike, left] = [this.#alike, this.#left];
    let most = 0;
    for (let at = 0; at < blocks; at++) {
      const there = first + at * size;
      addOne(left, present, there, size);
      for (let block = 0; block < blocks; block++) {
        const start = first + block * size;
        let count = 0;
        // Below zero: of these the plan's block has more than are left.
        for (let slot = start; slot < start + size; slot++) {
          const held = (plan[slot] as number) - NO_EXPERT;
          const free = left[held] as number;
          left[held] = free - 1;
          if (free > 0) count++;
        }
        addOne(left, plan, start, size);
        alike[block * blocks + at] = count;
        if (count > most) most = count;
      }
      for (let slot = there; slot < there + size; slot++) left[(present[slot] as number) - NO_EXPERT] = 0;
    }
    return most;
  }
}

function addOne(left: Int32Array, expertOfSlot: Int32Array, first: number, size: number): void {
  for (let slot = first; slot < first + size; slot++) {
    const held = (expertOfSlot[slot] as number) - NO_EXPERT;
    left[held] = (left[held] as number) + 1;
  }
}
