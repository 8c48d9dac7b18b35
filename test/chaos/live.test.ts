/** Worker threads of a live pod die, block and spin under load: they are found by their end or their silence, and no token is another. */
import { expect, it } from 'vitest';
import { chaos, LIVE_KINDS } from '../../src/chaos/index.ts';

it('each kind of strike is survived', async () => {
  const { strikes, calls, tokens, violations } = await chaos.live({ seed: 5, strikes: LIVE_KINDS.length, topology: 'pd:prefill=1,decode=1', workers: 2 });
  expect(violations).toEqual([]);
  expect(strikes.map(({ kind, struck }) => [kind, struck])).toEqual(LIVE_KINDS.map((kind) => [kind, true]));
  expect(calls).toBe(4 * LIVE_KINDS.length);
  expect(tokens).toBeGreaterThan(0);
});
