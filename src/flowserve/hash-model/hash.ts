/**
 * 64-bit hashes of pairs of 32-bit words, in two 32-bit lanes: the same on every engine, without BigInt, without allocating.
 *
 * Rounds, constants and finaliser are those of MurmurHash3 x86_128, its first two lanes (Austin Appleby, public domain, github.com/aappleby/smhasher).
 * Each round is a bijection of (low, high) for given words and of the words for given lanes: a difference can be cancelled by a later one, never lost.
 * @module
 */

const C1 = 0x239b961b;
const C2 = 0xab0e9789;
const C3 = 0x38b34ae5;

/** Spreads each bit over all 32: murmur3's fmix32. */
export function mix32(x: number): number {
  let h = x;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

export class Hash {
  #low = 0;
  #high = 0;
  /** Pairs so far. */
  #pairs = 0;

  /** Starts anew. `kind` says what is hashed, so that equal words of different things differ. */
  begin(kind: number, first: number, second: number): void {
    this.#low = Math.imul(kind, C2);
    this.#high = Math.imul(kind, C3);
    this.#pairs = 0;
    this.absorb(first, second);
  }

  absorb(low: number, high: number): void {
    const k1 = Math.imul(low, C1);
    const a = this.#low ^ Math.imul((k1 << 15) | (k1 >>> 17), C2);
    this.#low = (Math.imul(((a << 19) | (a >>> 13)) + this.#high, 5) + 0x561ccd1b) | 0;
    const k2 = Math.imul(high, C2);
    const b = this.#high ^ Math.imul((k2 << 16) | (k2 >>> 16), C3);
    this.#high = (Math.imul(((b << 17) | (b >>> 15)) + this.#low, 5) + 0x0bcaa747) | 0;
    this.#pairs++;
  }

  /** Absorbs `count` pairs that lie one after the other, from word `at`. Written out, so that the lanes stay in registers. */
  absorbPairs(words: Int32Array, at: number, count: number): void {
    let low = this.#low;
    let high = this.#high;
    for (let word = at, end = at + 2 * count; word < end; word += 2) {
      const k1 = Math.imul(words[word] as number, C1);
      const a = low ^ Math.imul((k1 << 15) | (k1 >>> 17), C2);
      low = (Math.imul(((a << 19) | (a >>> 13)) + high, 5) + 0x561ccd1b) | 0;
      const k2 = Math.imul(words[word + 1] as number, C2);
      const b = high ^ Math.imul((k2 << 16) | (k2 >>> 16), C3);
      high = (Math.imul(((b << 17) | (b >>> 15)) + low, 5) + 0x0bcaa747) | 0;
    }
    this.#low = low;
    this.#high = high;
    this.#pairs += count;
  }

  /** Writes the hash of what was absorbed, two words. More may be absorbed afterwards, as if nothing had been written. */
  write(words: Int32Array, at: number): void {
    const length = this.#pairs << 3;
    let low = this.#low ^ length;
    let high = this.#high ^ length;
    low = (low + high) | 0;
    high = (high + low) | 0;
    low = mix32(low);
    high = mix32(high);
    low = (low + high) | 0;
    words[at] = low;
    words[at + 1] = (high + low) | 0;
  }

  /** The same with one more pair, which is not kept. */
  writeWith(last: number, lastHigh: number, words: Int32Array, at: number): void {
    const low = this.#low;
    const high = this.#high;
    this.absorb(last, lastHigh);
    this.write(words, at);
    this.#low = low;
    this.#high = high;
    this.#pairs--;
  }
}
