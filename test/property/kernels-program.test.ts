import { afterEach, describe, expect, it } from 'vitest';
import {
  attentionScratchBytes,
  gateScratchBytes,
  gqaLayerBytes,
  type Kernels,
  kvTileBytes,
  mlaLayerBytes,
  packedBytes,
} from '../../src/model/kernels/kernels.ts';
import { CAPTURED_NAMES, KernelRecorder } from '../../src/model/kernels/program.ts';
import { createArena, noise } from './kernels-arena.ts';

const arena = await createArena(16);
const { kernels, memory } = arena;
const words = new Int32Array(memory.buffer);
const bytes = new Uint8Array(memory.buffer);
afterEach(() => arena.reset());

const ROOM = 256;

/** A call of each kernel that a program may hold, its operands as unlike one another as they may be: one in another's place shows. */
function calls(): Partial<Record<keyof Kernels, (k: Kernels) => void>> {
  const floats = (count: number) => arena.floats(noise(count)(count));
  const halves = (count: number) => arena.halves(Uint16Array.from(noise(count)(count), (value) => 0x3f80 + ((value * 64) & 0x7f)));
  const [a, b, c, d, out] = [floats(1_024), floats(1_025), floats(1_026), floats(1_027), floats(2_048)];
  const [ids, ones, tables] = [arena.words([3, 1, 2, 0, 1, 5, 4, 2]), arena.words([1, 2, 3]), arena.words([floats(2_100), floats(2_200), floats(2_300)])];
  const positions = arena.words([5, 6, 9, 17, 3]);
  const spans = arena.words([0, 2, tables, 0, 2, 1, tables + 4, 4, 3, 1, tables, 1]);
  const scratch = arena.room(Math.max(kvTileBytes(16, 'int8') + attentionScratchBytes(2, 4), gateScratchBytes(12)));
  const [f32, bf16] = [floats(packedBytes(24, 6, 'f32') / 4), halves(packedBytes(24, 6, 'bf16') / 2)];
  const [int8, bytesOfNoise] = [floats(packedBytes(24, 6, 'int8') / 4), halves(64)];
  const rope = floats(18 * 8);
  const pairs = arena.words([1, 4, 0, 2, 1, 3]);
  // Of five experts in two times three slots, the second has two: where replicas begin, replicas, and what each slot holds.
  const map = arena.words([...[0, 1, 3, 4, 5, 6], ...[0, 3, 5, 1, 4, 2], ...[0, 2, 4, 1, 3, 1]]);
  const sorted = [arena.room(24), arena.room(48), arena.room(24), arena.room(24), arena.room(32)] as const;
  const [layerOffset, blockSize] = [32, 32];
  expect(Math.max(mlaLayerBytes(blockSize, 8, 4), gqaLayerBytes(blockSize, 2, 8))).toBeLessThan(2_048 * 4);
  const inner = new KernelRecorder(words);
  const variables = arena.words([0, 0, 0]);
  const [y, x, rows] = [0, 4, 8].map((word) => inner.variable(variables + word)) as [number, number, number];
  const expert = inner.capture(arena.room(64), 64, () => inner.kernels.matmulF32(y, 7, x, 7, rows, f32, 6, 5));
  const [share, segments] = [arena.words([1, 2, 1, 3]), arena.words([9, 9, 0, 2, (1 << 16) | 5, 1])];
  const programs = arena.words([expert.address, expert.bytes, expert.address, expert.bytes]);
  return {
    embedBf16: (k) => k.embedBf16(out, 9, bf16, ids, 5, 7),
    embedF32: (k) => k.embedF32(out, 9, a, ids, 5, 7),
    rmsNorm: (k) => k.rmsNorm(out, 9, a, 8, 3, 7, b, 1e-3),
    rmsNormHeads: (k) => k.rmsNormHeads(a, 40, 9, 4, 3, 7, b, 1e-3),
    matmulBf16: (k) => k.matmulBf16(out, 27, a, 7, 5, bf16, 6, 23),
    matmulF32: (k) => k.matmulF32(out, 27, a, 7, 5, f32, 6, 23),
    matmulHeadsBf16: (k) => k.matmulHeadsBf16(out, 60, 19, a, 30, 8, 5, 2, bf16, packedBytes(16, 5, 'bf16') / 2, 4, 13),
    matmulHeadsF32: (k) => k.matmulHeadsF32(out, 60, 19, a, 30, 8, 5, 2, f32, packedBytes(16, 5, 'f32') / 2, 4, 13),
    ropeInterleaved: (k) => k.ropeInterleaved(a, 50, 9, 3, 5, 8, positions, rope),
    ropeHalves: (k) => k.ropeHalves(a, 50, 9, 3, 5, 8, positions, rope),
    mlaStoreSpans: (k) => k.mlaStoreSpans(a, 21, b, 13, spans, 3, 8, 4, blockSize, layerOffset, positions),
    gqaStoreSpans: (k) => k.gqaStoreSpans(a, 21, b, 17, spans, 3, 2, 8, blockSize, layerOffset, positions),
    mlaAttentionSpans: (k) => k.mlaAttentionSpans(out, 41, a, 53, spans, 3, 4, 8, 4, blockSize, layerOffset, positions, 0.3, scratch),
    gqaAttentionSpans: (k) => k.gqaAttentionSpans(out, 41, a, 53, spans, 3, 4, 2, 8, blockSize, layerOffset, positions, 0.3, scratch),
    addInPlace: (k) => k.addInPlace(a, b, 37),
    siluMul: (k) => k.siluMul(out, 23, a, 45, 3, 21),
    gateSigmoid: (k) => k.gateSigmoid(out, c, a, 5, 12, d, 4, 3, 2, 1, 2.5, scratch),
    gateSoftmax: (k) => k.gateSoftmax(out, c, a, 5, 12, 3, 1, scratch),
    countExperts: (k) => k.countExperts(ones, pairs, 1),
    sortPairs: (k) => k.sortPairs(pairs, 7, 3, 2, 1, map, 5, 6, 3, 3, ...sorted),
    runExperts: (k) => k.runExperts(share, segments, ids, a, 24, d, out, programs, variables),
    copyBytes: (k) => k.copyBytes(out, a, 37),
    quantizeRows: (k) => k.quantizeRows(out, c, a, 9, 5, 8),
    matmulInt8: (k) => k.matmulInt8(out, 27, bytesOfNoise, c, 5, int8, 6, 23),
    matmulHeadsInt8: (k) => k.matmulHeadsInt8(out, 60, 19, bytesOfNoise, c, 5, 2, int8, packedBytes(16, 4, 'int8') / 2, 4, 13),
    mlaStoreSpansInt8: (k) => k.mlaStoreSpansInt8(a, 21, b, 13, spans, 3, 8, 4, blockSize, layerOffset, positions),
    gqaStoreSpansInt8: (k) => k.gqaStoreSpansInt8(a, 21, b, 17, spans, 3, 2, 8, blockSize, layerOffset, positions),
    mlaAttentionSpansInt8: (k) => k.mlaAttentionSpansInt8(out, 41, a, 53, spans, 3, 4, 8, 4, blockSize, layerOffset, positions, 0.3, scratch),
    gqaAttentionSpansInt8: (k) => k.gqaAttentionSpansInt8(out, 41, a, 53, spans, 3, 4, 2, 8, blockSize, layerOffset, positions, 0.3, scratch),
    quantizeInt8: (k) => k.quantizeInt8(out, c, a, 9, 5, 8),
    dequantizeInt8: (k) => k.dequantizeInt8(out, 9, bytesOfNoise, c, 5, 8),
    combineRows: (k) => k.combineRows(out, 9, a, ids, b, 2, c, 8, 4, 7),
  };
}

