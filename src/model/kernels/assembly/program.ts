// Programs of kernel calls: a decode step that was captured once is launched by one call (xDeepServe §2: decode runs in graph mode).
// src/model/kernels/program.ts writes them, and has the list of opcodes; a test runs each of them against the kernel called directly.
//
//   program   | instruction | instruction | …
//   instruction   u32 header, then u32 operands        f32 operands by their bits
//   header        bits 0–7 opcode, 8–11 number of operands, 12–27 a bit for each operand that is a variable: the address of the word that holds it
import { copyBytes } from './bytes';
import { addInPlace, embedBf16, embedF32, siluMul } from './elementwise';
import { gateSigmoid, gateSoftmax } from './gating';
import { matmulHeadsInt8, matmulInt8, quantizeRows } from './int8';
import { matmulBf16, matmulF32 } from './matmul';
import { matmulHeadsBf16, matmulHeadsF32 } from './matmul-heads';
import { combineRows, countExperts, gatherRows } from './moe';
import { rmsNorm, rmsNormHeads } from './norm';
import { ropeHalves, ropeInterleaved } from './rope';
import { sortPairs } from './routing';
import {
  gqaAttentionSpans, gqaAttentionSpansInt8, gqaStoreSpans, gqaStoreSpansInt8, mlaAttentionSpans, mlaAttentionSpansInt8, mlaStoreSpans, mlaStoreSpansInt8,
} from './spans';
import { pollStop } from './stop';
import { dequantizeInt8, quantizeInt8 } from './wire';

const VARIABLES: u32 = 4096;

/** Operand i. */
// @ts-ignore: decorator
@inline
function u(at: usize, i: i32): usize {
  const word = <usize>load<u32>(at + (<usize>i << 2), 4);
  return load<u32>(at) & (VARIABLES << i) ? <usize>load<u32>(word) : word;
}

// @ts-ignore: decorator
@inline
function n(at: usize, i: i32): i32 {
  return <i32>u(at, i);
}

/** A float is never a variable. */
// @ts-ignore: decorator
@inline
function f(at: usize, i: i32): f32 {
  return load<f32>(at + (<usize>i << 2), 4);
}

