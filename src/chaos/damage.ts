/** Memory that goes bad: a bit that flips, or words that somebody else has written over; and as it was before, if nobody has noticed. @module */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';

/** Whole words that lie one after the other. */
export type Spot = { readonly address: number; readonly bytes: number };
/** What lies at an address, and what lay there. */
export type Damage = { readonly address: number; readonly bad: readonly number[]; readonly whole: readonly number[] };

const ANY_WORD = 2 ** 31;

/** Bit `bit` of the spot, counted round, is another one. */
export function flipBit(space: AddressSpace, { address, bytes }: Spot, bit: number): Damage {
  const at = bit % (8 * bytes);
  return overwrite(space, address + 4 * Math.floor(at / 32), [1 << (at % 32)]);
}

/** So many words from one on that `below` draws are other ones, each of them; fewer where the spot ends. */
export function writeOver(space: AddressSpace, { address, bytes }: Spot, words: number, below: (limit: number) => number): Damage {
  const there = Math.floor(bytes / 4);
  const from = below(Math.max(1, there - words + 1));
  const masks = Array.from({ length: Math.min(words, there) }, () => 1 + below(ANY_WORD - 1));
  return overwrite(space, address + 4 * from, masks);
}

function overwrite(space: AddressSpace, address: number, masks: readonly number[]): Damage {
  const words = space.wordsOf(address);
  const first = offsetOf(address) / 4;
  const whole = masks.map((_, index) => words[first + index] as number);
  const bad = masks.map((mask, index) => (whole[index] as number) ^ mask);
  words.set(bad, first);
  return { address, bad, whole };
}

/** Nobody has written anything else there. */
export function liesThere(space: AddressSpace, { address, bad }: Damage): boolean {
  const words = space.wordsOf(address);
  return bad.every((word, index) => Atomics.load(words, offsetOf(address) / 4 + index) === word);
}

/** What lay there lies there again, where nobody has written anything else. */
export function undo(space: AddressSpace, { address, bad, whole }: Damage): void {
  const words = space.wordsOf(address);
  for (const [index, word] of bad.entries()) Atomics.compareExchange(words, offsetOf(address) / 4 + index, word, whole[index] as number);
}
