/** Sampling parameters that ask for nothing. @module */
import { samplingRecord } from '../src/calls/call.ts';
import { generateOptionsSchema, parseOptions } from '../src/options/options.ts';

export const GREEDY = samplingRecord(parseOptions(generateOptionsSchema, { temperature: 0 }, 'bench'), 0);
