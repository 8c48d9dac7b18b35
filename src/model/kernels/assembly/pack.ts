// From a checkpoint's [out, in] tensor to packed panels of 16 outputs.
//
//   panel p:  k = 0            k = 1            …  k = in-1
//             [16 outputs]     [16 outputs]     …              outputs 16p .. 16p+15, zeros beyond `out`
//   F32:  o0 o1 o2 … o15
//   BF16: o0 o4 o1 o5 o2 o6 o3 o7 | o8 o12 o9 o13 …            so that `shl 16` yields o0..o3 and `and 0xffff0000` o4..o7
import { pollStop, STRETCH_BYTES } from './stop';

/** Values between polls. */
const STRETCH: usize = STRETCH_BYTES >> 2;

/** Where output j of a panel's 16 stands in a BF16 group. */
// @ts-ignore: decorator
@inline
function bf16Slot(j: i32): i32 {
  return (j & 8) + ((j & 3) << 1) + ((j >> 2) & 1);
}

// @ts-ignore: decorator
@inline
function pack<T>(dst: usize, src: usize, outDim: i32, inDim: i32, outStride: usize, inStride: usize): void {
  for (let panel = 0; panel < outDim; panel += 16) {
    for (let j = 0; j < 16; j++) {
      pollStop();
      const slot = isFloat<T>() ? j : bf16Slot(j);
      const missing = panel + j >= outDim;
      let from = src + <usize>(panel + j) * outStride * sizeof<T>();
      let to = dst + <usize>slot * sizeof<T>();
      for (let k = 0; k < inDim; k++) {
        store<T>(to, missing ? <T>0 : load<T>(from));
        from += inStride * sizeof<T>();
        to += 16 * sizeof<T>();
      }
    }
    dst += <usize>inDim * 16 * sizeof<T>();
  }
}

/** Packs raw BF16 [out, in] rows at src (row stride in elements; any alignment). dst holds packedBytes(out, in, 'bf16'). */
export function packBf16(dst: usize, src: usize, outDim: i32, inDim: i32, srcRowStride: i32): void {
  pack<u16>(dst, src, outDim, inDim, <usize>srcRowStride, 1);
}

/** The same for F32. */
export function packF32(dst: usize, src: usize, outDim: i32, inDim: i32, srcRowStride: i32): void {
  pack<f32>(dst, src, outDim, inDim, <usize>srcRowStride, 1);
}

/** Packs from a source that is stored the other way round: element (o, k) at src[k * srcRowStride + o]. For absorbed W_UK: out = latent, in = nope. */
export function packBf16Transposed(dst: usize, src: usize, outDim: i32, inDim: i32, srcRowStride: i32): void {
  pack<u16>(dst, src, outDim, inDim, 1, <usize>srcRowStride);
}

/** The same for F32. */
export function packF32Transposed(dst: usize, src: usize, outDim: i32, inDim: i32, srcRowStride: i32): void {
  pack<f32>(dst, src, outDim, inDim, 1, <usize>srcRowStride);
}

/** dst[i] = f32(src[i]) for `count` BF16 values, whatever the alignment: a BF16 is the upper half of a float. */
// @ts-ignore: decorator
@inline
export function widenBf16Row(dst: usize, src: usize, count: usize): void {
  const whole = count & ~7;
  for (let i: usize = 0; i < whole; i += 8) {
    const halves = v128.load(src + (i << 1));
    v128.store(dst + (i << 2), i32x4.shl(i32x4.extend_low_i16x8_u(halves), 16));
    v128.store(dst + (i << 2), i32x4.shl(i32x4.extend_high_i16x8_u(halves), 16), 16);
  }
  for (let i = whole; i < count; i++) store<u32>(dst + (i << 2), <u32>load<u16>(src + (i << 1)) << 16);
}

/** dst[i] = f32(src[i]) for `count` BF16 values. */
export function widenBf16(dst: usize, src: usize, count: i32): void {
  for (let i: usize = 0; i < <usize>count; i += STRETCH) {
    pollStop();
    widenBf16Row(dst + (i << 2), src + (i << 1), min(STRETCH, <usize>count - i));
  }
}

/** The bits of an IEEE half as a float. */
// @ts-ignore: decorator
@inline
function widenedF16(half: u32): u32 {
  const sign = (half & 0x8000) << 16;
  const magnitude = half & 0x7fff;
  let bits: u32;
  if (magnitude >= 0x7c00) bits = (magnitude << 13) | 0x7f800000; // inf, NaN
  else if (magnitude >= 0x0400) bits = (magnitude << 13) + 0x38000000;
  else bits = reinterpret<u32>(<f32>magnitude * 5.9604644775390625e-8); // zero and denormals: magnitude * 2^-24, exact
  return bits | sign;
}

/** dst[i] = f32(src[i]) for `count` IEEE half values. */
export function widenF16(dst: usize, src: usize, count: i32): void {
  for (let i: usize = 0; i < <usize>count; ) {
    pollStop();
    for (const end = min(i + STRETCH, <usize>count); i < end; i++) store<u32>(dst + (i << 2), widenedF16(load<u16>(src + (i << 1))));
  }
}
