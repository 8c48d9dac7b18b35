/**
 * The record that sampleRow reads: 17 words, drawn in assembly/sampling.ts.
 * @module
 */

/** Word offsets of the record. */
export const SAMPLING_WORD = Object.freeze({
  seedLow: 0,
  seedHigh: 1,
  choice: 2,
  position: 3,
  temperature: 4,
  topK: 5,
  topP: 6,
  minP: 7,
  repetitionPenalty: 8,
  frequencyPenalty: 9,
  presencePenalty: 10,
  biasCount: 11,
  biasAddress: 12,
  outputCount: 13,
  outputAddress: 14,
  banCount: 15,
  banAddress: 16,
});

export const SAMPLING_WORDS = 17;

/** What a draw depends on. Lists lie in the segment: bias pairs (id u32, f32), output pairs (id u32, times u32), banned ids u32. */
export type SamplingParams = {
  seedLow: number;
  seedHigh: number;
  /** Index of the choice within the request (n > 1). */
  choice: number;
  /** Absolute position that the token will take. */
  position: number;
  /** 0 is greedy: the argmax after bias, penalties and bans. */
  temperature: number;
  /** 0 is off. */
  topK: number;
  /** 1 is off. */
  topP: number;
  /** 0 is off. */
  minP: number;
  /** 1 is off. */
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  biasCount: number;
  biasAddress: number;
  outputCount: number;
  outputAddress: number;
  banCount: number;
  banAddress: number;
};

const FLOATS: ReadonlySet<string> = new Set(['temperature', 'topP', 'minP', 'repetitionPenalty', 'frequencyPenalty', 'presencePenalty']);
const WORDS = Object.entries(SAMPLING_WORD) as [keyof SamplingParams, number][];

/** Writes the record at `address` (a multiple of 4). */
export function writeSamplingParams(memory: WebAssembly.Memory, address: number, params: SamplingParams): void {
  const words = new Uint32Array(memory.buffer, address, SAMPLING_WORDS);
  const floats = new Float32Array(memory.buffer, address, SAMPLING_WORDS);
  for (const [name, word] of WORDS) {
    if (FLOATS.has(name)) floats[word] = params[name];
    else words[word] = params[name];
  }
}
