// Philox4x32-10, counter-based random numbers (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// Noise is a pure function of (seed, choice, position, token id): a moved request, or a draft and its verification, draw alike.
import { log1, minusLogVectors } from './elementary';
import { opaque } from './lanes';

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

/** The words of four counters, quad .. quad + 3, at dst in the order of the tokens they serve; the same numbers as philox4, lane by lane. */
// @ts-ignore: decorator
@inline
function philox16(dst: usize, quad: u32, choice: u32, position: u32, k0: u32, k1: u32, m0: v128, m1: v128): void {
  let c0 = i32x4.add(i32x4.splat(quad), i32x4(0, 1, 2, 3)), c1 = i32x4.splat(choice), c2 = i32x4.splat(position), c3 = i32x4.splat(0);
  for (let round = 0; round < 10; round++) {
    const low01 = i64x2.extmul_low_i32x4_u(m0, c0), low23 = i64x2.extmul_high_i32x4_u(m0, c0);
    const high01 = i64x2.extmul_low_i32x4_u(m1, c2), high23 = i64x2.extmul_high_i32x4_u(m1, c2);
    c0 = v128.xor(v128.xor(v128.shuffle<i32>(high01, high23, 1, 3, 5, 7), c1), i32x4.splat(k0));
    c1 = v128.shuffle<i32>(high01, high23, 0, 2, 4, 6);
    c2 = v128.xor(v128.xor(v128.shuffle<i32>(low01, low23, 1, 3, 5, 7), c3), i32x4.splat(k1));
    c3 = v128.shuffle<i32>(low01, low23, 0, 2, 4, 6);
    k0 += WEYL0;
    k1 += WEYL1;
  }
  const a = v128.shuffle<i32>(c0, c1, 0, 4, 1, 5), b = v128.shuffle<i32>(c0, c1, 2, 6, 3, 7);
  const c = v128.shuffle<i32>(c2, c3, 0, 4, 1, 5), d = v128.shuffle<i32>(c2, c3, 2, 6, 3, 7);
  v128.store(dst, v128.shuffle<i64>(a, c, 0, 2));
  v128.store(dst, v128.shuffle<i64>(a, c, 1, 3), 16);
  v128.store(dst, v128.shuffle<i64>(b, d, 0, 2), 32);
  v128.store(dst, v128.shuffle<i64>(b, d, 1, 3), 48);
}

// Gumbel noise is -log(-log(u)) with u = (top 23 bits + 1/2) / 2^23, which f32 holds exactly, so 0 < u < 1 (with 24 bits the largest u would
// round to 1, and its noise to infinity).
const U_STEP: f32 = 1.1920928955078125e-7; // 2^-23

/** The noise of one token. */
export function gumbel(id: u32, choice: u32, position: u32, seedLow: u32, seedHigh: u32, scratch: usize): f32 {
  v128.store(scratch, philox4(id >> 2, choice, position, 0, seedLow, seedHigh));
  const top = load<u32>(scratch + (<usize>(id & 3) << 2)) >> 9;
  return -log1(-log1((<f32>top + <f32>0.5) * U_STEP));
}

/** The noise of tokens 0..n-1 at dst, which has room for n rounded up to 16. */
export function gumbelRow(dst: usize, n: i32, choice: u32, position: u32, seedLow: u32, seedHigh: u32): void {
  const m0 = i32x4.splat(opaque(<i32>M0, n)), m1 = i32x4.splat(opaque(<i32>M1, n));
  const half = f32x4.splat(0.5), step = f32x4.splat(U_STEP);
  const bytes = <usize>((n + 15) & ~15) << 2;
  for (let i: usize = 0; i < bytes; i += 64) philox16(dst + i, <u32>(i >> 4), choice, position, seedLow, seedHigh, m0, m1);
  for (let i: usize = 0; i < bytes; i += 16) {
    const top = i32x4.shr_u(v128.load(dst + i), 9);
    v128.store(dst + i, f32x4.mul(f32x4.add(f32x4.convert_i32x4_s(top), half), step));
  }
  minusLogVectors(dst, dst, bytes);
  minusLogVectors(dst, dst, bytes);
}

/** The four words at dst; for tests against the published vectors. */
export function philoxWords(dst: usize, c0: u32, c1: u32, c2: u32, c3: u32, k0: u32, k1: u32): void {
  v128.store(dst, philox4(c0, c1, c2, c3, k0, k1));
}
