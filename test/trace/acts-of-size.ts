/** Acts whose records are as long as a test needs them. @module */
import { type Act, firstAct } from '../../src/runtime/cast.ts';

/** Of a prompt of so many tokens, each of three bytes in the record. */
export const actOf = (thread: number, number: number, length: number): Act => ({
  number: firstAct(thread, 1) + number,
  to: 'request/1',
  from: 'frontend/0',
  message: { type: 'SUBMIT', sequences: [{ request: 1, choice: 0, prompt: Array.from({ length }, () => 1_000), max_tokens: 1 } as never], deadline_ms: -1 },
  cause: 0,
  birth: null,
  before: null,
  after: null,
  isExpected: true,
  commands: [],
});
