/** Sampling parameters that ask for nothing. */
import { samplingRecord } from '../../src/call.ts';
import { generateOptionsSchema, parseOptions } from '../../src/options.ts';

export const GREEDY = samplingRecord(parseOptions(generateOptionsSchema, { temperature: 0 }, 'test'), 0);
