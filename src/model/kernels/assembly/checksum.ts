// What proves that a copy is whole: 32 bits over a range of words, for blocks of KV that travel (src/flowserve/distflow/).
//
//   lane[i mod 32] = rotl(lane[i mod 32] ^ word[i], 13) * P        over whole stretches of 32 words, each lane begins with the seed
//   h = rotl(h ^ lane[j], 13) * P                                  over the lanes, then over the words that are left
//
// Who sums cuts into chunks of a few hundred KiB, so the stop word is not polled.
//
// Each step maps the lane one to one, whatever the word: one word that differs always shows, more of them but for one case in 2^32.
import { opaque } from './lanes';

const P: u32 = 0x9e3779b1; // 2^32 divided by the golden ratio, made odd
const LANES_BYTES: usize = 128;

// @ts-ignore: decorator
@inline
function mix(h: u32, word: u32): u32 {
  return rotl<u32>(h ^ word, 13) * P;
}

// @ts-ignore: decorator
@inline
function mix4(lane: v128, word: v128, p: v128): v128 {
  const x = v128.xor(lane, word);
  return i32x4.mul(v128.or(i32x4.shl(x, 13), i32x4.shr_u(x, 19)), p);
}

// @ts-ignore: decorator
@inline
function fold(h: u32, lane: v128): u32 {
  h = mix(h, i32x4.extract_lane(lane, 0));
  h = mix(h, i32x4.extract_lane(lane, 1));
  h = mix(h, i32x4.extract_lane(lane, 2));
  return mix(h, i32x4.extract_lane(lane, 3));
}

/** Loads four words for the sum, and stores them where they are copied to. */
// @ts-ignore: decorator
@inline
function take4(lane: v128, from: usize, to: usize, copies: bool, p: v128): v128 {
  const word = v128.load(from);
  if (copies) v128.store(to, word);
  return mix4(lane, word, p);
}

// @ts-ignore: decorator
@inline
function run(seed: u32, from: usize, to: usize, bytes: u32, copies: bool): u32 {
  const p = i32x4.splat(opaque(P, bytes));
  let a = i32x4.splat(seed), b = a, c = a, d = a, e = a, f = a, g = a, k = a;
  const end = from + <usize>bytes, whole = from + (<usize>bytes & ~(LANES_BYTES - 1)), shift = to - from;
  for (; from < whole; from += LANES_BYTES) {
    a = take4(a, from, from + shift, copies, p);
    b = take4(b, from + 16, from + shift + 16, copies, p);
    c = take4(c, from + 32, from + shift + 32, copies, p);
    d = take4(d, from + 48, from + shift + 48, copies, p);
    e = take4(e, from + 64, from + shift + 64, copies, p);
    f = take4(f, from + 80, from + shift + 80, copies, p);
    g = take4(g, from + 96, from + shift + 96, copies, p);
    k = take4(k, from + 112, from + shift + 112, copies, p);
  }
  let h = fold(fold(fold(fold(seed ^ bytes, a), b), c), d);
  h = fold(fold(fold(fold(h, e), f), g), k);
  for (; from < end; from += 4) {
    const word = load<u32>(from);
    if (copies) store<u32>(from + shift, word);
    h = mix(h, word);
  }
  h ^= h >>> 15;
  return h * P;
}

export function checksum(seed: u32, address: usize, bytes: u32): u32 {
  return run(seed, address, 0, bytes, false);
}

/** Copies, and sums what it has copied: each word is loaded once for both. The two do not overlap. */
export function copyChecksum(seed: u32, dst: usize, src: usize, bytes: u32): u32 {
  return run(seed, src, dst, bytes, true);
}
