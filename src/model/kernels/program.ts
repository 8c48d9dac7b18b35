/**
 * Programs of kernel calls in shared memory: captured once by making the calls on a recorder, launched by `runProgram` (xDeepServe §2: decode runs in
 * graph mode, one launch a step). Their form is drawn in assembly/program.ts, which runs them.
 * @module
 */
import { assert, invariantBroken } from '../../protocol/errors.ts';
import { KERNEL_NAMES, type Kernels } from './kernels.ts';

/** By opcode, from 1 on: the kernels that a program may call, and their operands: u a word, f a float. */
const INSTRUCTIONS = [
  ['embedBf16', 'uuuuuu'],
  ['embedF32', 'uuuuuu'],
  ['rmsNorm', 'uuuuuuuf'],
  ['rmsNormHeads', 'uuuuuuuf'],
  ['matmulBf16', 'uuuuuuuu'],
  ['matmulF32', 'uuuuuuuu'],
  ['matmulHeadsBf16', 'uuuuuuuuuuuu'],
  ['matmulHeadsF32', 'uuuuuuuuuuuu'],
  ['ropeInterleaved', 'uuuuuuuu'],
  ['ropeHalves', 'uuuuuuuu'],
  ['mlaStoreSpans', 'uuuuuuuuuuu'],
  ['gqaStoreSpans', 'uuuuuuuuuuu'],
  ['mlaAttentionSpans', 'uuuuuuuuuuuufu'],
  ['gqaAttentionSpans', 'uuuuuuuuuuuufu'],
  ['addInPlace', 'uuu'],
  ['siluMul', 'uuuuuu'],
  ['gateSigmoid', 'uuuuuuuuuufu'],
  ['gateSoftmax', 'uuuuuuuu'],
  ['countExperts', 'uuu'],
  ['sortPairs', 'uuuuuuuuuuuuuuu'],
  ['runExperts', 'uuuuuuuuu'],
  ['combineRows', 'uuuuuuuuuu'],
  ['copyBytes', 'uuu'],
  ['quantizeRows', 'uuuuuu'],
  ['matmulInt8', 'uuuuuuuu'],
  ['matmulHeadsInt8', 'uuuuuuuuuuu'],
  ['mlaStoreSpansInt8', 'uuuuuuuuuuu'],
  ['gqaStoreSpansInt8', 'uuuuuuuuuuu'],
  ['mlaAttentionSpansInt8', 'uuuuuuuuuuuufu'],
  ['gqaAttentionSpansInt8', 'uuuuuuuuuuuufu'],
  ['quantizeInt8', 'uuuuuu'],
  ['dequantizeInt8', 'uuuuuu'],
] as const satisfies readonly (readonly [keyof Kernels, string])[];

/** Kernels that a program may call. */
export const CAPTURED_NAMES: readonly (keyof Kernels)[] = INSTRUCTIONS.map(([name]) => name);

const HEADER = { opcode: 0, operands: 8, variables: 12 } as const;
const WORDS = 2 ** 32;
/** Addresses and counts are below 2³², so what a variable stands for is not: its address, moved up by one of these strides. */
const VARIABLE_STRIDE = 2 ** 40;
/** So many that each stride is told from a sum of others. */
const VARIABLES_MAX = 4_096;

/** Where a captured program lies, an offset within the segment. */
export type Program = { readonly address: number; readonly bytes: number };

export class KernelRecorder {
  /** Calls of these are written down, not made. */
  readonly kernels: Kernels;
  readonly #words: Int32Array;
  readonly #bits = new Float32Array(1);
  readonly #bitsAsWord = new Int32Array(this.#bits.buffer);
  /** By what stands for it as an operand: its address. */
  readonly #variables = new Map<number, number>();
  #next = 0;
  #end = 0;

  /** `words`: of the segment. */
  constructor(words: Int32Array) {
    this.#words = words;
    const refuse = (name: string) => (): void => invariantBroken(`a program of kernels cannot call ${name}`);
    const kernels: Record<string, unknown> = Object.fromEntries(KERNEL_NAMES.map((name) => [name, refuse(name)]));
    INSTRUCTIONS.forEach(([name, operands], index) => {
      kernels[name] = (...values: number[]): void => this.#write(name, index + 1, operands, values);
    });
    this.kernels = kernels as Kernels;
  }

  /** An operand that is read from the word at `address` whenever the program runs. It is passed on as it is: no sum or product of it is one. */
  variable(address: number): number {
    assert(this.#variables.size < VARIABLES_MAX, `a recorder knows at most ${VARIABLES_MAX} variables`);
    const operand = (this.#variables.size + 1) * VARIABLE_STRIDE + address;
    this.#variables.set(operand, address);
    return operand;
  }

  /** Writes down the calls that `make` makes, from offset `address` on. Fails where they need more than `room` bytes. */
  capture(address: number, room: number, make: () => void): Program {
    assert(this.#end === 0, 'a program is being captured already');
    this.#next = address >>> 2;
    this.#end = (address + room) / 4;
    try {
      make();
      return { address, bytes: this.#next * 4 - address };
    } finally {
      this.#end = 0;
    }
  }

  #write(name: string, opcode: number, operands: string, values: readonly number[]): void {
    const words = this.#words;
    assert(values.length === operands.length, `${name} takes ${operands.length} operands, and was called with ${values.length}`);
    if (this.#next + 1 + values.length > this.#end) invariantBroken(`a program of kernels needs more than its room: ${name} would end beyond it`);
    const header = this.#next++;
    let variables = 0;
    for (const [index, value] of values.entries()) {
      if (operands[index] === 'f') {
        this.#bits[0] = value;
        words[this.#next++] = this.#bitsAsWord[0] as number;
        continue;
      }
      const variable = this.#variables.get(value);
      assert(variable !== undefined || (Number.isInteger(value) && value >= 0 && value < WORDS), `operand ${index} of ${name} is ${value}`);
      if (variable !== undefined) variables |= 1 << index;
      words[this.#next++] = variable ?? value;
    }
    words[header] = (opcode << HEADER.opcode) | (values.length << HEADER.operands) | (variables << HEADER.variables);
  }
}
