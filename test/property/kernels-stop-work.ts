/**
 * Kernels with seconds to hours of work before them, in one small memory: rows that all lie at the same place, a sequence whose blocks are all the same.
 * @module
 */
import { attentionScratchBytes, gqaLayerBytes, type Kernels, mlaLayerBytes, packedBytes } from '../../src/model/kernels/kernels.ts';
import { KernelRecorder } from '../../src/model/kernels/program.ts';

export const PAGES = 1024;

/** Words by which the two threads talk, after the guard page. */
export const CONTROL_AT = 65_536;
/** `thread`: the worker's id in the operating system, away from `stop`, behind which kernels tell how far they are. */
export const WORD = { command: 0, running: 1, ended: 2, stop: 3, thread: 64 } as const;
export const WORDS = 65;
/** What `ended` says. */
export const ENDED = { not: 0, stopped: 1, returned: 2, failed: 3 } as const;
export const LEAVE = -1;

const FIRST = 2 * 65_536;
const MANY = 2 ** 30;

const POSITIONS = 2 ** 20;
const BLOCK = 64;
const CHOICES = 2 ** 22;

export const LONG_WORK = [
  'one row by F32 weights, head by head',
  'many rows by F32 weights',
  'many rows by BF16 weights',
  'many rows by INT8 weights',
  'MLA over a million positions',
  'GQA over a million positions',
  'RMSNorm',
  'SiLU',
  'combine',
  'a program of two matrices of many rows',
  'the best four million of four million logits, sorted',
] as const;

/** The calls, by the index in LONG_WORK. */
export function longWork(kernels: Kernels, memory: WebAssembly.Memory): readonly (() => void)[] {
  let top = FIRST;
  const room = (bytes: number): number => {
    top = (top + 15) & ~15;
    const address = top;
    top += bytes;
    if (top > memory.buffer.byteLength) throw new RangeError('the memory of the long work is full');
    return address;
  };
  const words = (count: number, word: (i: number) => number): number => {
    const address = room(count * 4);
    new Uint32Array(memory.buffer, address, count).forEach((_, i, all) => {
      all[i] = word(i);
    });
    return address;
  };
  const table = (layerBytes: number): number => {
    const block = room(layerBytes);
    return words(POSITIONS / BLOCK, () => block);
  };
  const positions = (rows: number): number => words(rows, () => POSITIONS - 1);

  const [inDim, outDim] = [8192, 64];
  const matmul = (dtype: 'f32' | 'bf16', heads: boolean) => (): void => {
    top = FIRST;
    const [w, x, y] = [room(packedBytes(outDim, inDim, dtype)), room(inDim * 4), room(outDim * 4)];
    if (heads) kernels.matmulHeadsF32(y, 0, 0, x, 0, 0, 1, MANY, w, 0, inDim, outDim);
    else (dtype === 'f32' ? kernels.matmulF32 : kernels.matmulBf16)(y, 0, x, 0, MANY, w, inDim, outDim);
  };
  return [
    matmul('f32', true),
    matmul('f32', false),
    matmul('bf16', false),
    () => {
      top = FIRST;
      const [w, q, y] = [room(packedBytes(outDim, inDim, 'int8')), room(8 * inDim), room(outDim * 4)];
      // Rows of INT8 lie end to end, so a billion have no room: a billion heads of a few do.
      kernels.matmulHeadsInt8(y, 0, 0, q, q, 4, MANY, w, 0, inDim, outDim);
    },
    () => {
      top = FIRST;
      const [rows, heads, latent, rope] = [64, 16, 512, 64];
      const [out, q, scratch] = [room(heads * latent * 4), room(heads * (latent + rope) * 4), room(attentionScratchBytes(rows, heads))];
      const blocks = table(mlaLayerBytes(BLOCK, latent, rope));
      kernels.mlaAttention(out, 0, q, 0, rows, heads, latent, rope, blocks, BLOCK, 0, positions(rows), 0, 0.1, scratch);
    },
    () => {
      top = FIRST;
      const [rows, heads, kvHeads, headDim] = [64, 32, 4, 128];
      const [out, q, scratch] = [room(heads * headDim * 4), room(heads * headDim * 4), room(attentionScratchBytes(rows, heads))];
      const blocks = table(gqaLayerBytes(BLOCK, kvHeads, headDim));
      kernels.gqaAttention(out, 0, q, 0, rows, heads, kvHeads, headDim, blocks, BLOCK, 0, positions(rows), 0.1, scratch);
    },
    () => {
      top = FIRST;
      const [x, weight] = [room(inDim * 4), room(inDim * 4)];
      kernels.rmsNorm(x, 0, x, 0, MANY, inDim, weight, 1e-6);
    },
    () => {
      top = FIRST;
      kernels.siluMul(room(inDim * 4), 0, room(inDim * 8), 0, MANY, inDim);
    },
    () => {
      top = FIRST;
      const [rows, topK, dim] = [2 ** 19, 8, 8192];
      const [x, row] = [room(dim * 4), room(dim * 4)];
      kernels.combineRowsAt(
        x,
        0,
        words(rows * topK, () => row),
        room(rows * topK * 4),
        topK,
        0,
        0,
        rows,
        dim,
      );
    },
    () => {
      top = FIRST;
      const [w, x, y, program] = [room(packedBytes(outDim, inDim, 'f32')), room(inDim * 4), room(outDim * 4), room(128)];
      const recorder = new KernelRecorder(new Int32Array(memory.buffer));
      const { bytes } = recorder.capture(program, 128, () => {
        for (const rows of [1, MANY]) recorder.kernels.matmulF32(y, 0, x, 0, rows, w, inDim, outDim);
      });
      kernels.runProgram(program, bytes);
    },
    () => {
      top = FIRST;
      const logits = words(CHOICES, (i) => Math.imul(i, 0x9e3779b1) & 0x3fffffff); // floats from 0 to 2, in no order
      kernels.topLogits(room(CHOICES * 4), room(CHOICES * 4), logits, CHOICES, CHOICES);
    },
  ];
}