/** Runs the instructions in `bytes` from `program` on. */
export function runProgram(program: usize, bytes: i32): void {
  pollStop();
  const end = program + <usize>bytes;
  for (let at = program; at < end; at += (<usize>((load<u32>(at) >> 8) & 15) << 2) + 4) {
    switch (load<u32>(at) & 255) {
      case 1: embedBf16(u(at, 0), n(at, 1), u(at, 2), u(at, 3), n(at, 4), n(at, 5)); break;
      case 2: embedF32(u(at, 0), n(at, 1), u(at, 2), u(at, 3), n(at, 4), n(at, 5)); break;
      case 3: rmsNorm(u(at, 0), n(at, 1), u(at, 2), n(at, 3), n(at, 4), n(at, 5), u(at, 6), f(at, 7)); break;
      case 4: rmsNormHeads(u(at, 0), n(at, 1), n(at, 2), n(at, 3), n(at, 4), n(at, 5), u(at, 6), f(at, 7)); break;
      case 5: matmulBf16(u(at, 0), n(at, 1), u(at, 2), n(at, 3), n(at, 4), u(at, 5), n(at, 6), n(at, 7)); break;
      case 6: matmulF32(u(at, 0), n(at, 1), u(at, 2), n(at, 3), n(at, 4), u(at, 5), n(at, 6), n(at, 7)); break;
      case 7:
        matmulHeadsBf16(
          u(at, 0), n(at, 1), n(at, 2), u(at, 3), n(at, 4), n(at, 5), n(at, 6), n(at, 7), u(at, 8), n(at, 9), n(at, 10), n(at, 11));
        break;
      case 8:
        matmulHeadsF32(
          u(at, 0), n(at, 1), n(at, 2), u(at, 3), n(at, 4), n(at, 5), n(at, 6), n(at, 7), u(at, 8), n(at, 9), n(at, 10), n(at, 11));
        break;
      case 9: ropeInterleaved(u(at, 0), n(at, 1), n(at, 2), n(at, 3), n(at, 4), n(at, 5), u(at, 6), u(at, 7)); break;
      case 10: ropeHalves(u(at, 0), n(at, 1), n(at, 2), n(at, 3), n(at, 4), n(at, 5), u(at, 6), u(at, 7)); break;
      case 11:
        mlaStoreSpans(u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), u(at, 10));
        break;
      case 12:
        gqaStoreSpans(u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), u(at, 10));
        break;
      case 13:
        mlaAttentionSpans(
          u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), n(at, 10),
          u(at, 11), f(at, 12), u(at, 13));
        break;
      case 14:
        gqaAttentionSpans(
          u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), n(at, 10), u(at, 11), f(at, 12), u(at, 13));
        break;
      case 15: addInPlace(u(at, 0), u(at, 1), n(at, 2)); break;
      case 16: siluMul(u(at, 0), n(at, 1), u(at, 2), n(at, 3), n(at, 4), n(at, 5)); break;
      case 17:
        gateSigmoid(
          u(at, 0), u(at, 1), u(at, 2), n(at, 3), n(at, 4), u(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), f(at, 10), u(at, 11));
        break;
      case 18: gateSoftmax(u(at, 0), u(at, 1), u(at, 2), n(at, 3), n(at, 4), n(at, 5), n(at, 6), u(at, 7)); break;
      case 19: countExperts(u(at, 0), u(at, 1), n(at, 2)); break;
      case 20:
        sortPairs(
          u(at, 0), n(at, 1), n(at, 2), n(at, 3), n(at, 4), u(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), u(at, 10), u(at, 11), u(at, 12), u(at, 13), u(at, 14));
        break;
      case 21:
        runExperts(u(at, 0), u(at, 1), u(at, 2), u(at, 3), n(at, 4), u(at, 5), u(at, 6), u(at, 7), u(at, 8));
        break;
      case 22:
        combineRows(u(at, 0), n(at, 1), u(at, 2), u(at, 3), u(at, 4), n(at, 5), u(at, 6), n(at, 7), n(at, 8), n(at, 9));
        break;
      case 23: copyBytes(u(at, 0), u(at, 1), n(at, 2)); break;
      case 24: quantizeRows(u(at, 0), u(at, 1), u(at, 2), n(at, 3), n(at, 4), n(at, 5)); break;
      case 25: matmulInt8(u(at, 0), n(at, 1), u(at, 2), u(at, 3), n(at, 4), u(at, 5), n(at, 6), n(at, 7)); break;
      case 26:
        matmulHeadsInt8(u(at, 0), n(at, 1), n(at, 2), u(at, 3), u(at, 4), n(at, 5), n(at, 6), u(at, 7), n(at, 8), n(at, 9), n(at, 10));
        break;
      case 27:
        mlaStoreSpansInt8(u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), u(at, 10));
        break;
      case 28:
        gqaStoreSpansInt8(u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), u(at, 10));
        break;
      case 29:
        mlaAttentionSpansInt8(
          u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), n(at, 10),
          u(at, 11), f(at, 12), u(at, 13));
        break;
      case 30:
        gqaAttentionSpansInt8(
          u(at, 0), n(at, 1), u(at, 2), n(at, 3), u(at, 4), n(at, 5), n(at, 6), n(at, 7), n(at, 8), n(at, 9), n(at, 10), u(at, 11), f(at, 12), u(at, 13));
        break;
      case 31: quantizeInt8(u(at, 0), u(at, 1), u(at, 2), n(at, 3), n(at, 4), n(at, 5)); break;
      case 32: dequantizeInt8(u(at, 0), n(at, 1), u(at, 2), u(at, 3), n(at, 4), n(at, 5)); break;
      default: unreachable();
    }
  }
}

/**
 * The experts of one share that sortPairs has written: for each segment its rows are gathered (a single one is read where it lies), and its slot's own
 * program is run, which finds y, x and the number of rows in the three words at `variables`. Replies lie in the order of pairs.
 * programs: u32 [own slots][2], address and bytes; traps where the address is 0.
 */
export function runExperts(
  share: usize, segments: usize, pairRows: usize, rows: usize, rowBytes: i32, gathered: usize, replies: usize, programs: usize, variables: usize,
): void {
  const bytes = <usize>rowBytes;
  segments += <usize>load<u32>(share) << 3;
  const firstPair = <usize>load<u32>(share, 8);
  pairRows += firstPair << 2;
  let y = replies + firstPair * bytes;
  for (const end = segments + (<usize>load<u32>(share, 4) << 3); segments < end; segments += 8) {
    const count = load<i32>(segments, 4);
    const program = programs + (<usize>(load<u32>(segments) >> 16) << 3);
    if (!load<u32>(program)) unreachable();
    let x = gathered;
    if (count == 1) x = rows + <usize>load<u32>(pairRows) * bytes;
    else gatherRows(gathered, rows, pairRows, count, rowBytes);
    store<u32>(variables, <u32>y);
    store<u32>(variables, <u32>x, 4);
    store<i32>(variables, count, 8);
    runProgram(<usize>load<u32>(program), load<i32>(program, 4));
    pairRows += <usize>count << 2;
    y += <usize>count * bytes;
  }
}
