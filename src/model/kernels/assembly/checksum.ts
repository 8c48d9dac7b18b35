// What proves that a copy is whole: 32 bits over a range of words, for blocks of KV that travel (src/flowserve/distflow/).
//
//   lane[i mod 32] = rotl(lane[i mod 32] ^ word[i], 13) * P        over whole stretches of 32 words, each lane begins with the seed
//   h = rotl(h ^ lane[j], 13) * P                                  over the lanes, then over the words that are left
//
// Each step maps the lane one to one, whatever the word: one word that differs always shows, more of them but for one case in 2^32.
import { pollStop, STRETCH_BYTES } from './stop';

const P: u32 = 0x9e3779b1; // 2^32 divided by the golden ratio, made odd
const LANES_BYTES: usize = 128;

// @ts-ignore: decorator
@inline
function mix(h: u32, word: u32): u32 {
  return rotl<u32>(h ^ word, 13) * P;
}

// @ts-ignore: decorator
@inline
function mix4(lane: v128, at: usize, p: v128): v128 {
  const x = v128.xor(lane, v128.load(at));
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

export function checksum(seed: u32, address: usize, bytes: u32): u32 {
  const p = i32x4.splat(P);
  let a = i32x4.splat(seed), b = a, c = a, d = a, e = a, f = a, g = a, k = a;
  const end = address + <usize>bytes, whole = address + (<usize>bytes & ~(LANES_BYTES - 1));
  while (address < whole) {
    pollStop();
    const stretch = min(whole, address + STRETCH_BYTES);
    for (; address < stretch; address += LANES_BYTES) {
      a = mix4(a, address, p);
      b = mix4(b, address + 16, p);
      c = mix4(c, address + 32, p);
      d = mix4(d, address + 48, p);
      e = mix4(e, address + 64, p);
      f = mix4(f, address + 80, p);
      g = mix4(g, address + 96, p);
      k = mix4(k, address + 112, p);
    }
  }
  let h = fold(fold(fold(fold(seed ^ bytes, a), b), c), d);
  h = fold(fold(fold(fold(h, e), f), g), k);
  for (; address < end; address += 4) h = mix(h, load<u32>(address));
  h ^= h >>> 15;
  return h * P;
}
