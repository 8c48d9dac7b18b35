// What tells that memory at rest holds what was written there: 32 bits over a range of words, at the speed of the memory.
//
//   lane[i mod 32] += word[i]              over whole stretches of 32 words, each lane begins with the seed
//   h = rotl(h ^ lane[j], 13) * P          over the lanes, then over the words that are left
//
// One word that differs always shows, and several do unless they cancel out in a lane: which bits of a memory that goes bad do but by rare chance. What travels may be lost,
// doubled or exchanged as well, and has checksum.ts for it.
// Who sums cuts into chunks of a few hundred KiB, so the stop word is not polled.
import { opaque } from './lanes';

const P: u32 = 0x9e3779b1;
const LANES_BYTES: usize = 128;

// @ts-ignore: decorator
@inline
function mix(h: u32, word: u32): u32 {
  return rotl<u32>(h ^ word, 13) * P;
}

// @ts-ignore: decorator
@inline
function fold(h: u32, lane: v128): u32 {
  h = mix(h, i32x4.extract_lane(lane, 0));
  h = mix(h, i32x4.extract_lane(lane, 1));
  h = mix(h, i32x4.extract_lane(lane, 2));
  return mix(h, i32x4.extract_lane(lane, 3));
}

export function restingSum(seed: u32, address: usize, bytes: u32): u32 {
  let a = i32x4.splat(opaque(seed, bytes)), b = a, c = a, d = a, e = a, f = a, g = a, k = a;
  const end = address + <usize>bytes, whole = address + (<usize>bytes & ~(LANES_BYTES - 1));
  for (; address < whole; address += LANES_BYTES) {
    a = i32x4.add(a, v128.load(address));
    b = i32x4.add(b, v128.load(address, 16));
    c = i32x4.add(c, v128.load(address, 32));
    d = i32x4.add(d, v128.load(address, 48));
    e = i32x4.add(e, v128.load(address, 64));
    f = i32x4.add(f, v128.load(address, 80));
    g = i32x4.add(g, v128.load(address, 96));
    k = i32x4.add(k, v128.load(address, 112));
  }
  let h = fold(fold(fold(fold(seed ^ bytes, a), b), c), d);
  h = fold(fold(fold(fold(h, e), f), g), k);
  for (; address < end; address += 4) h = mix(h, load<u32>(address));
  return h;
}
