/** What fast-check draws for an exchange of tokens, beside its ranks: ragged, empty and narrow ones too. */
import fc from 'fast-check';
import { SEGMENTS } from '../fabric/segments.ts';

export const EXCHANGE = {
  hidden: fc.integer({ min: 1, max: 40 }),
  top_k: fc.integer({ min: 1, max: 4 }),
  tokens_max: fc.integer({ min: 0, max: 6 }),
  experts: fc.integer({ min: 4, max: 24 }),
  segments: fc.constantFrom(...SEGMENTS),
  rounds: fc.integer({ min: 1, max: 4 }),
  seed: fc.nat(),
} as const;
