/**
 * Who leads, and until when: one word, so that taking it is one compare-and-swap.
 *
 *   | until 32 (milliseconds since the pod's start) | term 20 | holder 4 | life 8 |        all 0: nobody has led yet
 *
 * Whoever reads it as run out, or knows its holder's life to be over, may put itself there with the next term; of two who try, the word says who did.
 * A holder that was slow finds another there and leads no more. All threads' clocks are one (runtime/clock.ts), and the lease outlives any pause of a healthy
 * thread, so the holder's own word counts.
 * @module
 */
import { assert } from '../protocol/errors.ts';
import type { ControlPage } from './control-page.ts';

const LIFE = { shift: 0n, mask: 0xffn };
const HOLDER = { shift: 8n, mask: 0xfn };
const TERM = { shift: 12n, mask: 0xf_ffffn };
const UNTIL = { shift: 32n, mask: 0xffff_ffffn };
type Field = { readonly shift: bigint; readonly mask: bigint };

const HOLDERS_MAX = 16;
/** After the last term comes 1 again. */
const TERMS = Number(TERM.mask);

/** `life`: of the holder's thread, modulo 256. */
export type Holding = { readonly holder: number; readonly life: number; readonly term: number; readonly until_ms: number };

export class LeaderLease {
  readonly #words: BigInt64Array;
  readonly #at: number;

  constructor(control: ControlPage) {
    const { words, at } = control.lease;
    this.#words = words;
    this.#at = at;
  }

  /** Null: nobody has led yet. */
  get holding(): Holding | null {
    return unpack(Atomics.load(this.#words, this.#at));
  }

  /**
   * Takes the lease for `length_ms`, or keeps it. Returns who holds it now: somebody else, or the asker.
   * `isOver`: whether a holder's life is known to have ended.
   */
  take(holder: number, life: number, now_ms: number, length_ms: number, isOver: (holding: Holding) => boolean): Holding {
    assert(holder < HOLDERS_MAX, `holder ${holder} of at most ${HOLDERS_MAX}`);
    const own = life % 256;
    for (;;) {
      const word = Atomics.load(this.#words, this.#at);
      const held = unpack(word);
      const isMine = held !== null && held.holder === holder && held.life === own;
      if (held !== null && !isMine && held.until_ms > now_ms && !isOver(held)) return held;
      const term = isMine ? held.term : ((held?.term ?? 0) % TERMS) + 1;
      const taken = { holder, life: own, term, until_ms: Math.floor(now_ms) + length_ms };
      if (Atomics.compareExchange(this.#words, this.#at, word, pack(taken)) === word) return taken;
    }
  }
}

const field = (word: bigint, { shift, mask }: Field): number => Number((BigInt.asUintN(64, word) >> shift) & mask);

function unpack(word: bigint): Holding | null {
  if (word === 0n) return null;
  return { holder: field(word, HOLDER), life: field(word, LIFE), term: field(word, TERM), until_ms: field(word, UNTIL) };
}

const pack = ({ holder, life, term, until_ms }: Holding): bigint =>
  BigInt.asIntN(64, (BigInt(until_ms) << UNTIL.shift) | (BigInt(term) << TERM.shift) | (BigInt(holder) << HOLDER.shift) | (BigInt(life) << LIFE.shift));
