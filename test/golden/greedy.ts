/** Sampling parameters that ask for nothing, and sequences with them. */
import { samplingRecord } from '../../src/calls/call.ts';
import { generateOptionsSchema, parseOptions } from '../../src/options/options.ts';
import { NO_TERMS } from '../../src/protocol/constructors.ts';
import type { Sequence } from '../../src/protocol/messages.ts';

export const GREEDY = samplingRecord(parseOptions(generateOptionsSchema, { temperature: 0 }, 'test'), 0);

export const greedySequence = (request: number, prompt: number[], max_tokens: number, choice = 0): Sequence => ({
  request,
  choice,
  prompt,
  max_tokens,
  sampling: GREEDY,
  ...NO_TERMS,
});
