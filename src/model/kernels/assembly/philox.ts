// Philox4x32-10, counter-based random numbers (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// Noise is a pure function of (seed, choice, position, token id): a moved request, or a draft and its verification, draw alike.
import { log4 } from './elementary';

// @ts-ignore: decorator
@inline
const M0: u64 = 0xd2511f53;
// @ts-ignore: decorator
@inline
const M1: u64 = 0xcd9e8d57;
const WEYL0: u32 = 0x9e3779b9;
const WEYL1: u32 = 0xbb67ae85;

/** The four words of counter (c0, c1, c2, c3) under key (k0, k1). */
export function philox4(c0: u32, c1: u32, c2: u32, c3: u32, k0: u32, k1: u32): v128 {
  for (let round = 0; round < 10; round++) {
    const low = M0 * <u64>c0;
    const high = M1 * <u64>c2;
    c0 = <u32>(high >> 32) ^ c1 ^ k0;
    c1 = <u32>high;
    c2 = <u32>(low >> 32) ^ c3 ^ k1;
    c3 = <u32>low;
    k0 += WEYL0;
    k1 += WEYL1;
  }
  return i32x4.replace_lane(i32x4.replace_lane(i32x4.replace_lane(i32x4.splat(c0), 1, c1), 2, c2), 3, c3);
}

/**
 * Gumbel noise -log(-log(u)) of tokens 4 * quad .. 4 * quad + 3. u = (top 23 bits + 1/2) / 2^23, which f32 holds exactly, so 0 < u < 1
 * (with 24 bits the largest u would round to 1, and its noise to infinity).
 */
// @ts-ignore: decorator
@inline
export function gumbel4(quad: u32, choice: u32, position: u32, seedLow: u32, seedHigh: u32): v128 {
  const top = i32x4.shr_u(philox4(quad, choice, position, 0, seedLow, seedHigh), 9);
  const u = f32x4.mul(f32x4.add(f32x4.convert_i32x4_s(top), f32x4.splat(0.5)), f32x4.splat(1.1920928955078125e-7));
  return f32x4.neg(log4(f32x4.neg(log4(u))));
}

/** The four words at dst; for tests against the published vectors. */
export function philoxWords(dst: usize, c0: u32, c1: u32, c2: u32, c3: u32, k0: u32, k1: u32): void {
  v128.store(dst, philox4(c0, c1, c2, c3, k0, k1));
}
