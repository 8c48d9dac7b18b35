// Bulk bytes move by memory.copy and memory.fill: 3 to 30 times the speed of TypedArray.set on shared memory.
import { pollStop } from './stop';

/** Bytes between polls: a millisecond or a few. Measured: pieces of 0.5 to 32 MiB copy as fast as the whole (256 MiB at 12 GB/s). */
const PIECE: u32 = 1 << 22;

/** Source and destination may overlap: pieces are taken in the direction that reads a byte before it is overwritten, as memory.copy does inside one. */
export function copyBytes(dst: usize, src: usize, n: u32): void {
  if (dst <= src) {
    for (let i: u32 = 0; i < n; ) {
      pollStop();
      const piece = min(PIECE, n - i);
      memory.copy(dst + i, src + i, piece);
      i += piece;
    }
  } else {
    for (let left = n; left > 0; ) {
      pollStop();
      const piece = min(PIECE, left);
      left -= piece;
      memory.copy(dst + left, src + left, piece);
    }
  }
}

export function fillBytes(dst: usize, value: i32, n: u32): void {
  for (let i: u32 = 0; i < n; ) {
    pollStop();
    const piece = min(PIECE, n - i);
    memory.fill(dst + i, <u8>value, piece);
    i += piece;
  }
}
