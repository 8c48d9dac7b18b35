/**
 * The sum of a frame: what a reader holds what came against, before it believes any of it. Two sums (Fletcher's), so that words in another order have another
 * one too: half the time of a product a word, which is all that a small frame can afford. Of what else goes wrong one in eight million is not seen.
 *
 *   a = Σ words    b = Σ a after each word    sum = 23 bits of both, which lie in the header's first word beside the kind
 *
 * @module
 */
/** Odd, with no pattern in their bits (Stafford's mix 13, of 32 bits). */
const MIX_1 = 0x7feb_352d;
const MIX_2 = 0x846c_a68b;
/** Below them the kind's word has the kind and its flag. */
const SUM_MASK = ~0x1ff;

/** The two sums so far. */
export class FrameSum {
  #a = 0;
  #b = 0;

  begin(word: number): void {
    this.#a = word;
    this.#b = 0;
  }

  add(words: Int32Array, from: number, length: number): void {
    let a = this.#a;
    let b = this.#b;
    for (let index = from; index < from + length; index++) {
      a = (a + (words[index] as number)) | 0;
      b = (b + a) | 0;
    }
    this.#a = a;
    this.#b = b;
  }

  /** In place, beside a kind: the lowest bits are 0. */
  end(): number {
    // One word that changed changes the same bits of both: apart, so that they do not cancel.
    let mixed = this.#a ^ ((this.#b << 13) | (this.#b >>> 19));
    mixed = Math.imul(mixed ^ (mixed >>> 16), MIX_1);
    mixed = Math.imul(mixed ^ (mixed >>> 15), MIX_2);
    return mixed & SUM_MASK;
  }
}
