// Activation, residual, embedding rows.
import { exp1, expVectors } from './elementary';
import { widenBf16Row } from './pack';
import { pollStop, pollStopAt, STRETCH_BYTES } from './stop';

/**
 * y[r, i] = silu(gate) * up with silu(x) = x / (1 + exp(-x)), where a row of gateUp is [gate (inter) | up (inter)]. Strides in floats.
 * y must not overlap gateUp: it holds exp(-gate) on the way.
 */
export function siluMul(y: usize, yStride: i32, gateUp: usize, gateUpStride: i32, rows: i32, inter: i32): void {
  const whole = <usize>(inter & ~3) << 2;
  const all = <usize>inter << 2;
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const up = gateUp + all;
    for (let i: usize = 0; i < whole; i += 16) v128.store(y + i, f32x4.neg(v128.load(gateUp + i)));
    expVectors(y, y, whole, 0);
    for (let i: usize = 0; i < whole; i += 16) {
      const silu = f32x4.div(v128.load(gateUp + i), f32x4.add(f32x4.splat(1), v128.load(y + i)));
      v128.store(y + i, f32x4.mul(silu, v128.load(up + i)));
    }
    for (let i = whole; i < all; i += 4) {
      const x = load<f32>(gateUp + i);
      store<f32>(y + i, (x / (1 + exp1(-x))) * load<f32>(up + i));
    }
    y += <usize>yStride << 2;
    gateUp += <usize>gateUpStride << 2;
  }
}

/** x[i] += y[i] */
export function addInPlace(x: usize, y: usize, count: i32): void {
  const whole = <usize>(count & ~3) << 2;
  for (let i: usize = 0; i < whole; ) {
    pollStop();
    for (const end = min(i + STRETCH_BYTES, whole); i < end; i += 16) v128.store(x + i, f32x4.add(v128.load(x + i), v128.load(y + i)));
  }
  for (let i = whole; i < <usize>count << 2; i += 4) store<f32>(x + i, load<f32>(x + i) + load<f32>(y + i));
}

/** dst row r = row ids[r] of a BF16 table [vocabulary, dim], widened. dstStride in floats. */
export function embedBf16(dst: usize, dstStride: i32, table: usize, ids: usize, rows: i32, dim: i32): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    const from = table + (<usize>load<u32>(ids + (<usize>r << 2)) * <usize>dim << 1);
    widenBf16Row(dst, from, <usize>dim);
    dst += <usize>dstStride << 2;
  }
}

/** dst row r = row ids[r] of an F32 table [vocabulary, dim]. dstStride in floats. */
export function embedF32(dst: usize, dstStride: i32, table: usize, ids: usize, rows: i32, dim: i32): void {
  for (let r = 0; r < rows; r++) {
    pollStopAt(r);
    memory.copy(dst, table + (<usize>load<u32>(ids + (<usize>r << 2)) * <usize>dim << 2), <usize>dim << 2);
    dst += <usize>dstStride << 2;
  }
}