/** What the memory holds after `act`, but for a room; then all is as before. */
function memoryAfter(act: () => void, room: number): Buffer {
  const before = bytes.slice();
  act();
  const result = Buffer.from(bytes.slice().fill(0, room, room + ROOM));
  bytes.set(before);
  return result;
}

describe('a program of kernel calls', () => {
  it.each(CAPTURED_NAMES)('should do what the call does, each operand in its place: %s', (name) => {
    const call = calls()[name] as (k: Kernels) => void;
    const room = arena.room(ROOM);
    const recorder = new KernelRecorder(words);
    const untouched = memoryAfter(() => {}, room);
    const direct = memoryAfter(() => call(kernels), room);
    expect(Buffer.compare(direct, untouched)).not.toBe(0);
    const program = recorder.capture(room, ROOM, () => call(recorder.kernels));
    expect(
      Buffer.compare(
        memoryAfter(() => kernels.runProgram(program.address, program.bytes), room),
        direct,
      ),
    ).toBe(0);
  });

  it('should do many calls in their order', () => {
    const [x, y, room] = [arena.floats([1, 2, 3]), arena.floats([10, 20, 30]), arena.room(ROOM)];
    const recorder = new KernelRecorder(words);
    const program = recorder.capture(room, ROOM, () => {
      recorder.kernels.addInPlace(x, y, 3); // x = 11 22 33
      recorder.kernels.addInPlace(y, x, 2); // y = 21 42 30
      recorder.kernels.addInPlace(x, y, 3);
    });
    expect([...arena.readFloats(x, 3)]).toEqual([1, 2, 3]);
    kernels.runProgram(program.address, program.bytes);
    expect([...arena.readFloats(x, 3)]).toEqual([32, 64, 63]);
    kernels.runProgram(program.address, 0);
    expect([...arena.readFloats(x, 3)]).toEqual([32, 64, 63]);
  });

  it('should read what varies from memory whenever it runs', () => {
    const [x, y, z, room] = [arena.floats([1, 2, 3]), arena.floats([10, 20, 30]), arena.floats([100, 200, 300]), arena.room(ROOM)];
    const varying = arena.words([y, 2]);
    const recorder = new KernelRecorder(words);
    const [from, count] = [recorder.variable(varying), recorder.variable(varying + 4)];
    const program = recorder.capture(room, ROOM, () => recorder.kernels.addInPlace(x, from, count));
    kernels.runProgram(program.address, program.bytes);
    expect([...arena.readFloats(x, 3)]).toEqual([11, 22, 3]);
    words.set([z, 3], varying / 4);
    kernels.runProgram(program.address, program.bytes);
    expect([...arena.readFloats(x, 3)]).toEqual([111, 222, 303]);
  });

  it('should be refused while it is captured: beyond its room, operands that are none, kernels that it cannot call', () => {
    const room = arena.room(ROOM);
    const recorder = new KernelRecorder(words);
    const variable = recorder.variable(room);
    const capture = (make: (k: Kernels) => void) => () => recorder.capture(room, 24, () => make(recorder.kernels));
    expect(capture((k) => [1, 2].forEach((count) => void k.addInPlace(room, room, count)))).toThrow('more than its room');
    expect(capture((k) => k.addInPlace(room, room, 0.5))).toThrow('operand 2 of addInPlace is 0.5');
    expect(capture((k) => k.addInPlace(room, -4, 1))).toThrow('operand 1');
    expect(capture((k) => k.addInPlace(room, variable + 4, 1))).toThrow('operand 1');
    expect(capture((k) => k.addInPlace(room, room, 2 * variable))).toThrow('operand 2');
    expect(capture((k) => k.sampleRow(room, 1, room, room))).toThrow('cannot call sampleRow');
    expect(capture((k) => k.addInPlace(room, variable, 1))).not.toThrow();
    expect(() => recorder.kernels.addInPlace(room, room, 1)).toThrow('more than its room');
  });

  it('should trap at a word that is no instruction, and where an expert has no program', () => {
    const room = arena.words([255]);
    expect(() => kernels.runProgram(room, 4)).toThrow(WebAssembly.RuntimeError);
    const [share, segments, none] = [arena.words([0, 1, 0, 1]), arena.words([0, 1]), arena.words([0, 0])];
    expect(() => kernels.runExperts(share, segments, none, room, 4, room, room, none, none)).toThrow(WebAssembly.RuntimeError);
  });
});
